/** Which certificates a gateway takes for published, and the chains that it puts into tokens. */
import assert from 'node:assert/strict';
import { createHash, X509Certificate } from 'node:crypto';
import { describe, test } from 'node:test';
import { readRoots } from '../../gateway/published-certificates.ts';
import { ca, digestOf, freshMs, leaf, namesOf, repositoryWorld } from '../support/repository-world.ts';
import type { Identity } from '../support/timestamp-fixtures.ts';

const world = repositoryWorld();
const { get } = world;

describe('only what leads to a root is published', () => {
  test('strange roots, self-signed leaves, wrong signatures, lone leaves and junk are left out', async () => {
    const strange = world.pki.issue('strange-root', { extensions: ca });
    const below = world.pki.issue('below-strange', { issuer: strange, extensions: leaf });
    const lone = world.pki.issue('self-signed', { extensions: leaf });
    // The same name as the right authority, another key.
    const impostor = world.pki.issue('impostor', { extensions: ca, subject: 'authority' });
    const forged = world.pki.issue('forged', { issuer: impostor, extensions: leaf });
    // Below a leaf, which is no CA.
    const overLeaf = world.pki.issue('over-leaf', { issuer: world.tsu, extensions: leaf });
    world.redis.publish(world.authority, world.tsu, strange, below, lone, impostor, forged, overLeaf);
    world.redis.hash['junk'] = 'junk';
    world.redis.hash['empty'] = '';
    world.redis.hash['broken'] = world.tsu.certificate.toString().replace('MII', 'AAA');
    assert.deepEqual(namesOf(await (await get('/repository/tsa-chain.pem')).text()), ['tsu', 'authority']);
    for (const identity of [strange, below, lone, impostor, forged, overLeaf]) {
      assert.equal((await get(`/repository/certificates/${digestOf(identity)}.cer`)).status, 404, identity.name);
      assert.equal(await world.published.chainOf(digestOf(identity)), undefined, identity.name);
    }
  });

  test('a leaf without its authority is left out until that is there', async () => {
    world.redis.publish(world.tsu);
    assert.equal((await get('/repository/tsa-chain.pem')).status, 503);
    world.redis.publish(world.authority);
    world.now += freshMs;
    assert.deepEqual(namesOf(await (await get('/repository/tsa-chain.pem')).text()), ['tsu', 'authority']);
  });

  test('a certificate under another one’s name in Redis is published under its own digest only', async () => {
    world.redis.publish(world.authority);
    world.redis.hash['f'.repeat(64)] = world.tsu.certificate.toString();
    assert.equal((await get(`/repository/certificates/${'f'.repeat(64)}.cer`)).status, 404);
    assert.equal((await get(`/repository/certificates/${digestOf(world.tsu)}.cer`)).status, 200);
  });

  test('a long chain, and one that goes in circles', async () => {
    let issuer = world.root;
    const chain: Identity[] = [];
    for (let i = 1; i <= 5; i += 1) {
      issuer = world.pki.issue(`level-${i}`, { issuer, extensions: ca });
      chain.push(issuer);
    }
    const deep = world.pki.issue('deep', { issuer, extensions: leaf });
    const one = world.pki.issue('circle-one', { extensions: ca });
    const two = world.pki.issue('circle-two', { issuer: one, extensions: ca });
    world.redis.publish(deep, ...chain, one, two);
    const names = namesOf(await (await get('/repository/tsa-chain.pem')).text());
    assert.deepEqual(names.toSorted(), ['deep', 'level-1', 'level-2', 'level-3', 'level-4', 'level-5']);
    assert.equal((await world.published.chainOf(digestOf(deep)))?.length, 6);
  });

  test('an authority with two certificates, one of them below a strange root, in either order', async () => {
    const strange = world.pki.issue('cross-root', { extensions: ca });
    // The same key and name, certified by a root that is not trusted here.
    world.pki.openssl('req', '-new', '-key', world.authority.keyFile, '-subj', '/O=Test/CN=authority', '-out', 'cross.csr');
    const extensions = world.pki.file('cross.ext', ca.join('\n'));
    world.pki.openssl(
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
    const cross = world.pki.openssl('x509', '-in', 'cross.pem').toString();
    const right = world.authority.certificate.toString();
    for (const pems of [
      [cross, right],
      [right, cross],
    ]) {
      world.redis.hash = { a: pems[0] ?? '', b: pems[1] ?? '', c: world.tsu.certificate.toString() };
      world.now += freshMs;
      assert.deepEqual(
        namesOf(await (await get('/repository/tsa-chain.pem')).text()),
        ['tsu', 'authority'],
        pems.indexOf(cross) === 0 ? 'the cross first' : 'the cross last',
      );
    }
  });
});

describe('chains for certReq', () => {
  test('TSU first, without the root; synchronous once it was asked for', async () => {
    world.redis.publish(world.tsu, world.older, world.authority);
    const chain = await world.published.chainOf(digestOf(world.tsu));
    assert.deepEqual(
      chain?.map((der) => Buffer.from(der).toString('hex')),
      [world.tsu, world.authority].map(({ certificate }) => certificate.raw.toString('hex')),
    );
    assert.ok(!(world.published.chainOf(digestOf(world.tsu)) instanceof Promise));
    assert.ok(!(world.published.chainOf(digestOf(world.older)) instanceof Promise));
    assert.equal(world.redis.reads, 1);
  });

  test('a TSU that is new is looked for at once, not after five seconds', async () => {
    world.redis.publish(world.older, world.authority);
    await world.published.chainOf(digestOf(world.older));
    world.redis.publish(world.tsu);
    assert.equal((await world.published.chainOf(digestOf(world.tsu)))?.length, 2);
  });

  describe('as they were recorded', () => {
    const record = (of: Identity, ...chain: readonly (Identity | Buffer)[]): void => {
      world.redis.chains[digestOf(of)] = Buffer.concat(chain.map((one) => (Buffer.isBuffer(one) ? one : one.certificate.raw)));
    };
    const chainOf = async (of: Identity): Promise<string[] | undefined> =>
      (await world.published.chainOf(digestOf(of)))?.map((der) => createHash('sha256').update(der).digest('hex'));

    test('exactly these certificates, whatever else would do', async () => {
      // The same authority, certified a second time: both lead to the root.
      world.pki.openssl('req', '-new', '-key', world.authority.keyFile, '-subj', '/O=Test/CN=authority', '-out', 'again.csr');
      const file = world.pki.file('again.ext', ca.join('\n'));
      const signed = [
        '-set_serial',
        '98',
        '-days',
        '90',
        '-CA',
        world.root.certificateFile,
        '-CAkey',
        world.root.keyFile,
        '-out',
        'again.pem',
      ];
      world.pki.openssl('x509', '-req', '-in', 'again.csr', '-extfile', file, ...signed);
      const again = new X509Certificate(world.pki.openssl('x509', '-in', 'again.pem'));
      const digest = createHash('sha256').update(again.raw).digest('hex');
      world.redis.publish(world.tsu, world.authority);
      for (const name of ['0', 'f']) world.redis.hash[name] = again.toString();
      record(world.tsu, world.tsu, again.raw);
      assert.deepEqual(await chainOf(world.tsu), [digestOf(world.tsu), digest]);
      record(world.tsu, world.tsu, world.authority);
      world.restart();
      assert.deepEqual(await chainOf(world.tsu), [digestOf(world.tsu), digestOf(world.authority)]);
    });

    test('also when the certificates are published nowhere else', async () => {
      record(world.tsu, world.tsu, world.authority);
      assert.deepEqual(await chainOf(world.tsu), [digestOf(world.tsu), digestOf(world.authority)]);
    });

    test('what is no chain to a configured root is passed over', async () => {
      const strange = world.pki.issue('recorded-strange', { extensions: ca });
      const below = world.pki.issue('recorded-below', { issuer: strange, extensions: leaf });
      world.redis.publish(world.tsu, world.authority);
      const right = [digestOf(world.tsu), digestOf(world.authority)];
      for (const chain of [
        [],
        [Buffer.from('junk')],
        [world.tsu],
        [world.older, world.authority],
        [world.authority, world.tsu],
        [world.tsu, world.authority, Buffer.of(0x30)],
        [world.tsu, strange],
        [world.tsu, below, strange],
        [world.tsu, ...Array.from({ length: 10 }, () => world.authority)],
      ]) {
        record(world.tsu, ...chain);
        world.restart();
        assert.deepEqual(await chainOf(world.tsu), right);
      }
      record(below, below, strange);
      world.restart();
      assert.equal(await chainOf(below), undefined);
    });
  });

  test('many that ask for the same new one cause one read', async () => {
    world.redis.publish(world.tsu, world.authority);
    await Promise.all(Array.from({ length: 50 }, async () => world.published.chainOf(digestOf(world.tsu))));
    assert.equal(world.redis.reads, 1);
  });

  test('known chains stay while Redis is away; unknown ones are undefined, and found when it is back', async () => {
    world.redis.publish(world.older, world.authority);
    await world.published.chainOf(digestOf(world.older));
    world.redis.away = true;
    assert.equal((await world.published.chainOf(digestOf(world.older)))?.length, 2);
    assert.equal(await world.published.chainOf(digestOf(world.tsu)), undefined);
    world.redis.away = false;
    world.redis.publish(world.tsu);
    assert.equal((await world.published.chainOf(digestOf(world.tsu)))?.length, 2);
  });
});

describe('roots from a file', () => {
  test('one and several, with text around them', () => {
    const other = world.pki.issue('second-root', { extensions: ca });
    const file = world.pki.file('roots.pem', `Subject: somebody\n${world.root.certificate}\n# and\n${other.certificate}`);
    assert.deepEqual(
      readRoots(file).map(({ fingerprint256 }) => fingerprint256),
      [world.root.certificate.fingerprint256, other.certificate.fingerprint256],
    );
    assert.equal(readRoots(world.root.certificateFile).length, 1);
  });

  test('a file that is not there, or holds no certificate, or a broken one', () => {
    assert.throws(() => readRoots(`${world.pki.folder}/none.pem`), { code: 'CONFIG_UNREADABLE' });
    assert.throws(() => readRoots(world.pki.file('empty.pem', '')), { code: 'CERTIFICATE_INVALID' });
    assert.throws(() => readRoots(world.root.keyFile), { code: 'CERTIFICATE_INVALID' });
    const broken = world.pki.file('broken.pem', '-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n');
    assert.throws(() => readRoots(broken), { code: 'CERTIFICATE_INVALID' });
  });
});
