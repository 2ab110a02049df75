import assert from 'node:assert/strict';
import { createPrivateKey, createPublicKey, generateKeyPairSync, sign, X509Certificate } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { Redis } from 'ioredis';
import { type CertificateSigner, issueCertificate } from '../../authority/issue.ts';
import { homePaths } from '../../config/home.ts';
import { keyScheme } from '../../pki/algorithms.ts';
import { laneKeys } from '../../queue/keys.ts';
import { readTsus, type TsuRecord, tsuRegisterKeys } from '../../queue/tsu-register.ts';
import { waitingEvents } from '../support/clients.ts';
import { type LifecycleProcess, lifecycleEnvironment, startLifecycleProcess } from '../support/lifecycle-process.ts';
import { redisServerMissing, startTestRedis, type TestRedis } from '../support/redis-server.ts';
import { runSigillo } from '../support/run-sigillo.ts';
import { finished, openssl, softhsmPath, spawnFirstStart, temporaryFolder, withoutSofthsm } from '../support/token-home.ts';
import { until } from '../support/until.ts';

const day = 86_400_000;
/** A whole second, so many days from now. */
const at = (days: number): Date => new Date(Math.floor(Date.now() / 1_000) * 1_000 + days * day);
const usage = { keyUsage: 'critical,digitalSignature', extendedKeyUsage: 'critical,timeStamping', basicConstraints: 'critical,CA:FALSE' };

describe('an outside CA', { skip: withoutSofthsm || redisServerMissing() }, () => {
  const folder = temporaryFolder();
  const home = join(folder.path, 'home');
  const paths = homePaths(home);
  const file = (name: string): string => join(folder.path, name);
  let server: TestRedis;
  let redis: Redis;
  let lifecycle: LifecycleProcess;
  let outside: Readonly<Record<string, string>>;
  before(async () => {
    server = await startTestRedis();
    redis = server.connect();
    // Tokens and a first TSU as a demonstration makes them; from then on they are an operator's, of an outside CA.
    const made = await finished(
      spawnFirstStart(home, { environment: { SIGILLO__REDIS: `{ mode: url, url: "unix://${server.socket}" }` } }),
    );
    assert.equal(made.code, 0, made.stderr);
    const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-384' });
    writeFileSync(file('root.key'), privateKey.export({ format: 'pem', type: 'pkcs8' }));
    const spki = publicKey.export({ format: 'der', type: 'spki' });
    const signer: CertificateSigner = { scheme: keyScheme('ec-p384'), spki, sign: (tbs) => sign('sha384', tbs, privateKey) };
    const threeYearsAgo = new Date(Date.now() - 3 * 365 * day);
    const root = await issueCertificate({ kind: 'root-ca', spki, issuer: { signer, certificate: undefined }, now: threeYearsAgo });
    writeFileSync(file('root.pem'), root.toString());
    writeFileSync(file('roots.pem'), readFileSync(file('root.pem'), 'utf8') + readFileSync(paths.rootCertificate, 'utf8'));
    const slot = (label: string, purpose: string): string =>
      `{ label: ${label}, purposes: [${purpose}], pinFile: "${paths.pinFolder}/${label}.pin" }`;
    outside = await lifecycleEnvironment(home, server.socket, {
      SIGILLO__HSM: `{ mode: module, module: "${softhsmPath}", environment: { SOFTHSM2_CONF: "${paths.softhsmConf}" }, slots: [${slot('sigillo-timestamp', 'timestamp')}, ${slot('sigillo-journal', 'journal')}] }`,
      SIGILLO__TIMESTAMP__TSU: `{ source: installed, keyLabel: tsu-ec-p256-1, chainFile: "${paths.pkiFolder}/tsu-ec-p256-1.pem" }`,
      SIGILLO__TRUST__ROOTS_FILE: file('roots.pem'),
    });
    lifecycle = await startLifecycleProcess(outside);
    await until('the installed TSU is registered', async () => (await tsus()).length === 1);
  });
  after(async () => {
    await lifecycle?.stop();
    await server.close();
    folder.remove();
  });

  const tsus = async (): Promise<TsuRecord[]> => (await readTsus(redis)).tsus;
  const run = (...parameters: string[]) => runSigillo(parameters, outside);
  /** The outside CA at its work. */
  const certify = (name: string, extensions: Readonly<Record<string, string>>, ...more: string[]): string => {
    writeFileSync(
      file('extensions'),
      `[e]\n${Object.entries(extensions)
        .map(([key, value]) => `${key}=${value}\n`)
        .join('')}`,
    );
    openssl(
      'x509',
      '-req',
      '-in',
      file('tsu.csr'),
      '-CA',
      file('root.pem'),
      '-CAkey',
      file('root.key'),
      '-extfile',
      file('extensions'),
      '-extensions',
      'e',
      '-days',
      '2190',
      ...more,
      '-out',
      file(name),
    );
    return file(name);
  };
  const certifyAt = async (name: string, now: Date, use?: { activateAt: Date; usableUntil: Date }): Promise<string> => {
    const key = createPrivateKey(readFileSync(file('root.key')));
    const spki = createPublicKey(key).export({ format: 'der', type: 'spki' });
    const signer: CertificateSigner = { scheme: keyScheme('ec-p384'), spki, sign: (tbs) => sign('sha384', tbs, key) };
    const of = Buffer.from(((await tsus()).find(({ state }) => state === 'generated') as TsuRecord).spki, 'base64');
    const issuer = { signer, certificate: new X509Certificate(readFileSync(file('root.pem'))) };
    const certificate = await issueCertificate({ kind: 'tsu', spki: of, issuer, now, ...(use !== undefined && { use }), validityYears: 1 });
    writeFileSync(file(name), certificate.toString());
    return file(name);
  };

  test('request: a key in the token, and a PKCS#10 that OpenSSL verifies; again: the same key', async () => {
    const subject = ['--subject', 'C=IT,O=Esempio S.p.A.,CN=Esempio TSU 2'];
    const { code, stdout, stderr } = await run('tsu', 'request', ...subject, '--out', file('tsu.csr'));
    assert.equal(code, 0, stderr);
    const record = (await tsus())[1] as TsuRecord;
    assert.deepEqual([record.state, record.keyLabel], ['generated', 'tsu-ec-p256-2']);
    assert.ok(stdout.includes(record.id));
    const text = openssl('req', '-verify', '-in', file('tsu.csr'), '-noout', '-text', '-nameopt', 'sep_comma_plus_space');
    assert.match(text, /Subject: C=IT, O=Esempio S\.p\.A\., CN=Esempio TSU 2\n/);
    assert.match(text, /X509v3 Extended Key Usage: critical\s+Time Stamping\n/);
    assert.equal((await run('tsu', 'request', ...subject, '--out', file('tsu.csr'))).code, 64, 'the file exists');
    assert.equal((await run('tsu', 'request', ...subject, '--out', file('again.csr'))).code, 0);
    assert.equal((await tsus()).length, 2);
    assert.equal((await run('tsu', 'request', '--subject', 'CN=', '--out', file('none.csr'))).code, 64);
    assert.match((await run('tsu', 'list')).stdout, /tsu-ec-p256-2\s+sigillo-timestamp\s+requested/);
    assert.match((await run('tsu', 'rotate')).stderr, /tsu request/);
  });

  test('install: each kind of wrong certificate is refused, with the reason', async () => {
    openssl(
      'req',
      '-x509',
      '-newkey',
      'ec',
      '-pkeyopt',
      'ec_paramgen_curve:P-384',
      '-nodes',
      '-subj',
      '/CN=Stranger',
      '-keyout',
      file('stranger.key'),
      '-out',
      file('stranger.pem'),
    );
    const { extendedKeyUsage: _, ...withoutPurpose } = usage;
    const wrong: readonly (readonly [string, RegExp])[] = [
      [certify('purpose.pem', withoutPurpose), /only, critical extended key usage/],
      [certify('uncritical.pem', { ...usage, extendedKeyUsage: 'timeStamping' }), /only, critical extended key usage/],
      [certify('two.pem', { ...usage, extendedKeyUsage: 'critical,timeStamping,clientAuth' }), /only, critical extended key usage/],
      [certify('usage.pem', { ...usage, keyUsage: 'critical,digitalSignature,keyEncipherment' }), /key usage must be/],
      [certify('lax.pem', { ...usage, keyUsage: 'digitalSignature' }), /key usage is not critical/],
      [certify('ca.pem', { ...usage, basicConstraints: 'critical,CA:TRUE' }), /that of a CA/],
      [certify('stranger-issued.pem', usage, '-CA', file('stranger.pem'), '-CAkey', file('stranger.key')), /CERTIFICATE_INVALID/],
      [
        await certifyAt('used-up.pem', new Date(), {
          activateAt: at(-99),
          usableUntil: at(-9),
        }),
        /may not be used after/,
      ],
      [
        await certifyAt('fraction.pem', new Date(), { activateAt: at(0), usableUntil: new Date(at(9).getTime() + 1) }),
        /privateKeyUsagePeriod cannot be read/,
      ],
      [await certifyAt('expired.pem', new Date(Date.now() - 800 * day)), /it has expired/],
      [await certifyAt('future.pem', new Date(Date.now() + 3 * day)), /it is valid from/],
      [file('root.pem'), /TSU_UNKNOWN/],
      [join(paths.pkiFolder, 'tsu-ec-p256-1.pem'), /TSU_STATE.*active/],
      [file('tsu.csr'), /CERTIFICATE_INVALID/],
      [file('nothing.pem'), /CONFIG_UNREADABLE/],
    ];
    for (const [name, why] of wrong) {
      const { code, stderr } = await run('tsu', 'install', name);
      assert.notEqual(code, 0, name);
      assert.match(stderr, why, name);
    }
    assert.equal((await tsus())[1]?.state, 'generated');
  });

  test('install: the right one is used when its predecessor ends, published, and kept', async () => {
    const right = certify('right.pem', usage);
    const { code, stderr } = await run('tsu', 'install', right);
    assert.equal(code, 0, stderr);
    await until('its use is settled', async () => (await tsus())[1]?.activateAt !== undefined);
    const [first, second] = (await tsus()) as [TsuRecord, TsuRecord];
    assert.equal(second.state, 'certified');
    assert.equal(Date.parse(second.activateAt!), Date.parse(first.usableUntil!) - 86_400_000);
    const digest = new X509Certificate(readFileSync(right)).fingerprint256.replaceAll(':', '').toLowerCase();
    assert.ok(await redis.hexists(laneKeys('timestamp').chains, digest));
    assert.ok(existsSync(join(paths.pkiFolder, 'tsu-ec-p256-2.pem')));
    assert.match((await run('tsu', 'install', right)).stderr, /TSU_STATE/);
    const kinds = (await waitingEvents(redis, tsuRegisterKeys.journal)).map(({ kind }) => kind);
    assert.deepEqual(kinds, [
      'key.registered',
      'key.generated',
      'certificate.requested',
      'certificate.requested',
      'certificate.installed',
      'key.scheduled',
    ]);
  });

  test('compromise: it is told what to demand from the CA', async () => {
    const { code, stdout } = await run('tsu', 'compromise', 'tsu-ec-p256-2', '--reason', 'the card was copied');
    assert.equal(code, 0);
    assert.match(stdout, /Demand at once:\n {2}- revocation of the certificate [0-9a-f]+, with the reason keyCompromise/);
  });
});
