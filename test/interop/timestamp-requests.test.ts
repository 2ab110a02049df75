/** Requests that are rare, refused or many in one, through the whole service; OpenSSL reads the answers. */
import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { digestNames } from '../../config/schema.ts';
import { encode, integer, octetString, oid, sequence, tag } from '../../pki/der.ts';
import { forEachAtOnce, postQuery, type RelyingParty } from '../support/openssl-ts.ts';
import { type Service, ServiceFolder } from '../support/service.ts';
import { atOnce, newParty, withoutInterop } from '../support/timestamp-interop.ts';

const home = new ServiceFolder();
after(home.remove);

describe('requests that only one client in a thousand sends', { skip: withoutInterop }, () => {
  let service: Service;
  let party: RelyingParty;
  test('the service starts', async () => {
    service = await home.start();
    party = await newParty(home, 'rare', service);
  });
  after(() => service?.stop());

  const imprint = (hash: Uint8Array): Uint8Array => sequence(sequence(oid('2.16.840.1.101.3.4.2.1'), encode(tag.null)), octetString(hash));

  test('nonces that are negative, zero or very large come back bit for bit', async () => {
    const data = party.write('nonce.data', randomBytes(64));
    const hash = createHash('sha256')
      .update(readFileSync(join(party.folder, data)))
      .digest();
    const large = Buffer.concat([Buffer.from([0x7f]), randomBytes(255)]);
    for (const [i, nonce] of [
      Buffer.from([0x80]),
      Buffer.from([0xff]),
      Buffer.from([0x00]),
      Buffer.from('ff7fffffffffffffff', 'hex'),
      large,
    ].entries()) {
      const tsq = party.write(
        `nonce-${i}.tsq`,
        sequence(integer(1), imprint(hash), encode(tag.integer, nonce), encode(tag.boolean, Buffer.from([0xff]))),
      );
      const answer = await postQuery(service.origin, readFileSync(join(party.folder, tsq)));
      const tsr = party.write(`nonce-${i}.tsr`, answer.body);
      const verdict = await party.verify(tsr, ['-queryfile', tsq], { withChain: false });
      assert.match(verdict.stdout, /Verification: OK/, `nonce ${nonce.toString('hex')}: ${verdict.stderr}`);
      assert.ok(answer.body.includes(Buffer.from(encode(tag.integer, nonce))), nonce.toString('hex'));
    }
  });

  const refusals: readonly (readonly [string, readonly string[] | Uint8Array, RegExp, string])[] = [
    ['SHA-1', ['-sha1'], /unrecognized or unsupported algorithm identifier/, 'badAlg'],
    ['MD5', ['-md5'], /unrecognized or unsupported algorithm identifier/, 'badAlg'],
    ['SHA-224', ['-sha224'], /unrecognized or unsupported algorithm identifier/, 'badAlg'],
    ['an unknown policy', ['-sha256', '-tspolicy', '1.2.3.4'], /the requested TSA policy is not supported by the TSA/, 'unacceptedPolicy'],
    [
      'an extension',
      sequence(
        integer(1),
        imprint(randomBytes(32)),
        encode(tag.contextConstructed(0), sequence(oid('1.2.3.4'), octetString(Buffer.from('x')))),
      ),
      /the requested extension is not supported by the TSA/,
      'unacceptedExtension',
    ],
    ['version 2', sequence(integer(2), imprint(randomBytes(32))), /transaction not permitted or supported/, 'badRequest'],
    [
      'a hash of the wrong length',
      sequence(integer(1), imprint(randomBytes(31))),
      /the data submitted has the wrong format/,
      'badDataFormat',
    ],
    [
      'trailing octets',
      Buffer.concat([sequence(integer(1), imprint(randomBytes(32))), Buffer.from([0])]),
      /the data submitted has the wrong format/,
      'badDataFormat',
    ],
    ['no DER', Buffer.from('GET / HTTP/1.1'), /the data submitted has the wrong format/, 'badDataFormat'],
    ['nothing', Buffer.alloc(0), /the data submitted has the wrong format/, 'badDataFormat'],
  ];
  for (const [what, query, failure, code] of refusals) {
    test(`OpenSSL reads the refusal of ${what}`, async () => {
      const name = code + what.replaceAll(/\W/g, '');
      const data = party.write(`${name}.data`, 'data');
      const tsq = `${name}.tsq`;
      if (query instanceof Uint8Array) party.write(tsq, query);
      else await party.openssl('ts', '-query', '-data', data, ...query, '-out', tsq);
      const answer = await postQuery(service.origin, readFileSync(join(party.folder, tsq)));
      assert.equal(answer.status, 200);
      assert.equal(answer.headers.get('content-type'), 'application/timestamp-reply');
      const tsr = party.write(`${name}.tsr`, answer.body);
      const text = await party.text(tsr);
      assert.match(text, /Status: Rejected\.\n/);
      assert.match(text, failure);
      assert.match(text, /TST info:\nNot included\./);
      const verdict = await party.verify(tsr, ['-data', data], { withChain: true });
      assert.notEqual(verdict.code, 0);
      assert.match(verdict.stderr, new RegExp(`failure codes: ${code}\\b`));
    });
  }

  test('many imprints in one request: each token verifies by itself', async () => {
    const algorithms = digestNames.flatMap((digest) => [digest, digest]);
    const files = algorithms.map((algorithm, i) => {
      const content = randomBytes(50 + i);
      return { algorithm, name: party.write(`many-${i}.data`, content), hash: createHash(algorithm).update(content).digest() };
    });
    for (const certReq of [true, false]) {
      const hashes = files.map(({ algorithm, hash }, i) => ({
        algorithm,
        hash: hash.toString('base64'),
        ...(i % 2 === 0 ? {} : { nonce: String(-(2n ** BigInt(8 * i))) }),
      }));
      const response = await fetch(`${service.origin}/v1/timestamps`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ hashes: [...hashes, { algorithm: 'sha1', hash: randomBytes(20).toString('base64') }], certReq }),
      });
      assert.equal(response.status, 200);
      const { timestamps } = (await response.json()) as {
        timestamps: { status: string; token?: string; failInfo?: string; serial?: string }[];
      };
      assert.equal(timestamps.length, files.length + 1);
      const last = timestamps.pop();
      assert.deepEqual(last, { status: 'rejection', failInfo: 'badAlg' });
      assert.equal(new Set(timestamps.map(({ serial }) => serial)).size, files.length);
      await forEachAtOnce(files, atOnce, async ({ name, hash, algorithm }, i) => {
        assert.equal(timestamps[i]?.status, 'granted');
        const token = party.write(`${name}-${certReq}.tst`, Buffer.from(timestamps[i]?.token ?? '', 'base64'));
        for (const against of [
          ['-data', name],
          ['-digest', hash.toString('hex')],
        ]) {
          const verdict = await party.verify(token, ['-token_in', ...against], { withChain: !certReq });
          assert.match(verdict.stdout, /Verification: OK/, `${algorithm}: ${verdict.stderr}`);
        }
      });
    }
  });
});
