import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { Redis } from 'ioredis';
import { readCrl } from '../../authority/crl.ts';
import { homePaths } from '../../config/home.ts';
import { createPublishedCertificates } from '../../gateway/published-certificates.ts';
import { createRepositoryApp } from '../../gateway/repository-app.ts';
import { journalKeys } from '../../queue/keys.ts';
import { readTsus, type TsuRecord, tsuRegisterKeys } from '../../queue/tsu-register.ts';
import { mayStamp } from '../../signer/tsu-calendar.ts';
import { waitingEvents } from '../support/clients.ts';
import { type LifecycleProcess, lifecycleEnvironment, startLifecycleProcess } from '../support/lifecycle-process.ts';
import { redisServerMissing, startTestRedis, type TestRedis } from '../support/redis-server.ts';
import { runSigillo } from '../support/run-sigillo.ts';
import { openssl, temporaryFolder, withoutSofthsm } from '../support/token-home.ts';
import { until } from '../support/until.ts';

describe('sigillo tsu, with a lifecycle process', { skip: withoutSofthsm || redisServerMissing() }, () => {
  const folder = temporaryFolder();
  const paths = homePaths(folder.path);
  let server: TestRedis;
  let redis: Redis;
  let lifecycle: LifecycleProcess;
  before(async () => {
    server = await startTestRedis();
    redis = server.connect();
    lifecycle = await startLifecycleProcess(await lifecycleEnvironment(folder.path, server.socket));
    await until('the TSU is registered', async () => (await tsus()).length === 1);
  });
  after(async () => {
    await lifecycle.stop();
    await server.close();
    folder.remove();
  });

  const tsus = async (): Promise<TsuRecord[]> => (await readTsus(redis)).tsus;
  const run = (...parameters: string[]) => runSigillo(parameters, lifecycle.environment);
  const stamping = async (): Promise<string[]> =>
    (await tsus()).filter((record) => mayStamp(record, new Date())).map(({ keyLabel }) => keyLabel);

  test('list: a table for people, JSON for programs', async () => {
    const { stdout, code } = await run('tsu', 'list');
    assert.equal(code, 0);
    assert.match(stdout, /^ID\s+KEY\s+TOKEN\s+STATE\s+FROM \(UTC\)\s+UNTIL \(UTC\)\s+DAYS\s+SERIAL\s+CERTIFICATE\n/);
    assert.match(stdout, /tsu-ec-p256-1\s+sigillo-timestamp\s+active\*\s.*CN=Sigillo Demonstration TSU/);
    const [one] = JSON.parse((await run('tsu', 'list', '--json')).stdout) as Record<string, unknown>[];
    assert.equal(one?.['state'], 'active');
    assert.equal(one['stampsNow'], true);
    assert.match((one['certificate'] as { serialNumber: string }).serialNumber, /^[0-9a-f]{32}$/);
    for (const secret of ['spki', 'chain']) assert.ok(!(secret in one));
  });

  test('the last one that stamps is not retired by mistake', async () => {
    const refused = await run('tsu', 'retire', 'tsu-ec-p256-1');
    assert.equal(refused.code, 1);
    assert.match(refused.stderr, /TSU_STATE/);
    assert.match((await run('tsu', 'retire', 'nothing')).stderr, /TSU_UNKNOWN/);
  });

  test('rotate: another one stamps when the command ends, and then the first is retired', async () => {
    const { stdout, code, stderr } = await run('tsu', 'rotate');
    assert.equal(code, 0, stderr + lifecycle.output());
    assert.match(stdout, /tsu-ec-p256-2 stamps since/);
    assert.deepEqual(await stamping(), ['tsu-ec-p256-1', 'tsu-ec-p256-2']);
    assert.equal((await run('tsu', 'retire', 'tsu-ec-p256-1')).code, 0);
    assert.deepEqual(await stamping(), ['tsu-ec-p256-2']);
    const again = await run('tsu', 'retire', 'tsu-ec-p256-1');
    assert.match(again.stderr, /TSU_STATE.* retired/);
    const events = await waitingEvents(redis, tsuRegisterKeys.journal);
    assert.deepEqual(
      events.filter(({ role }) => role === 'operator').map(({ kind }) => kind),
      ['key.rotationOrdered', 'key.retired'],
    );
  });

  test('a record that cannot be read is said, and keeps no operator from the others', async () => {
    const id = 'f'.repeat(64);
    await redis.hset(tsuRegisterKeys.tsus, id, '{ "version": 2 }');
    const { stdout, stderr, code } = await run('tsu', 'list');
    assert.equal(code, 0);
    assert.match(stdout, /tsu-ec-p256-2/);
    assert.match(stderr, new RegExp(`left out: .*${id}`));
    await redis.hdel(tsuRegisterKeys.tsus, id);
  });

  test('compromise: nobody stamps with it, another one does at once, and OpenSSL knows why', async () => {
    const before = (await tsus()).find(({ keyLabel }) => keyLabel === 'tsu-ec-p256-2') as TsuRecord;
    const { stdout, code, stderr } = await run('tsu', 'compromise', before.id.slice(0, 10), '--reason', 'the HSM was opened');
    assert.equal(code, 0, stderr + lifecycle.output());
    assert.match(stdout, /is compromised since/);
    assert.match(stdout, /Revoked \(keyCompromise\) in CRL \d+, at \/repository\/timestamp-ca\.crl/);
    assert.match(stdout, /Tell your clients/);
    await until('another one stamps', async () => (await stamping()).includes('tsu-ec-p256-3'));
    assert.ok(!(await stamping()).includes('tsu-ec-p256-2'));

    const published = createPublishedCertificates(redis, [new X509Certificate(readFileSync(paths.rootCertificate))]);
    const answer = await createRepositoryApp(published).request('/repository/timestamp-ca.crl');
    assert.equal(answer.headers.get('content-type'), 'application/pkix-crl');
    const der = Buffer.from(await answer.arrayBuffer());
    const file = join(folder.path, 'published.crl');
    const pem = join(folder.path, 'published.crl.pem');
    writeFileSync(file, der);
    const text = openssl('crl', '-inform', 'DER', '-in', file, '-noout', '-text', '-CAfile', paths.timestampCaCertificate);
    const serial = new X509Certificate(Buffer.from(before.chain?.[0] ?? '', 'base64')).serialNumber;
    assert.match(text, new RegExp(`Serial Number: ${serial}[\\s\\S]*X509v3 CRL Reason Code: \\s+Key Compromise`));
    assert.match(text, /X509v3 CRL Number/);
    assert.match(text, /X509v3 Authority Key Identifier/);
    openssl('crl', '-inform', 'DER', '-in', file, '-out', pem);
    // The CA's CRL alone: the root has none, and is not asked for one.
    const verify = (n: number): string =>
      openssl(
        'verify',
        '-crl_check',
        '-CAfile',
        paths.rootCertificate,
        '-untrusted',
        paths.timestampCaCertificate,
        '-CRLfile',
        pem,
        join(paths.pkiFolder, `tsu-ec-p256-${n}.pem`),
      );
    assert.match(verify(3), /OK/);
    assert.match(verify(1), /OK/, 'retired, and not revoked');
    assert.throws(() => verify(2), /certificate revoked/);
    const told = (await waitingEvents(redis, journalKeys.events)).filter(({ kind }) => kind === 'certificate.revoked');
    assert.deepEqual(
      told.map(({ subject, detail }) => [subject, (detail as { reason: string }).reason]),
      [[serial.toLowerCase(), 'keyCompromise']],
    );
  });

  test('Redis comes back empty: register, revocation and CRL are there again, and the number grows', async () => {
    const was = await tsus();
    const listed = readCrl((await redis.hgetBuffer(tsuRegisterKeys.crls, 'timestamp-ca.crl')) as Buffer);
    await until('the records are on disk', () =>
      was.every((record) => readFileSync(join(paths.pkiFolder, `${record.keyLabel}.json`), 'utf8').includes(record.state)),
    );
    await redis.flushall();
    await until('the register is filled again', async () => (await tsus()).length === was.length, 20_000);
    const byId = (records: readonly TsuRecord[]) =>
      records.map(({ id, state, compromised }) => ({ id, state, compromised })).sort((a, b) => a.id.localeCompare(b.id));
    assert.deepEqual(byId(await tsus()), byId(was));
    // Its ticks are others than those of the register, and come back like these.
    await until('the CRL is there again', async () => (await redis.hexists(tsuRegisterKeys.crls, 'timestamp-ca.crl')) === 1, 20_000);
    const again = readCrl((await redis.hgetBuffer(tsuRegisterKeys.crls, 'timestamp-ca.crl')) as Buffer);
    assert.ok(again.number >= listed.number);
    assert.deepEqual(again.revoked, listed.revoked);
  });

  test('one that was taken away with its token is revoked, and stays so when Redis comes back empty', async () => {
    await lifecycle.stop();
    const [lost] = (await tsus()).filter((record) => mayStamp(record, new Date())) as [TsuRecord];
    const { keyLabel, chain } = lost;
    const serial = new X509Certificate(Buffer.from(chain?.[0] ?? '', 'base64')).serialNumber.toLowerCase();
    const folders = readdirSync(paths.tokenFolder).map((name) => join(paths.tokenFolder, name));
    const token = folders.find((one) => readFileSync(join(one, 'token.object')).includes('sigillo-timestamp')) as string;
    renameSync(token, join(folder.path, 'taken away'));
    const revoked = async (): Promise<string[]> => {
      const crl = await redis.hgetBuffer(tsuRegisterKeys.crls, 'timestamp-ca.crl');
      return crl === null ? [] : readCrl(crl).revoked.map((one) => one.serial);
    };
    await run('tsu', 'compromise', keyLabel, '--reason', 'the HSM was stolen', '--wait', '0');
    const { code, stderr } = await run('lifecycle');
    assert.equal(code, 75, stderr);
    assert.match(stderr, /HSM_TOKEN_MISSING.*sigillo-timestamp/);
    assert.ok((await revoked()).includes(serial), (await revoked()).join());

    await redis.flushall();
    rmSync(paths.timestampCaCrl);
    await run('lifecycle');
    assert.ok((await revoked()).includes(serial), (await revoked()).join());
  });
});
