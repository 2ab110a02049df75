/** A root, a timestamp CA and a TSU, and tokens of that TSU with their verdicts. */
import assert from 'node:assert/strict';
import { digestAlgorithms } from '../../pki/algorithms.ts';
import type { Der } from '../../pki/der.ts';
import { type InvalidReason, type TimestampExpectation, verifyTimestamp } from '../../pki/tsp-verify.ts';
import { type Identity, makeToken, sha256, TestPki, type TokenOptions } from './timestamp-fixtures.ts';

/** Extensions of a CA certificate. */
export const ca = (...more: readonly string[]): string[] => [
  'basicConstraints=critical,CA:TRUE',
  'keyUsage=critical,keyCertSign,cRLSign',
  'subjectKeyIdentifier=hash',
  ...more,
];
/** Extensions of a TSU certificate. */
export const tsu = (...more: readonly string[]): string[] => [
  'basicConstraints=CA:FALSE',
  'keyUsage=critical,digitalSignature',
  'extendedKeyUsage=critical,timeStamping',
  'subjectKeyIdentifier=hash',
  ...more,
];
export const rsa = (bits: number): string[] => ['-algorithm', 'RSA', '-pkeyopt', `rsa_keygen_bits:${bits}`];

export const data = Buffer.from('what was stamped');
export const hashedMessage = sha256(data);

export class TimestampWorld {
  readonly pki = new TestPki();
  readonly root: Identity = this.pki.issue('root', { extensions: ca() });
  readonly timestampCa: Identity = this.pki.issue('timestamp-ca', {
    issuer: this.root,
    extensions: ['basicConstraints=critical,CA:TRUE,pathlen:0', ...ca().slice(1)],
  });
  readonly good: Identity = this.pki.issue('tsu', { issuer: this.timestampCa, extensions: tsu() });
  readonly expectation: TimestampExpectation = {
    messageImprint: { algorithm: digestAlgorithms.sha256.oid, hashedMessage },
    roots: [this.root.certificate.raw],
    untrusted: [this.timestampCa.certificate.raw],
  };

  /** A token of the good TSU, or what the options make of it. */
  token(more: Partial<TokenOptions> = {}): Der {
    return makeToken({ signer: this.good, hashedMessage, ...more });
  }

  reasonOf(bytes: Uint8Array, more: Partial<TimestampExpectation> = {}): string {
    const verdict = verifyTimestamp(bytes, { ...this.expectation, ...more });
    return verdict.kind === 'valid' ? 'valid' : verdict.reason;
  }

  expectReason(reason: InvalidReason | 'valid', bytes: Uint8Array, more: Partial<TimestampExpectation> = {}): void {
    const verdict = verifyTimestamp(bytes, { ...this.expectation, ...more });
    assert.equal(verdict.kind === 'valid' ? 'valid' : verdict.reason, reason, JSON.stringify(verdict));
  }
}
