import assert from 'node:assert/strict';
import { generateKeyPairSync, type KeyObject } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { Redis } from 'ioredis';
import { homePaths } from '../../config/home.ts';
import { decodeDrafts } from '../../observability/journal/draft-block.ts';
import { type Ceremony, readCeremonies } from '../../queue/ceremonies.ts';
import { journalKeys } from '../../queue/keys.ts';
import { readTokens, readTsus, tsuRegisterKeys } from '../../queue/tsu-register.ts';
import { waitingEvents } from '../support/clients.ts';
import { type LifecycleProcess, lifecycleEnvironment, startLifecycleProcess } from '../support/lifecycle-process.ts';
import { redisServerMissing, startTestRedis, type TestRedis } from '../support/redis-server.ts';
import { runSigillo } from '../support/run-sigillo.ts';
import { openssl, temporaryFolder, withoutSofthsm } from '../support/token-home.ts';
import { until } from '../support/until.ts';

const passphrase = 'a long passphrase';

describe('dual control: two of three operators', { skip: withoutSofthsm || redisServerMissing() }, () => {
  const folder = temporaryFolder();
  const home = join(folder.path, 'home');
  const paths = homePaths(home);
  const file = (name: string): string => join(folder.path, name);
  let server: TestRedis;
  let redis: Redis;
  let lifecycle: LifecycleProcess;

  const write = (name: string, { publicKey, privateKey }: { publicKey: KeyObject; privateKey: KeyObject }): void => {
    writeFileSync(file(`${name}.pub`), publicKey.export({ format: 'pem', type: 'spki' }));
    writeFileSync(file(`${name}.pem`), privateKey.export({ format: 'pem', type: 'pkcs8', cipher: 'aes-256-cbc', passphrase }));
  };
  before(async () => {
    server = await startTestRedis();
    redis = server.connect();
    write('anna', generateKeyPairSync('ed25519'));
    write('bruno', generateKeyPairSync('ec', { namedCurve: 'P-256' }));
    write('carla', generateKeyPairSync('ec', { namedCurve: 'P-384' }));
    write('mallory', generateKeyPairSync('ed25519'));
    writeFileSync(file('passphrase'), `${passphrase}\n`);
    const operators = ['anna', 'bruno', 'carla'].map((name) => `{ name: ${name}, publicKeyFile: "${file(`${name}.pub`)}" }`);
    const dualControl = `{ approvals: 2, operators: [${operators.join(', ')}] }`;
    lifecycle = await startLifecycleProcess(await lifecycleEnvironment(home, server.socket, { SIGILLO__DUAL_CONTROL: dualControl }));
    await until('the TSU of the set-up is registered', async () => (await readTsus(redis)).tsus.length === 1);
  });
  after(async () => {
    await lifecycle.stop();
    await server.close();
    folder.remove();
  });

  const run = (...parameters: string[]) => runSigillo(parameters, lifecycle.environment);
  const approve = (id: string, operator: string, key = operator) =>
    run('approve', id, '--operator', operator, '--key', file(`${key}.pem`), '--passphrase-file', file('passphrase'));
  const states = async (): Promise<string[]> => (await readTsus(redis)).tsus.map(({ keyLabel, state }) => `${keyLabel} ${state}`);
  const open = async (action: string): Promise<Ceremony> => {
    let found: Ceremony | undefined;
    await until(`a ceremony: ${action}`, async () => {
      found = (await readCeremonies(redis)).find((one) => one.action === action && one.executedAt === undefined);
      return found !== undefined;
    });
    return found as Ceremony;
  };

  test('the journal hears who the operators are, from the lifecycle process', async () => {
    await until('all three are told', async () => {
      const entries = (await redis.xrangeBuffer(journalKeys.events, '-', '+')) as [Buffer, Buffer[]][];
      const added = entries.flatMap(([, fields]) => decodeDrafts(fields[1] as Buffer)).filter(({ kind }) => kind === 'operator.added');
      return added.map(({ subject }) => subject).join(' ') === 'anna bruno carla';
    });
  });

  test('a key is made only when two different operators have signed for it', async () => {
    assert.equal((await run('tsu', 'rotate')).code, 0);
    const { id } = await open('generate');
    assert.match((await run('approve', '--list')).stdout, new RegExp(`${id} {2}generate .* tsu-ec-p256-2 .* 0 of 2`));

    const refusals = [
      [await approve(id, 'mallory'), /no operator/],
      [await approve(id, 'anna', 'mallory'), /not the signature of anna/],
    ] as const;
    for (const [result, why] of refusals) {
      assert.equal(result.code, 1, result.stderr);
      assert.match(result.stderr, /APPROVAL_REFUSED/);
      assert.match(result.stderr, why);
    }
    assert.match((await approve(id, 'anna')).stdout, /1 of 2/);
    assert.match((await approve(id, 'anna')).stderr, /anna has approved it already/);
    assert.deepEqual(await states(), ['tsu-ec-p256-1 active']);
    assert.match((await approve(id, 'bruno')).stdout, /2 of 2/);
    await until('the key is made and certified', async () => (await states()).includes('tsu-ec-p256-2 certified'));
    assert.match((await approve(id, 'carla')).stderr, /executed/);
    assert.equal((await approve('0123456789abcdef', 'anna')).code, 1);
  });

  test('an approval cannot be replayed for another step, not even by who writes to Redis', async () => {
    const executed = (await readCeremonies(redis)).find(({ action }) => action === 'generate') as Ceremony;
    const waiting = await open('activate');
    assert.match(waiting.tsu ?? '', /^[0-9a-f]{64}$/);
    const forged = { ...waiting, approvals: [...executed.approvals, { ...executed.approvals[0], operator: 'carla' }] };
    await redis.hset(tsuRegisterKeys.ceremonies, waiting.id, JSON.stringify(forged));
    const forgedAt = Date.now();
    // The second look after it has seen it for certain.
    for (const ms of [0, 1])
      await until('it was looked at again', async () =>
        [...(await readTokens(redis)).values()].some((at) => at.getTime() > forgedAt + ms * 300),
      );
    assert.ok((await states()).includes('tsu-ec-p256-2 certified'));
    await redis.hset(tsuRegisterKeys.ceremonies, waiting.id, JSON.stringify(waiting));
  });

  test('activation: one signs here, the other one with OpenSSL on a machine of their own', async () => {
    const { id } = await open('activate');
    assert.equal((await approve(id, 'anna')).code, 0);
    writeFileSync(file('text'), (await run('approve', id, '--text')).stdout);
    openssl(
      'dgst',
      '-sha256',
      '-sign',
      file('bruno.pem'),
      '-passin',
      `file:${file('passphrase')}`,
      '-out',
      file('signature'),
      file('text'),
    );
    const brought = await run('approve', id, '--operator', 'bruno', '--signature', file('signature'));
    assert.match(brought.stdout, /2 of 2/, brought.stderr);
    await until('it is active', async () => (await states()).includes('tsu-ec-p256-2 active'));
  });

  test('every step is told, and refused ones too', async () => {
    const events = await waitingEvents(redis, tsuRegisterKeys.journal);
    const ceremony = events.filter(({ kind }) => kind.startsWith('ceremony.')).map(({ kind, actor }) => `${kind} ${actor}`);
    assert.deepEqual(ceremony, [
      'ceremony.requested lifecycle',
      'ceremony.approved anna',
      'ceremony.approved bruno',
      'ceremony.executed lifecycle',
      'ceremony.requested lifecycle',
      'ceremony.approved anna',
      'ceremony.approved bruno',
      'ceremony.executed lifecycle',
    ]);
    const refused = (await waitingEvents(redis, journalKeys.events)).filter(({ kind }) => kind === 'ceremony.refused');
    assert.equal(refused.length, 4);
  });

  test('minutes: signed, and OpenSSL verifies them', async () => {
    const minutes = file('minutes.txt');
    const { code, stderr, stdout } = await run('minutes', '--all', minutes);
    assert.equal(code, 0, stderr);
    assert.match(stdout, /2 ceremonies/);
    const text = readFileSync(minutes, 'utf8');
    assert.match(text, /^Minutes of key ceremonies, version 1\nJournal sigillo\.invalid\/journal\n/);
    assert.match(text, /What {9}generate of the key tsu-ec-p256-2 in the token sigillo-timestamp\n/);
    assert.match(text, /Approved {5}\S+ by anna\n {4}key {8}[0-9a-f]{64}\n {4}signature {2}\S+\n/);
    const made = (await readTsus(redis)).tsus.find(({ keyLabel }) => keyLabel === 'tsu-ec-p256-2');
    assert.ok(text.includes(`\n  Key made     ${made?.id}\n`), text);
    assert.doesNotMatch(text, /DOES NOT HOLD/);
    const verify = () => openssl('dgst', '-sha256', '-verify', paths.journalKey, '-signature', `${minutes}.sig`, minutes);
    assert.match(verify(), /Verified OK/);
    writeFileSync(minutes, text.replace('by anna', 'by carla'));
    assert.throws(verify, /Verification failure/i);
    assert.equal((await run('minutes', '--all', minutes)).code, 64);
    const one = (await readCeremonies(redis))[0] as Ceremony;
    assert.match((await run('minutes', one.id, minutes, '--force')).stdout, /1 ceremonies/);
  });

  test('a passphrase is asked from a file, and a wrong one is said', async () => {
    writeFileSync(file('wrong'), 'wrong\n');
    const { id } = (await readCeremonies(redis))[0] as Ceremony;
    const result = await run('approve', id, '--operator', 'anna', '--key', file('anna.pem'), '--passphrase-file', file('wrong'));
    assert.equal(result.code, 64);
    assert.doesNotMatch(result.stderr, new RegExp(passphrase));
  });
});
