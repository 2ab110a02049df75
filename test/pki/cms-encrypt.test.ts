import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { randomBytes, X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { type EncryptOptions, encryptToRecipient } from '../../pki/cms-encrypt.ts';
import { type Identity, type IssueOptions, TestPki } from '../support/timestamp-fixtures.ts';
import { ca, rsa } from '../support/timestamp-world.ts';

const ec = (curve: string): string[] => ['-algorithm', 'EC', '-pkeyopt', `ec_paramgen_curve:${curve}`];
const usage = { rsa: 'keyUsage=critical,keyEncipherment', ec: 'keyUsage=critical,keyAgreement' } as const;
const segment = 65_536;

/** The content in chunks of these lengths, over and over. */
async function* inChunks(content: Uint8Array, lengths: readonly number[] = [content.length || 1]): AsyncGenerator<Uint8Array> {
  for (let at = 0, i = 0; at < content.length; i += 1) {
    const length = lengths[i % lengths.length]!;
    yield content.subarray(at, at + length);
    at += length;
  }
}

const options = (more: Partial<EncryptOptions> = {}): EncryptOptions => ({ now: new Date(), randomBytes, ...more });

const collect = async (pieces: AsyncIterable<Buffer>): Promise<Buffer> => {
  const all: Buffer[] = [];
  for await (const piece of pieces) all.push(piece);
  return Buffer.concat(all);
};

describe('encryption to the holder of a certificate', () => {
  const pki = new TestPki();
  after(() => pki.close());
  const root = pki.issue('root', { extensions: ca() });
  const issue = (name: string, more: Omit<IssueOptions, 'issuer'>): Identity => pki.issue(name, { issuer: root, ...more });
  const recipients = [
    issue('rsa-2048', { key: rsa(2_048), extensions: [usage.rsa] }),
    issue('rsa-3072', { key: rsa(3_072), extensions: [usage.rsa] }),
    issue('ec-p256', { key: ec('P-256'), extensions: [usage.ec] }),
    issue('ec-p384', { key: ec('P-384'), extensions: [usage.ec] }),
    issue('ec-p521', { key: ec('P-521'), extensions: [usage.ec] }),
  ] as const;
  const [rsaRecipient, , ecRecipient] = recipients;

  /** `openssl cms -decrypt` over these octets: its exit status, and the content that it wrote. */
  const decrypt = (encrypted: Uint8Array, who: readonly string[]): { status: number | null; content: Buffer; stderr: string } => {
    const output = join(pki.folder, 'decrypted');
    pki.file('decrypted', '');
    const input = pki.file('encrypted.cms', encrypted);
    const call = ['cms', '-decrypt', '-binary', '-inform', 'DER', '-in', input, ...who, '-out', output];
    const { status, stderr } = spawnSync('openssl', call, { encoding: 'utf8' });
    return { status, content: readFileSync(output), stderr };
  };
  const holder = (identity: Identity): string[] => ['-recip', identity.certificateFile, '-inkey', identity.keyFile];
  const expectDecrypted = (encrypted: Uint8Array, identity: Identity, content: Uint8Array): void => {
    const found = decrypt(encrypted, holder(identity));
    assert.equal(found.status, 0, found.stderr);
    assert.ok(found.content.equals(content), `${identity.name}: ${content.length} octets became others`);
  };
  const encrypt = (content: Uint8Array, identity: Identity, lengths?: readonly number[]): Promise<Buffer> =>
    collect(encryptToRecipient(inChunks(content, lengths), identity.certificate, options()));

  for (const recipient of recipients) {
    test(`OpenSSL decrypts what was encrypted to ${recipient.name}`, async () => {
      for (const octets of [0, 1, 15, 16, 17, segment - 1, segment, segment + 1, 2 * segment]) {
        const content = randomBytes(octets);
        expectDecrypted(await encrypt(content, recipient), recipient, content);
      }
      const content = randomBytes(5_000_003);
      expectDecrypted(await encrypt(content, recipient, [1, 0, 7, segment - 1, segment, 3 * segment + 1, 11]), recipient, content);
    });
  }

  test('OpenSSL names the parts', async () => {
    const print = async (identity: Identity): Promise<string> => {
      const file = pki.file('print.cms', await encrypt(Buffer.from('content'), identity));
      return pki.openssl('cms', '-cmsout', '-print', '-inform', 'DER', '-in', file).toString();
    };
    const keyTrans = await print(rsaRecipient);
    for (const part of [
      /contentType: id-smime-ct-authEnvelopedData/,
      /d\.ktri: +\n +version: 0/,
      /issuer: O=Test, CN=root\n +serialNumber: 4098/,
      /algorithm: rsaesOaep/,
      /contentType: pkcs7-data/,
      /algorithm: aes-256-gcm/,
      /authAttrs:\n +<ABSENT>/,
      /mac: *\n +0000 - (?:[0-9a-f]{2}[ -]){14}/,
      /unauthAttrs:\n +<ABSENT>/,
    ]) {
      assert.match(keyTrans, part);
    }
    assert.equal(keyTrans.match(/:sha256\n/g)?.length, 2, keyTrans);
    const keyAgree = await print(ecRecipient);
    for (const part of [
      /d\.kari: +\n +version: 3/,
      /d\.originatorKey: +\n +algorithm: +\n +algorithm: id-ecPublicKey/,
      /algorithm: dhSinglePass-stdDH-sha256kdf-scheme/,
      /:id-aes256-wrap/,
    ]) {
      assert.match(keyAgree, part);
    }
  });

  test('nobody else decrypts it, and a change does not go unseen', async () => {
    const content = Buffer.from('only for the recipient '.repeat(10));
    const others = [issue('other-rsa', { key: rsa(2_048), extensions: [usage.rsa] }), issue('other-ec', { extensions: [usage.ec] })];
    for (const [i, recipient] of [rsaRecipient, ecRecipient].entries()) {
      const encrypted = await encrypt(content, recipient);
      assert.ok(!encrypted.includes('only for'));
      const other = others[i]!;
      const wrongKey = ['-recip', recipient.certificateFile, '-inkey', other.keyFile];
      for (const who of [holder(other), ['-inkey', other.keyFile], wrongKey]) {
        const found = decrypt(encrypted, who);
        assert.notEqual(found.status, 0);
        assert.ok(!found.content.includes('only for'));
      }
      // From the end: 6 octets of ends, 18 of the mac, 4 of ends, the ciphertext.
      for (const fromEnd of [7, 30]) {
        const changed = Buffer.from(encrypted);
        changed[changed.length - fromEnd]! ^= 1;
        assert.notEqual(decrypt(changed, holder(recipient)).status, 0, `octet ${fromEnd} from the end`);
      }
      assert.notEqual(decrypt(encrypted.subarray(0, -6), holder(recipient)).status, 0);
    }
  });

  test('two encryptions share neither key nor nonce, and the key is wiped', async () => {
    const asked: { readonly buffer: Buffer; readonly original: Buffer }[] = [];
    const recording = (octets: number): Buffer => {
      const buffer = randomBytes(octets);
      asked.push({ buffer, original: Buffer.from(buffer) });
      return buffer;
    };
    for (const { certificate } of [ecRecipient, rsaRecipient]) {
      asked.length = 0;
      const content = Buffer.alloc(100);
      const encrypted = await collect(encryptToRecipient(inChunks(content), certificate, options({ randomBytes: recording })));
      assert.deepEqual(
        asked.map(({ original }) => original.length),
        [32, 12],
      );
      const [key, nonce] = asked.map(({ original }) => original);
      assert.ok(!encrypted.includes(key!));
      assert.ok(encrypted.includes(nonce!));
      assert.ok(asked[0]!.buffer.every((octet) => octet === 0));
    }
    const short = options({ randomBytes: () => new Uint8Array(8) });
    assert.throws(() => encryptToRecipient(inChunks(Buffer.alloc(1)), ecRecipient.certificate, short), RangeError);
  });

  test('a certificate without keyUsage, and one with an unusual serial number', async () => {
    const content = Buffer.from('content');
    for (const [name, key] of [
      ['rsa-any-use', rsa(2_048)],
      ['ec-any-use', ec('P-256')],
    ] as const) {
      const recipient = issue(name, { key, extensions: ['basicConstraints=CA:FALSE'] });
      expectDecrypted(await encrypt(content, recipient), recipient, content);
    }
    const certificateFile = join(pki.folder, 'serial.pem');
    const serial = ['-set_serial', '0xf000000000000000000000000000000000000001'];
    pki.openssl('req', '-x509', '-key', ecRecipient.keyFile, '-subj', '/CN=serial', ...serial, '-out', certificateFile);
    const certificate = new X509Certificate(readFileSync(certificateFile));
    const recipient = { ...ecRecipient, certificateFile, certificate };
    expectDecrypted(await encrypt(content, recipient), recipient, content);
  });

  /** The content must not even be asked for. */
  const unread: AsyncIterable<Uint8Array> = {
    [Symbol.asyncIterator]: () => assert.fail('the content was asked for'),
  };
  const expectRefused = (certificate: X509Certificate, message: RegExp, more: Partial<EncryptOptions> = {}): void =>
    assert.throws(() => encryptToRecipient(unread, certificate, options(more)), { reason: 'recipient', message });

  test('a certificate of another use', () => {
    const refused = (name: string, key: readonly string[], extension: string, message: RegExp): void =>
      expectRefused(issue(name, { key, extensions: [extension] }).certificate, message);
    refused('rsa-signs', rsa(2_048), 'keyUsage=digitalSignature,nonRepudiation', /CN=rsa-signs: .*keyEncipherment/);
    refused('rsa-agrees', rsa(2_048), usage.ec, /keyEncipherment/);
    refused('ec-signs', ec('P-256'), 'keyUsage=digitalSignature', /keyAgreement/);
    refused('ec-enciphers', ec('P-256'), usage.rsa, /keyAgreement/);
    refused('critical', ec('P-256'), '1.2.3.4=critical,DER:0500', /1\.2\.3\.4/);
  });

  test('a key of another kind', () => {
    const refused = (name: string, key: readonly string[]): void =>
      expectRefused(issue(name, { key, extensions: ['basicConstraints=CA:FALSE'] }).certificate, /encryption is to RSA keys/);
    refused('ed25519', ['-algorithm', 'ED25519']);
    refused('rsa-1024', rsa(1_024));
    refused('rsa-pss', ['-algorithm', 'RSA-PSS', '-pkeyopt', 'rsa_keygen_bits:2048']);
    refused('secp256k1', ec('secp256k1'));

    // An even modulus: the certificate can be read, but nothing can be encrypted to it.
    const der = Buffer.from(rsaRecipient.certificate.raw);
    const modulus = Buffer.from(rsaRecipient.certificate.publicKey.export({ format: 'jwk' }).n as string, 'base64url');
    der[der.indexOf(modulus) + modulus.length - 1]! &= 0xfe;
    expectRefused(new X509Certificate(der), /CN=rsa-2048: nothing can be encrypted/);
    // A curve point that is none.
    const broken = Buffer.from(ecRecipient.certificate.raw);
    const x = Buffer.from(ecRecipient.certificate.publicKey.export({ format: 'jwk' }).x as string, 'base64url');
    broken.fill(0xff, broken.indexOf(x), broken.indexOf(x) + x.length);
    expectRefused(new X509Certificate(broken), /cannot be read/);
  });

  test('a certificate is valid from its first second to its last', async () => {
    const { certificate } = ecRecipient;
    const [first, last] = [certificate.validFromDate, certificate.validToDate];
    for (const now of [first, last]) {
      assert.ok((await collect(encryptToRecipient(inChunks(Buffer.alloc(1)), certificate, options({ now })))).length > 0);
    }
    expectRefused(certificate, /valid from/, { now: new Date(first.getTime() - 1) });
    expectRefused(certificate, /valid from/, { now: new Date(last.getTime() + 1) });
    expectRefused(certificate, /valid from/, { now: new Date(Number.NaN) });
  });

  test('what comes out keeps pace with what goes in', async () => {
    const chunk = randomBytes(10_007);
    const total = 64 * 1_024 * 1_024;
    let taken = 0;
    async function* content(): AsyncGenerator<Uint8Array> {
      for (; taken < total; taken += chunk.length) yield chunk;
    }
    let given = 0;
    let pieces = 0;
    let lagMax = 0;
    for await (const piece of encryptToRecipient(content(), ecRecipient.certificate, options())) {
      if (pieces === 0) assert.equal(taken, 0, 'the first piece needs no content');
      given += piece.length;
      pieces += 1;
      lagMax = Math.max(lagMax, taken - given);
      assert.ok(piece.length <= segment + 5);
    }
    assert.ok(lagMax <= segment + chunk.length, `${lagMax} octets were held`);
    assert.equal(pieces, 2 + Math.ceil(taken / segment));
  });

  test('content that is too long, fails or is no longer wanted', async () => {
    const { certificate } = ecRecipient;
    const content = randomBytes(100);
    const limited = (contentOctetsMax: number) =>
      collect(encryptToRecipient(inChunks(content, [33]), certificate, options({ contentOctetsMax })));
    expectDecrypted(await limited(100), ecRecipient, content);
    await assert.rejects(limited(99), { reason: 'content' });

    let closed = 0;
    async function* endless(): AsyncGenerator<Uint8Array> {
      try {
        for (;;) yield content;
      } finally {
        closed += 1;
      }
    }
    let pieces = 0;
    for await (const piece of encryptToRecipient(endless(), certificate, options())) {
      assert.ok(piece.length > 0);
      pieces += 1;
      if (pieces === 3) break;
    }
    assert.equal(closed, 1);

    async function* failing(): AsyncGenerator<Uint8Array> {
      yield randomBytes(2 * segment);
      throw new RangeError('the disk is gone');
    }
    const written: Buffer[] = [];
    const failed = (async () => {
      for await (const piece of encryptToRecipient(failing(), certificate, options())) written.push(piece);
    })();
    await assert.rejects(failed, /the disk is gone/);
    assert.equal(written.length, 3);
    assert.notEqual(decrypt(Buffer.concat(written), holder(ecRecipient)).status, 0);
  });
});
