/** GET /repository/...: the certificates that are published, and how long they hold. */
import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { describe, test } from 'node:test';
import { digestOf, freshMs, namesOf, repositoryWorld } from '../support/repository-world.ts';

const world = repositoryWorld();
const { get } = world;

describe('GET /repository/trust.pem', () => {
  test('the roots, also before any signer has published, and without asking Redis', async () => {
    world.redis.away = true;
    const response = await get('/repository/trust.pem');
    assert.equal(response.status, 200);
    assert.equal(response.headers.get('content-type'), 'application/x-pem-file');
    assert.match(response.headers.get('cache-control') ?? '', /^public, max-age=\d+$/);
    assert.equal(await response.text(), world.root.certificate.toString());
    assert.equal(world.redis.reads, 0);
  });

  test('304 for whoever has it', async () => {
    const etag = (await get('/repository/trust.pem')).headers.get('etag') ?? '';
    assert.match(etag, /^"[^"]+"$/);
    const again = await get('/repository/trust.pem', { 'If-None-Match': etag });
    assert.deepEqual([again.status, await again.text(), again.headers.get('etag')], [304, '', etag]);
    assert.match(again.headers.get('cache-control') ?? '', /max-age/);
    assert.equal((await get('/repository/trust.pem', { 'If-None-Match': '"other"' })).status, 200);
  });

  for (const [name, of] of [
    ['a list', (etag: string) => `"other", ${etag}`],
    ['a weak tag', (etag: string) => `W/${etag}`],
    ['any', () => '*'],
  ] as const) {
    test(`304 for If-None-Match with ${name} (RFC 9110, 13.1.2)`, async () => {
      const etag = (await get('/repository/trust.pem')).headers.get('etag') ?? '';
      assert.equal((await get('/repository/trust.pem', { 'If-None-Match': of(etag) })).status, 304);
    });
  }
});

describe('GET /repository/tsa-chain.pem', () => {
  test('503 with Retry-After until a signer has published', async () => {
    for (const away of [false, true]) {
      world.redis.away = away;
      const response = await get('/repository/tsa-chain.pem');
      assert.equal(response.status, 503);
      assert.match(response.headers.get('retry-after') ?? '', /^[1-9]\d*$/);
      assert.match(await response.text(), /^CERTIFICATES_UNPUBLISHED: [^\n]+\n$/);
      assert.equal(response.headers.get('cache-control'), 'no-store');
      world.now += freshMs;
    }
    world.redis.away = false;
    world.redis.publish(world.tsu, world.authority);
    world.now += freshMs;
    assert.equal((await get('/repository/tsa-chain.pem')).status, 200);
  });

  test('TSUs first, the newest of them in front, then the authorities; no root', async () => {
    world.redis.publish(world.authority, world.older, world.tsu);
    const response = await get('/repository/tsa-chain.pem');
    assert.equal(response.headers.get('content-type'), 'application/x-pem-file');
    const names = namesOf(await response.text());
    assert.deepEqual(names.toSorted(), ['authority', 'older', 'tsu']);
    assert.equal(names.at(-1), 'authority');
  });

  test('OpenSSL verifies a TSU with what is published', async () => {
    world.redis.publish(world.tsu, world.authority);
    const chain = world.pki.file('chain.pem', await (await get('/repository/tsa-chain.pem')).text());
    const trust = world.pki.file('trust.pem', await (await get('/repository/trust.pem')).text());
    world.pki.openssl('verify', '-purpose', 'timestampsign', '-CAfile', trust, '-untrusted', chain, world.tsu.certificateFile);
  });

  test('304 as long as nothing is new, and another tag when something is', async () => {
    world.redis.publish(world.tsu, world.authority);
    const etag = (await get('/repository/tsa-chain.pem')).headers.get('etag') ?? '';
    assert.equal((await get('/repository/tsa-chain.pem', { 'If-None-Match': etag })).status, 304);
    world.redis.publish(world.older);
    world.now += freshMs;
    const changed = await get('/repository/tsa-chain.pem', { 'If-None-Match': etag });
    assert.equal(changed.status, 200);
    assert.notEqual(changed.headers.get('etag'), etag);
  });

  test('Redis is asked every five seconds at most, and once for many', async () => {
    world.redis.publish(world.tsu, world.authority);
    await Promise.all(Array.from({ length: 20 }, () => get('/repository/tsa-chain.pem')));
    world.now += freshMs - 1;
    await get('/repository/tsa-chain.pem');
    assert.equal(world.redis.reads, 1);
    world.now += 1;
    await Promise.all(Array.from({ length: 20 }, () => get('/repository/tsa-chain.pem')));
    assert.equal(world.redis.reads, 2);
  });

  test('what was there stays while Redis is away, and while it is empty nothing is invented', async () => {
    world.redis.publish(world.tsu, world.authority);
    const before = await (await get('/repository/tsa-chain.pem')).text();
    world.redis.away = true;
    world.now += freshMs;
    assert.equal(await (await get('/repository/tsa-chain.pem')).text(), before);
    world.now += 3_600_000;
    assert.equal(await (await get('/repository/tsa-chain.pem')).text(), before);
    assert.equal((await get(`/repository/certificates/${digestOf(world.tsu)}.cer`)).status, 200);
  });
});

describe('single certificates', () => {
  test('DER by digest, roots too, to be kept for ever', async () => {
    world.redis.publish(world.tsu, world.authority);
    for (const identity of [world.tsu, world.authority, world.root]) {
      const path = `/repository/certificates/${digestOf(identity)}.cer`;
      const response = await get(path);
      assert.equal(response.status, 200);
      assert.equal(response.headers.get('content-type'), 'application/pkix-cert');
      assert.match(response.headers.get('cache-control') ?? '', /max-age=31536000, immutable/);
      assert.equal(Buffer.from(await response.arrayBuffer()).toString('hex'), identity.certificate.raw.toString('hex'));
      const etag = response.headers.get('etag') ?? '';
      assert.equal((await get(path, { 'If-None-Match': etag })).status, 304);
    }
  });

  test('404 with one line for anything else', async () => {
    world.redis.publish(world.tsu, world.authority);
    const digest = digestOf(world.tsu);
    const paths = [
      '/repository/certificates/',
      `/repository/certificates/${'0'.repeat(64)}.cer`,
      `/repository/certificates/${digest}`,
      `/repository/certificates/${digest}.pem`,
      `/repository/certificates/${digest.toUpperCase()}.cer`,
      `/repository/certificates/${digest}.cer/x`,
      `/repository/certificates/..%2f..%2fetc%2fpasswd`,
      '/repository/other',
    ];
    for (const path of paths) {
      const response = await get(path);
      assert.equal(response.status, 404, path);
      assert.match(await response.text(), /^NOT_FOUND: [^\n]+\n$/, path);
      assert.equal(response.headers.get('cache-control'), 'no-store', path);
    }
  });

  test('the list names each with its address', async () => {
    world.redis.publish(world.tsu, world.authority);
    assert.match((await get('/repository')).headers.get('cache-control') ?? '', /^public, max-age=\d+$/);
    const list = (await (await get('/repository')).json()) as {
      trust: string;
      chain: string;
      certificates: { der: string; subject: string; validTo: string }[];
    };
    assert.deepEqual([list.trust, list.chain], ['/repository/trust.pem', '/repository/tsa-chain.pem']);
    assert.equal(list.certificates.length, 3);
    for (const { der, subject, validTo } of list.certificates) {
      const certificate = new X509Certificate(Buffer.from(await (await get(der)).arrayBuffer()));
      assert.equal(subject, certificate.subject.replaceAll('\n', ', '));
      assert.equal(Date.parse(validTo), certificate.validToDate.getTime());
    }
  });

  test('405 with Allow for writing, HEAD like GET without a body', async () => {
    for (const path of ['/repository/trust.pem', '/repository/tsa-chain.pem', '/repository']) {
      const response = await world.app.request(path, { method: 'POST' });
      assert.equal(response.status, 405, path);
      assert.equal(response.headers.get('allow'), 'GET, HEAD');
      assert.match(await response.text(), /^METHOD_NOT_ALLOWED: [^\n]+\n$/);
    }
    const head = await world.app.request('/repository/trust.pem', { method: 'HEAD' });
    assert.deepEqual([head.status, await head.text()], [200, '']);
    assert.ok(head.headers.get('etag'));
  });
});
