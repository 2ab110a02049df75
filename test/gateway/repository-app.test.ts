import assert from 'node:assert/strict';
import { createHash, X509Certificate } from 'node:crypto';
import { after, afterEach, before, beforeEach, describe, mock, test } from 'node:test';
import type { Hono } from 'hono';
import { createPublishedCertificates, type PublishedCertificates, readRoots } from '../../gateway/published-certificates.ts';
import { createRepositoryApp } from '../../gateway/repository-app.ts';
import { laneKeys } from '../../queue/keys.ts';
import type { RedisClient } from '../../queue/redis.ts';
import { type Identity, TestPki } from '../support/timestamp-fixtures.ts';

const ca = ['basicConstraints=critical,CA:TRUE', 'keyUsage=critical,keyCertSign', 'subjectKeyIdentifier=hash'];
const leaf = ['basicConstraints=critical,CA:FALSE', 'keyUsage=critical,digitalSignature', 'extendedKeyUsage=critical,timeStamping'];
const digestOf = ({ certificate }: Identity): string => createHash('sha256').update(certificate.raw).digest('hex');
const pemsOf = (text: string): X509Certificate[] =>
  (text.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----\n/g) ?? []).map((pem) => new X509Certificate(pem));
const namesOf = (text: string): string[] => pemsOf(text).map(({ subject }) => /CN=(.*)/.exec(subject)?.[1] ?? '');
const freshMs = 5_000;

let pki: TestPki;
let root: Identity;
let authority: Identity;
let tsu: Identity;
let older: Identity;
before(() => {
  pki = new TestPki();
  root = pki.issue('root', { extensions: ca });
  authority = pki.issue('authority', { issuer: root, extensions: ca });
  older = pki.issue('older', { issuer: authority, extensions: leaf });
  tsu = pki.issue('tsu', { issuer: authority, extensions: leaf });
});
after(() => pki.close());

/** The two commands that the repository needs, scripted. */
class FakeRedis {
  hash: Record<string, string> = {};
  chains: Record<string, Buffer> = {};
  away = false;
  reads = 0;
  readonly client = {
    hgetall: async (key: string): Promise<Record<string, string>> => {
      assert.equal(key, laneKeys('timestamp').certificates);
      this.reads += 1;
      if (this.away) throw new Error('connection is closed');
      return { ...this.hash };
    },
    hgetallBuffer: async (key: string): Promise<Record<string, Buffer>> => {
      assert.equal(key, laneKeys('timestamp').chains);
      if (this.away) throw new Error('connection is closed');
      return { ...this.chains };
    },
  } as unknown as RedisClient;

  publish(...identities: readonly Identity[]): void {
    for (const identity of identities) this.hash[digestOf(identity)] = identity.certificate.toString();
  }
}

let redis: FakeRedis;
let published: PublishedCertificates;
let app: Hono;
let now = 0;
beforeEach(() => {
  now = 1_000_000;
  mock.method(performance, 'now', () => now);
  redis = new FakeRedis();
  published = createPublishedCertificates(redis.client, [root.certificate]);
  app = createRepositoryApp(published);
});
afterEach(() => mock.restoreAll());
const get = async (path: string, headers: Record<string, string> = {}): Promise<Response> => app.request(path, { headers });

describe('GET /repository/trust.pem', () => {
  test('the roots, also before any signer has published, and without asking Redis', async () => {
    redis.away = true;
    const response = await get('/repository/trust.pem');
    assert.equal(response.status, 200);
    assert.equal(response.headers.get('content-type'), 'application/x-pem-file');
    assert.match(response.headers.get('cache-control') ?? '', /^public, max-age=\d+$/);
    assert.equal(await response.text(), root.certificate.toString());
    assert.equal(redis.reads, 0);
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
      redis.away = away;
      const response = await get('/repository/tsa-chain.pem');
      assert.equal(response.status, 503);
      assert.match(response.headers.get('retry-after') ?? '', /^[1-9]\d*$/);
      assert.match(await response.text(), /^CERTIFICATES_UNPUBLISHED: [^\n]+\n$/);
      now += freshMs;
    }
    redis.away = false;
    redis.publish(tsu, authority);
    now += freshMs;
    assert.equal((await get('/repository/tsa-chain.pem')).status, 200);
  });

  test('TSUs first, the newest of them in front, then the authorities; no root', async () => {
    redis.publish(authority, older, tsu);
    const response = await get('/repository/tsa-chain.pem');
    assert.equal(response.headers.get('content-type'), 'application/x-pem-file');
    const names = namesOf(await response.text());
    assert.deepEqual(names.toSorted(), ['authority', 'older', 'tsu']);
    assert.equal(names.at(-1), 'authority');
  });

  test('OpenSSL verifies a TSU with what is published', async () => {
    redis.publish(tsu, authority);
    const chain = pki.file('chain.pem', await (await get('/repository/tsa-chain.pem')).text());
    const trust = pki.file('trust.pem', await (await get('/repository/trust.pem')).text());
    pki.openssl('verify', '-purpose', 'timestampsign', '-CAfile', trust, '-untrusted', chain, tsu.certificateFile);
  });

  test('304 as long as nothing is new, and another tag when something is', async () => {
    redis.publish(tsu, authority);
    const etag = (await get('/repository/tsa-chain.pem')).headers.get('etag') ?? '';
    assert.equal((await get('/repository/tsa-chain.pem', { 'If-None-Match': etag })).status, 304);
    redis.publish(older);
    now += freshMs;
    const changed = await get('/repository/tsa-chain.pem', { 'If-None-Match': etag });
    assert.equal(changed.status, 200);
    assert.notEqual(changed.headers.get('etag'), etag);
  });

  test('Redis is asked every five seconds at most, and once for many', async () => {
    redis.publish(tsu, authority);
    await Promise.all(Array.from({ length: 20 }, () => get('/repository/tsa-chain.pem')));
    now += freshMs - 1;
    await get('/repository/tsa-chain.pem');
    assert.equal(redis.reads, 1);
    now += 1;
    await Promise.all(Array.from({ length: 20 }, () => get('/repository/tsa-chain.pem')));
    assert.equal(redis.reads, 2);
  });

  test('what was there stays while Redis is away, and while it is empty nothing is invented', async () => {
    redis.publish(tsu, authority);
    const before = await (await get('/repository/tsa-chain.pem')).text();
    redis.away = true;
    now += freshMs;
    assert.equal(await (await get('/repository/tsa-chain.pem')).text(), before);
    now += 3_600_000;
    assert.equal(await (await get('/repository/tsa-chain.pem')).text(), before);
    assert.equal((await get(`/repository/certificates/${digestOf(tsu)}.cer`)).status, 200);
  });
});

describe('only what leads to a root is published', () => {
  test('strange roots, self-signed leaves, wrong signatures, lone leaves and junk are left out', async () => {
    const strange = pki.issue('strange-root', { extensions: ca });
    const below = pki.issue('below-strange', { issuer: strange, extensions: leaf });
    const lone = pki.issue('self-signed', { extensions: leaf });
    // The same name as the right authority, another key.
    const impostor = pki.issue('impostor', { extensions: ca, subject: 'authority' });
    const forged = pki.issue('forged', { issuer: impostor, extensions: leaf });
    // Below a leaf, which is no CA.
    const overLeaf = pki.issue('over-leaf', { issuer: tsu, extensions: leaf });
    redis.publish(authority, tsu, strange, below, lone, impostor, forged, overLeaf);
    redis.hash['junk'] = 'junk';
    redis.hash['empty'] = '';
    redis.hash['broken'] = tsu.certificate.toString().replace('MII', 'AAA');
    assert.deepEqual(namesOf(await (await get('/repository/tsa-chain.pem')).text()), ['tsu', 'authority']);
    for (const identity of [strange, below, lone, impostor, forged, overLeaf]) {
      assert.equal((await get(`/repository/certificates/${digestOf(identity)}.cer`)).status, 404, identity.name);
      assert.equal(await published.chainOf(digestOf(identity)), undefined, identity.name);
    }
  });

  test('a leaf without its authority is left out until that is there', async () => {
    redis.publish(tsu);
    assert.equal((await get('/repository/tsa-chain.pem')).status, 503);
    redis.publish(authority);
    now += freshMs;
    assert.deepEqual(namesOf(await (await get('/repository/tsa-chain.pem')).text()), ['tsu', 'authority']);
  });

  test('a certificate under another one’s name in Redis is published under its own digest only', async () => {
    redis.publish(authority);
    redis.hash['f'.repeat(64)] = tsu.certificate.toString();
    assert.equal((await get(`/repository/certificates/${'f'.repeat(64)}.cer`)).status, 404);
    assert.equal((await get(`/repository/certificates/${digestOf(tsu)}.cer`)).status, 200);
  });

  test('a long chain, and one that goes in circles', async () => {
    let issuer = root;
    const chain: Identity[] = [];
    for (let i = 1; i <= 5; i += 1) {
      issuer = pki.issue(`level-${i}`, { issuer, extensions: ca });
      chain.push(issuer);
    }
    const deep = pki.issue('deep', { issuer, extensions: leaf });
    const one = pki.issue('circle-one', { extensions: ca });
    const two = pki.issue('circle-two', { issuer: one, extensions: ca });
    redis.publish(deep, ...chain, one, two);
    const names = namesOf(await (await get('/repository/tsa-chain.pem')).text());
    assert.deepEqual(names.toSorted(), ['deep', 'level-1', 'level-2', 'level-3', 'level-4', 'level-5']);
    assert.equal((await published.chainOf(digestOf(deep)))?.length, 6);
  });

  test('an authority with two certificates, one of them below a strange root, in either order', async () => {
    const strange = pki.issue('cross-root', { extensions: ca });
    // The same key and name, certified by a root that is not trusted here.
    pki.openssl('req', '-new', '-key', authority.keyFile, '-subj', '/O=Test/CN=authority', '-out', 'cross.csr');
    const extensions = pki.file('cross.ext', ca.join('\n'));
    pki.openssl(
      'x509',
      '-req',
      '-in',
      'cross.csr',
      '-extfile',
      extensions,
      '-set_serial',
      '99',
      '-days',
      '90',
      '-CA',
      strange.certificateFile,
      '-CAkey',
      strange.keyFile,
      '-out',
      'cross.pem',
    );
    const cross = pki.openssl('x509', '-in', 'cross.pem').toString();
    const right = authority.certificate.toString();
    for (const pems of [
      [cross, right],
      [right, cross],
    ]) {
      redis.hash = { a: pems[0] ?? '', b: pems[1] ?? '', c: tsu.certificate.toString() };
      now += freshMs;
      assert.deepEqual(
        namesOf(await (await get('/repository/tsa-chain.pem')).text()),
        ['tsu', 'authority'],
        pems.indexOf(cross) === 0 ? 'the cross first' : 'the cross last',
      );
    }
  });
});

describe('single certificates', () => {
  test('DER by digest, roots too, to be kept for ever', async () => {
    redis.publish(tsu, authority);
    for (const identity of [tsu, authority, root]) {
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
    redis.publish(tsu, authority);
    const digest = digestOf(tsu);
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
    }
  });

  test('the list names each with its address', async () => {
    redis.publish(tsu, authority);
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
      const response = await app.request(path, { method: 'POST' });
      assert.equal(response.status, 405, path);
      assert.equal(response.headers.get('allow'), 'GET, HEAD');
      assert.match(await response.text(), /^METHOD_NOT_ALLOWED: [^\n]+\n$/);
    }
    const head = await app.request('/repository/trust.pem', { method: 'HEAD' });
    assert.deepEqual([head.status, await head.text()], [200, '']);
    assert.ok(head.headers.get('etag'));
  });
});

describe('chains for certReq', () => {
  test('TSU first, without the root; synchronous once it was asked for', async () => {
    redis.publish(tsu, older, authority);
    const chain = await published.chainOf(digestOf(tsu));
    assert.deepEqual(
      chain?.map((der) => Buffer.from(der).toString('hex')),
      [tsu, authority].map(({ certificate }) => certificate.raw.toString('hex')),
    );
    assert.ok(!(published.chainOf(digestOf(tsu)) instanceof Promise));
    assert.ok(!(published.chainOf(digestOf(older)) instanceof Promise));
    assert.equal(redis.reads, 1);
  });

  test('a TSU that is new is looked for at once, not after five seconds', async () => {
    redis.publish(older, authority);
    await published.chainOf(digestOf(older));
    redis.publish(tsu);
    assert.equal((await published.chainOf(digestOf(tsu)))?.length, 2);
  });

  describe('as they were recorded', () => {
    const record = (of: Identity, ...chain: readonly (Identity | Buffer)[]): void => {
      redis.chains[digestOf(of)] = Buffer.concat(chain.map((one) => (Buffer.isBuffer(one) ? one : one.certificate.raw)));
    };
    const chainOf = async (of: Identity): Promise<string[] | undefined> =>
      (await published.chainOf(digestOf(of)))?.map((der) => createHash('sha256').update(der).digest('hex'));

    test('exactly these certificates, whatever else would do', async () => {
      // The same authority, certified a second time: both lead to the root.
      pki.openssl('req', '-new', '-key', authority.keyFile, '-subj', '/O=Test/CN=authority', '-out', 'again.csr');
      const file = pki.file('again.ext', ca.join('\n'));
      const signed = ['-set_serial', '98', '-days', '90', '-CA', root.certificateFile, '-CAkey', root.keyFile, '-out', 'again.pem'];
      pki.openssl('x509', '-req', '-in', 'again.csr', '-extfile', file, ...signed);
      const again = new X509Certificate(pki.openssl('x509', '-in', 'again.pem'));
      const digest = createHash('sha256').update(again.raw).digest('hex');
      redis.publish(tsu, authority);
      for (const name of ['0', 'f']) redis.hash[name] = again.toString();
      record(tsu, tsu, again.raw);
      assert.deepEqual(await chainOf(tsu), [digestOf(tsu), digest]);
      record(tsu, tsu, authority);
      published = createPublishedCertificates(redis.client, [root.certificate]);
      assert.deepEqual(await chainOf(tsu), [digestOf(tsu), digestOf(authority)]);
    });

    test('also when the certificates are published nowhere else', async () => {
      record(tsu, tsu, authority);
      assert.deepEqual(await chainOf(tsu), [digestOf(tsu), digestOf(authority)]);
    });

    test('what is no chain to a configured root is passed over', async () => {
      const strange = pki.issue('recorded-strange', { extensions: ca });
      const below = pki.issue('recorded-below', { issuer: strange, extensions: leaf });
      redis.publish(tsu, authority);
      const right = [digestOf(tsu), digestOf(authority)];
      for (const chain of [
        [],
        [Buffer.from('junk')],
        [tsu],
        [older, authority],
        [authority, tsu],
        [tsu, authority, Buffer.of(0x30)],
        [tsu, strange],
        [tsu, below, strange],
        [tsu, ...Array.from({ length: 10 }, () => authority)],
      ]) {
        record(tsu, ...chain);
        published = createPublishedCertificates(redis.client, [root.certificate]);
        assert.deepEqual(await chainOf(tsu), right);
      }
      record(below, below, strange);
      published = createPublishedCertificates(redis.client, [root.certificate]);
      assert.equal(await chainOf(below), undefined);
    });
  });

  test('many that ask for the same new one cause one read', async () => {
    redis.publish(tsu, authority);
    await Promise.all(Array.from({ length: 50 }, async () => published.chainOf(digestOf(tsu))));
    assert.equal(redis.reads, 1);
  });

  test('known chains stay while Redis is away; unknown ones are undefined, and found when it is back', async () => {
    redis.publish(older, authority);
    await published.chainOf(digestOf(older));
    redis.away = true;
    assert.equal((await published.chainOf(digestOf(older)))?.length, 2);
    assert.equal(await published.chainOf(digestOf(tsu)), undefined);
    redis.away = false;
    redis.publish(tsu);
    assert.equal((await published.chainOf(digestOf(tsu)))?.length, 2);
  });
});

describe('roots from a file', () => {
  test('one and several, with text around them', () => {
    const other = pki.issue('second-root', { extensions: ca });
    const file = pki.file('roots.pem', `Subject: somebody\n${root.certificate}\n# and\n${other.certificate}`);
    assert.deepEqual(
      readRoots(file).map(({ fingerprint256 }) => fingerprint256),
      [root.certificate.fingerprint256, other.certificate.fingerprint256],
    );
    assert.equal(readRoots(root.certificateFile).length, 1);
  });

  test('a file that is not there, or holds no certificate, or a broken one', () => {
    assert.throws(() => readRoots(`${pki.folder}/none.pem`), { code: 'CONFIG_UNREADABLE' });
    assert.throws(() => readRoots(pki.file('empty.pem', '')), { code: 'CERTIFICATE_INVALID' });
    assert.throws(() => readRoots(root.keyFile), { code: 'CERTIFICATE_INVALID' });
    const broken = pki.file('broken.pem', '-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n');
    assert.throws(() => readRoots(broken), { code: 'CERTIFICATE_INVALID' });
  });
});
