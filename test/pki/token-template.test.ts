/** Tokens of every kind of key and digest, as others read them. */
import assert from 'node:assert/strict';
import { createHash, verify } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { TimeStampResp } from 'pkijs';
import { encode, oid, tag } from '../../pki/der.ts';
import { readSignerCertificate } from '../../pki/signer-certificate.ts';
import { attachCertificates } from '../../pki/token-certificates.ts';
import { serialOctets } from '../../pki/token-template.ts';
import { grantedResponse } from '../../pki/tsp-granted.ts';
import { parseTimeStampReq } from '../../pki/tsp-request.ts';
import { makeTemplate, stampWith, testPolicy, tokenOf } from '../support/software-tsu.ts';
import { canonicalDer } from '../support/strict-der.ts';
import { aStamp, checkProfile, hex, parseToken, signatureOptions, tokenWorld } from '../support/token-profile.ts';

const world = tokenWorld();
const { tsuOf } = world;

describe('tokens of every key and digest', () => {
  for (const algorithm of ['ec-p256', 'ec-p384', 'rsa-2048', 'rsa-pss-2048']) {
    for (const digest of ['sha256', 'sha384', 'sha512'] as const) {
      test(`${algorithm} with ${digest}: node, pkijs and openssl verify`, () => {
        const name = `${algorithm}-${digest}`;
        const tsu = tsuOf(algorithm);
        const options = { signatureDigest: digest, tsaName: 'subject', qualified: true } as const;
        const template = makeTemplate(tsu, options);
        const queryFile = `${name}.tsq`;
        for (const [certReq, nonce] of [
          [true, true],
          [false, false],
        ] as const) {
          world.pki.openssl(
            'ts',
            '-query',
            '-digest',
            'ab'.repeat(32),
            '-sha256',
            '-tspolicy',
            testPolicy,
            ...(certReq ? ['-cert'] : []),
            ...(nonce ? [] : ['-no_nonce']),
            '-out',
            queryFile,
          );
          const parsed = parseTimeStampReq(readFileSync(join(world.pki.folder, queryFile)));
          assert.equal(parsed.kind, 'request');
          if (parsed.kind !== 'request') return;
          const stamp = aStamp({ messageImprint: parsed.request.messageImprint, nonce: parsed.request.nonce, unixMillis: Date.now() });
          const bare = stampWith(tsu, template, digest, stamp);
          const token = certReq ? attachCertificates(bare, tsu.chain) : bare;
          const { attributes, signedData, certificates } = checkProfile(token, tsu, stamp, options);
          assert.equal(certificates.length, certReq ? 2 : 0);

          const signature = signedData.signerInfos[0]?.signature.valueBlock.valueHexView ?? new Uint8Array();
          const signed = encode(tag.set, ...attributes);
          assert.ok(verify(digest, signed, { key: tsu.identity.certificate.publicKey, ...signatureOptions(tsu, digest) }, signature));

          const response = grantedResponse(token);
          assert.equal(hex(canonicalDer(response)), hex(response));
          const { status, timeStampToken } = TimeStampResp.fromBER(Uint8Array.from(response));
          assert.deepEqual([status.status, status.statusStrings, status.failInfo], [0, undefined, undefined]);
          assert.ok(timeStampToken !== undefined);

          const others = certReq
            ? undefined
            : world.pki.file(`${name}.chain`, tsu.identity.certificate.toString() + world.hierarchy.authority.certificate.toString());
          if (tsu.scheme.kind === 'rsa-pss') {
            // `openssl ts` knows no PSS in a token: it verifies with the older PKCS #7 code. `openssl cms` does.
            const tokenFile = world.pki.file(`${name}.token`, token);
            // It takes authorities from -CAfile or the token, not from -certfile.
            const anchors = world.pki.file(
              `${name}.anchors`,
              world.hierarchy.root.certificate.toString() + world.hierarchy.authority.certificate.toString(),
            );
            const files = ['-in', tokenFile, '-CAfile', certReq ? world.hierarchy.rootFile : anchors, '-out', `${name}.content`];
            const more = others === undefined ? [] : ['-certfile', others];
            world.pki.openssl('cms', '-verify', '-binary', '-inform', 'DER', '-purpose', 'timestampsign', ...files, ...more);
            assert.equal(
              hex(readFileSync(join(world.pki.folder, `${name}.content`))),
              hex(checkProfile(token, tsu, stamp, options).content),
            );
          } else {
            const responseFile = world.pki.file(`${name}.tsr`, response);
            const more = others === undefined ? [] : ['-untrusted', others];
            const verdict = world.pki.openssl(
              'ts',
              '-verify',
              '-queryfile',
              queryFile,
              '-in',
              responseFile,
              '-CAfile',
              world.hierarchy.rootFile,
              ...more,
            );
            assert.match(verdict.toString(), /Verification: OK/);
          }
        }
      });
    }
  }

  test('openssl refuses the token when one bit of it is another', () => {
    const stamp = aStamp();
    const token = attachCertificates(stampWith(world.ec, makeTemplate(world.ec), 'sha256', stamp), world.ec.chain);
    token[token.indexOf(0x51, 60) + 3]! ^= 1;
    const response = world.pki.file('broken.tsr', grantedResponse(token));
    const hash = createHash('sha256').update('document').digest('hex');
    assert.throws(() => world.pki.openssl('ts', '-verify', '-digest', hash, '-in', response, '-CAfile', world.hierarchy.rootFile));
  });
});

describe('the attributes stay in order whatever the names in the certificate', () => {
  test('issuer names of 1 to 300 octets', () => {
    for (const letters of [...Array.from({ length: 60 }, (_, i) => i + 1), 100, 128, 200, 255, 256, 300]) {
      const name = encode(
        tag.sequence,
        encode(tag.set, encode(tag.sequence, oid('2.5.4.3'), encode(tag.utf8String, new Uint8Array(letters).fill(0x61)))),
      );
      const certificate = { ...world.ec.certificate, issuer: name, subject: name };
      for (const signatureDigest of ['sha256', 'sha384', 'sha512'] as const) {
        const template = makeTemplate({ ...world.ec, certificate }, { signatureDigest, tsaName: 'subject' });
        for (const fill of [0x00, 0xff]) {
          const stamp = aStamp({ serial: Buffer.alloc(serialOctets, 0x40 | (fill & 0x3f)) });
          template.prepare(stamp, stamp.serial, stamp.unixMillis);
          parseToken(tokenOf(template, new Uint8Array(64)));
        }
      }
    }
  });
});

test('the certificate that the template names is the one it was made for', () => {
  const certificate = readSignerCertificate(world.ec.identity.certificate.raw);
  assert.equal(hex(certificate.der), hex(world.ec.identity.certificate.raw));
});
