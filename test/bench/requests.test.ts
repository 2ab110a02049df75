import assert from 'node:assert/strict';
import { test } from 'node:test';
import { bulkTemplate, countGranted, createVariation, queryTemplate } from '../../bench/requests.ts';
import { DerReader, tag } from '../../pki/der.ts';

const readQuery = (body: Uint8Array): { imprint: string; nonce: string; certReq: boolean } => {
  const outer = new DerReader(body);
  const query = outer.enter(tag.sequence);
  outer.finish();
  assert.deepEqual([...query.integer()], [1]);
  const messageImprint = query.enter(tag.sequence);
  messageImprint.next(tag.sequence);
  messageImprint.next(tag.octetString);
  const imprint = Buffer.from(messageImprint.bytes.subarray(messageImprint.contentStart, messageImprint.contentEnd));
  messageImprint.finish();
  const nonce = Buffer.from(query.integer());
  const certReq = query.peek() === tag.boolean && query.boolean();
  query.finish();
  return { imprint: imprint.toString('hex'), nonce: nonce.toString('hex'), certReq };
};

for (const certReq of [false, true]) {
  test(`a query with certReq ${certReq} is strict DER, before and after it is varied`, () => {
    const template = queryTemplate({ certReq });
    const header = 17;
    const buffer = Buffer.concat([Buffer.alloc(header, 0x55), template.body]);
    const vary = createVariation(template);
    const seen = new Set<string>();
    for (let i = 0; i < 1_000; i += 1) {
      vary(buffer, header);
      const query = readQuery(buffer.subarray(header));
      assert.equal(query.certReq, certReq);
      assert.equal(query.imprint.length, 64);
      assert.equal(query.nonce.length, 16);
      seen.add(query.imprint).add(query.nonce);
    }
    assert.equal(seen.size, 2_000);
    assert.deepEqual(buffer.subarray(0, header), Buffer.alloc(header, 0x55));
  });
}

test('a bulk request is JSON with imprints of the right length, all different after each variation', () => {
  const template = bulkTemplate(100);
  const buffer = Buffer.from(template.body);
  const vary = createVariation(template);
  const seen = new Set<string>();
  for (let i = 0; i < 50; i += 1) {
    vary(buffer, 0);
    const { hashes } = JSON.parse(buffer.toString()) as { hashes: { algorithm: string; hash: string }[] };
    assert.equal(hashes.length, 100);
    for (const { algorithm, hash } of hashes) {
      assert.equal(algorithm, 'sha256');
      const octets = Buffer.from(hash, 'base64');
      assert.equal(octets.length, 32);
      assert.equal(octets.toString('base64'), hash, 'canonical base64');
      seen.add(hash);
    }
  }
  assert.equal(seen.size, 5_000);
});

test('countGranted sees PKIStatus granted only where it must stand', () => {
  const octets = { encoding: 'octets' } as const;
  const granted = Buffer.concat([Buffer.from('308203803003020100', 'hex'), Buffer.alloc(900, 0xc8)]);
  // As autocannon delivers it: decoded as UTF-8, the octets of the token mangled.
  assert.equal(countGranted(granted.toString('utf8'), octets), 1);
  assert.equal(countGranted(granted.toString('latin1'), octets), 1);
  const refused = Buffer.from('300830060201020301 00'.replaceAll(' ', ''), 'hex');
  assert.equal(countGranted(refused.toString('latin1'), octets), 0);
  const elsewhere = Buffer.concat([Buffer.alloc(20), granted]);
  assert.equal(countGranted(elsewhere.toString('latin1'), octets), 0);
  assert.equal(countGranted('', octets), 0);
});

test('countGranted counts the granted members of a bulk answer', () => {
  const timestamps = [
    { status: 'granted', token: 'AA==' },
    { status: 'rejection', failInfo: 'badAlg' },
    { status: 'granted', token: 'AA==' },
  ];
  assert.equal(countGranted(JSON.stringify({ timestamps }), { encoding: 'base64' }), 2);
});
