/** `sigillo hsm` on real tokens: one works, one fails as it is told to, with a signer of its own. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { createPublicKey, generateKeyPairSync, hash } from 'node:crypto';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { Redis } from 'ioredis';
import pkcs11 from 'pkcs11js';
import type { EventDraft } from '../../observability/journal/events.ts';
import { type Ceremony, readCeremonies } from '../../queue/ceremonies.ts';
import { journalKeys } from '../../queue/keys.ts';
import { readSlots, type SlotStatus } from '../../queue/slot-status.ts';
import { addTsu, type TsuRecord, tsuRegisterKeys } from '../../queue/tsu-register.ts';
import { waitingEvents } from '../support/clients.ts';
import { withoutFaultyModule } from '../support/faulty-module/build.ts';
import { FaultyModule } from '../support/faulty-module/faulty-module.ts';
import { makeOperatorPki, OperatorTokens, operatorsPin } from '../support/operator-tokens.ts';
import { redisServerMissing, startTestRedis, type TestRedis } from '../support/redis-server.ts';
import { type CommandResult, runSigillo } from '../support/run-sigillo.ts';
import { freePort, until } from '../support/service.ts';
import { finished, softhsmPath, spawnFirstStart, temporaryFolder } from '../support/token-home.ts';

const repository = resolve(import.meta.dirname, '../..');
const [good, failing] = ['slot one', 'slot two'] as const;

describe('sigillo hsm', { skip: withoutFaultyModule || redisServerMissing() }, () => {
  const folder = temporaryFolder();
  const home = join(folder.path, 'home');
  const pinOfFailing = join(folder.path, 'pin of slot two');
  let server: TestRedis;
  let redis: Redis;
  let module: FaultyModule;
  let environment: Record<string, string>;
  const signers: ChildProcess[] = [];

  before(async () => {
    server = await startTestRedis();
    redis = server.connect();
    const tokens = new OperatorTokens(join(folder.path, 'hsm'));
    for (const label of [good, failing, 'records']) await tokens.addToken(label);
    const { keyFile, chainFile, rootsFile } = makeOperatorPki(tokens.path, 'ec-p256');
    for (const label of [good, failing]) await tokens.importKey(label, keyFile, 'our tsu');
    writeFileSync(pinOfFailing, `${operatorsPin}\n`, { mode: 0o600 });
    module = new FaultyModule({ modulePath: softhsmPath as string, environment: tokens.environment }, join(folder.path, 'hsm'));
    module.token(failing);
    const slots = [
      { label: good, purposes: ['timestamp'], pinFile: tokens.pinFile },
      { label: failing, purposes: ['timestamp'], pinFile: pinOfFailing },
      { label: 'records', purposes: ['journal'], pinFile: tokens.pinFile },
    ];
    const hsm = { mode: 'module', module: module.modulePath, environment: module.environment, slots };
    const settings = {
      hsm,
      redis: { mode: 'url', url: `unix://${server.socket}` },
      signer: { keepAliveMs: 1_000 },
      timestamp: { tsu: { source: 'installed', keyLabel: 'our tsu', chainFile } },
      trust: { rootsFile },
    };
    const configFile = join(folder.path, 'sigillo.json'); // YAML reads JSON
    writeFileSync(configFile, JSON.stringify(settings));
    environment = { SIGILLO_HOME: home, SIGILLO_CONFIG: configFile, SIGILLO_OPS_PORT: String(await freePort()) };
    const made = await finished(spawnFirstStart(home, { environment }));
    assert.equal(made.code, 0, made.stderr);
  });
  after(async () => {
    module?.reset();
    for (const signer of signers) if (signer.exitCode === null && signer.signalCode === null) signer.kill('SIGKILL');
    module?.close();
    await server.close();
    folder.remove();
  });

  const run = (...parameters: string[]): Promise<CommandResult> => runSigillo(['hsm', ...parameters], environment);
  const runWell = async (...parameters: string[]): Promise<string> => {
    const { code, stdout, stderr } = await run(...parameters);
    assert.equal(code, 0, stderr + stdout);
    return stdout;
  };
  const refused = async (code: string, ...parameters: string[]): Promise<string> => {
    const result = await run(...parameters);
    assert.notEqual(result.code, 0, result.stdout);
    assert.match(result.stderr, new RegExp(code));
    return result.stderr;
  };
  const told = async (slot: string = failing): Promise<SlotStatus | undefined> =>
    (await readSlots(redis)).find(({ status }) => status.slot === slot)?.status;
  const events = async (prefix: string): Promise<EventDraft[]> =>
    (await waitingEvents(redis, journalKeys.events)).filter(({ kind }) => kind.startsWith(prefix));

  interface Running {
    readonly child: ChildProcess;
    readonly output: () => string;
    readonly ended: Promise<number | null>;
  }
  const startSigner = async (slot: string): Promise<Running> => {
    const inherited = Object.entries(process.env).filter(([name]) => !name.startsWith('SIGILLO_') && name !== 'NODE_TEST_CONTEXT');
    const env = { ...Object.fromEntries(inherited), ...environment, SIGILLO_OPS_PORT: String(await freePort()), SIGILLO_SLOT: slot };
    const child = spawn(process.execPath, ['bin/sigillo.ts', 'signer'], { cwd: repository, env, stdio: ['ignore', 'pipe', 'pipe'] });
    signers.push(child);
    let output = '';
    for (const stream of [child.stdout, child.stderr])
      stream.setEncoding('utf8').on('data', (text: string) => {
        output += text;
      });
    return { child, output: () => output, ended: once(child, 'exit').then(([code]) => code as number | null) };
  };

  interface ListedSlot {
    readonly slot: string;
    readonly purposes: readonly string[];
    readonly signers: readonly (SlotStatus & { readonly toldSecondsAgo: number })[];
    readonly keys?: readonly Record<string, unknown>[];
    readonly error?: { readonly code: string };
  }
  const list = async (...parameters: string[]): Promise<ListedSlot[]> =>
    JSON.parse(await runWell('list', '--json', ...parameters)) as ListedSlot[];

  describe('keys', () => {
    const keygen = (label: string, algorithm: string, slot: string = good): string[] => [
      'keygen',
      ...['--slot', slot, '--label', label, '--algorithm', algorithm],
    ];
    let fingerprint: string;

    test('keygen: a key that does not leave the token, told to the journal; fingerprint and PEM are those of the same key', async () => {
      const stdout = await runWell(...keygen('spare', 'rsa-pss-2048'));
      const pem = /-----BEGIN PUBLIC KEY-----[^-]+-----END PUBLIC KEY-----/.exec(stdout)?.[0] ?? '';
      const spki = createPublicKey(pem).export({ format: 'der', type: 'spki' });
      fingerprint = hash('sha256', spki, 'hex');
      assert.ok(stdout.includes(fingerprint), stdout);
      const [event] = (await events('key.generated')).filter(({ subject }) => subject === 'spare');
      assert.ok(event?.kind === 'key.generated' && event.role === 'operator');
      assert.deepEqual([event.detail.token, event.detail.algorithm], [good, 'rsa-pss-2048']);
      assert.equal(Buffer.from(event.detail.spkiSha256).toString('hex'), fingerprint);
      const key = (await list()).find(({ slot }) => slot === good)?.keys?.find(({ label }) => label === 'spare');
      assert.deepEqual(key, {
        label: 'spare',
        type: 'RSA 2048',
        algorithm: 'rsa-pss-2048',
        nonExtractable: true,
        sensitive: true,
        local: true,
        spkiSha256: fingerprint,
        tsu: null,
        use: null,
        fault: null,
      });
    });

    test('keygen refuses a label that exists, a reserved one in the wrong slot, an algorithm and a slot that it does not know', async () => {
      await refused('HSM_KEY_EXISTS', ...keygen('spare', 'ec-p256'));
      await refused('HSM_KEY_PURPOSE', ...keygen('sigillo-journal', 'ec-p256'));
      await refused('HSM_KEY_PURPOSE', ...keygen('tsu-ec-p384-7', 'ec-p256'));
      await refused('USAGE.*ec-p384', ...keygen('other', 'ed25519'));
      await refused('USAGE.*slot one, slot two', ...keygen('other', 'ec-p256', 'slot nine'));
    });

    test('list: tables with the slots and their keys, and what these are for', async () => {
      const stdout = await runWell('list');
      assert.match(
        stdout,
        /^SLOT\s+PURPOSES\s+FOR\s+BY\s+STATE\s+SINCE \(UTC\)\s+HOST\s+SESSIONS\s+SIGN\/S\s+LAST ERROR \(UTC\)\s+HERE\s+MODULE\n/,
      );
      assert.match(stdout, /\nslot one +spare +RSA 2048 +yes +yes +yes +-\n/);
      assert.match(stdout, /\nslot two +our tsu +EC P-256 +(yes|no) +yes +no +-\n/, 'imported, not made there');
      assert.match(stdout, /\nrecords +sigillo-journal +EC P-256 +yes +yes +yes +journal\n/);
    });

    test('destroy: never what is needed, not without a yes, and then for good', async () => {
      const destroy = (label: string, slot: string, ...more: string[]): string[] => ['destroy', '--slot', slot, '--label', label, ...more];
      assert.match(await refused('HSM_KEY_IN_USE', ...destroy('our tsu', good, '--yes', '--force')), /register does not know/);
      await refused('HSM_KEY_IN_USE.*journal', ...destroy('sigillo-journal', 'records', '--yes'));
      await refused('HSM_KEY_MISSING', ...destroy('nothing', good, '--yes'));
      assert.match(await refused('USAGE', ...destroy('spare', good)), /Type its label again/);
      const spare = (await list()).find(({ slot }) => slot === good)?.keys?.find(({ label }) => label === 'spare');
      assert.ok(spare, 'nothing typed, nothing destroyed');
      const typed = (text: string): Promise<CommandResult> => runSigillo(['hsm', ...destroy('spare', good)], environment, undefined, text);
      assert.equal((await typed('spar\n')).code, 64);
      assert.match((await typed('spare\n')).stdout, /is destroyed/);
      const [event] = await events('key.destroyed');
      assert.ok(event?.kind === 'key.destroyed' && event.role === 'operator' && event.subject === 'spare');
      assert.equal((await list()).find(({ slot }) => slot === good)?.keys?.length, 1);
    });

    test('destroy of a TSU: refused while it stamps or will, and in the register when it is retired', async () => {
      const pem = /-----BEGIN PUBLIC KEY-----[^-]+-----END PUBLIC KEY-----/.exec(await runWell(...keygen('old tsu', 'ec-p256')))?.[0] ?? '';
      const spki = createPublicKey(pem).export({ format: 'der', type: 'spki' });
      const at = new Date().toISOString();
      const id = hash('sha256', spki, 'hex');
      const record = {
        version: 1,
        id,
        token: good,
        keyLabel: 'old tsu',
        algorithm: 'ec-p256',
        spki: spki.toString('base64'),
        generatedAt: at,
      } as const;
      const tell = (): Buffer => Buffer.from('not read here');
      const active: TsuRecord = { ...record, state: 'active' };
      await addTsu(redis, { kind: 'registered', record: active }, tell);
      const destroy = ['destroy', '--slot', good, '--label', 'old tsu', '--yes'];
      await refused('HSM_KEY_IN_USE.*active', ...destroy, '--force');
      await redis.hset(tsuRegisterKeys.tsus, id, JSON.stringify({ ...active, state: 'retired' }));
      await redis.del(tsuRegisterKeys.journal);
      await runWell(...destroy);
      const state = (JSON.parse((await redis.hget(tsuRegisterKeys.tsus, id)) ?? '') as TsuRecord).state;
      assert.equal(state, 'destroyed');
      const told = await waitingEvents(redis, tsuRegisterKeys.journal);
      assert.deepEqual(
        told.map(({ kind, role, subject }) => [kind, role, subject]),
        [['key.destroyed', 'operator', 'old tsu']],
      );
      await redis.hdel(tsuRegisterKeys.tsus, id);
    });

    test('dual control: neither is made nor destroyed what operators have not agreed to, and --yes changes nothing of it', async () => {
      const file = (name: string): string => join(folder.path, name);
      for (const name of ['anna', 'bruno']) {
        const { publicKey, privateKey } = generateKeyPairSync('ed25519');
        writeFileSync(file(`${name}.pub`), publicKey.export({ format: 'pem', type: 'spki' }));
        writeFileSync(file(`${name}.pem`), privateKey.export({ format: 'pem', type: 'pkcs8' }));
      }
      const operators = ['anna', 'bruno'].map((name) => `{ name: ${name}, publicKeyFile: "${file(`${name}.pub`)}" }`);
      const dual = { ...environment, SIGILLO__DUAL_CONTROL: `{ approvals: 2, operators: [${operators.join(', ')}] }` };
      const approveAll = async (action: string): Promise<void> => {
        const { id } = (await readCeremonies(redis)).find((one) => one.action === action) as Ceremony;
        for (const name of ['anna', 'bruno']) {
          const { code, stderr } = await runSigillo(['approve', id, '--operator', name, '--key', file(`${name}.pem`)], dual);
          assert.equal(code, 0, stderr);
        }
      };
      const destroy = ['destroy', '--slot', good, '--label', 'agreed', '--yes'];
      for (const [action, command] of [
        ['generate', keygen('agreed', 'ec-p256')],
        ['destroy', destroy],
      ] as const) {
        assert.match((await runSigillo(['hsm', ...command], dual)).stderr, /APPROVAL_NEEDED/);
        await approveAll(action);
        const { code, stderr } = await runSigillo(['hsm', ...command], dual);
        assert.equal(code, 0, stderr);
      }
      assert.deepEqual(
        (await readCeremonies(redis)).map(({ executedAt }) => executedAt !== undefined),
        [true, true],
      );
      assert.match((await runSigillo(['hsm', ...keygen('agreed', 'ec-p256')], dual)).stderr, /APPROVAL_NEEDED/, 'a ceremony is for once');
    });

    test('selftest: every key signs, and the speed of each slot for timestamps is measured', async () => {
      const stdout = await runWell('selftest');
      assert.match(stdout, /^SLOT +KEY +TYPE +MS +RESULT\n/);
      assert.match(stdout, /slot one +our tsu +EC P-256 +[\d.]+ +ok +certificate\n/);
      assert.match(stdout, /records +sigillo-journal +EC P-256 +[\d.]+ +ok +public key\n/);
      assert.match(
        stdout,
        /slot two, key "our tsu":\n +1 session +[\d.]+ signatures a second.*\n +32 sessions +[\d.]+ signatures a second/,
      );
    });

    test('selftest: a key that does not sign, and a slot that does not open, are rows, and the exit status is 1', async () => {
      const rule = module.token(failing).fail('C_Sign', pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED);
      const one = await run('selftest', '--slot', failing);
      assert.equal(one.code, 1, one.stderr);
      assert.match(one.stdout, /slot two +our tsu +EC P-256 +- +FAILED +HSM_REQUEST: .*CKR_KEY_FUNCTION_NOT_PERMITTED/);
      rule.clear();
      module.token(failing).vanish();
      const all = await run('selftest');
      module.token(failing).giveBack();
      assert.equal(all.code, 1, all.stderr);
      assert.match(all.stdout, /slot two +- +- +- +FAILED +HSM_TOKEN_MISSING/);
      assert.match(all.stdout, /slot one +our tsu .* ok/);
    });
  });

  describe('the state of a slot', () => {
    /** The field of its detail that tells most. */
    const hsmEvents = async (): Promise<string[]> =>
      (await events('hsm.')).map((event) => {
        if (event.kind === 'hsm.serving') return `serving ${event.subject}, before: ${event.detail.before}`;
        return event.kind === 'hsm.failed' ? `failed ${event.subject}: ${event.detail.class} ${event.detail.code}` : event.kind;
      });

    test('it serves, fails, is seen as failed while its process is away, and serves again', async () => {
      const first = await startSigner(failing);
      await until(
        () => `it serves${first.output()}`,
        async () => (await told())?.state === 'serving',
        30_000,
      );
      const [, serving] = await list('--no-login');
      assert.equal(serving?.keys, undefined);
      assert.equal(serving?.signers[0]?.processId, first.child.pid);
      assert.deepEqual(
        serving?.signers[0]?.keys.map(({ label }) => label),
        ['our tsu'],
      );
      assert.equal(serving?.signers[0]?.sessions.max, 32);
      assert.match(await runWell('list', '--no-login'), /slot two +timestamp +timestamp +signer +serving .* \d+ of 32 /);

      const journal = await told('records');
      assert.deepEqual([journal?.purpose, journal?.process, journal?.state], ['journal', `signer of ${failing}`, 'serving']);
      assert.match(await runWell('list', '--no-login'), /records +journal +journal +signer of slot two +serving .* 1 of 1 /);

      module.token(failing).fail('C_GetSessionInfo', pkcs11.CKR_DEVICE_REMOVED, { times: 1 });
      assert.equal(await first.ended, 75, first.output());
      const failed = await told();
      assert.equal(failed?.state, 'failed');
      assert.deepEqual(failed?.failures, { device: 1 });
      assert.deepEqual([failed?.lastError?.class, failed?.lastError?.code], ['device', 'HSM_DEVICE']);
      assert.match(failed?.lastError?.message ?? '', /CKR_DEVICE_REMOVED/);
      assert.match(
        await runWell('list'),
        /slot two +timestamp +timestamp +signer +failed .*HSM_DEVICE.* open +\S+\n/,
        'the token opens here',
      );

      const second = await startSigner(failing);
      await until(
        () => `it serves again${second.output()}`,
        async () => (await told())?.state === 'serving',
        30_000,
      );
      assert.equal((await told())?.lastError?.code, 'HSM_DEVICE', 'the last error stays');
      second.child.kill('SIGTERM');
      assert.equal(await second.ended, 0, second.output());
      assert.equal((await told())?.state, 'stopped');
      assert.deepEqual(await hsmEvents(), [
        `serving ${failing}, before: none`,
        `failed ${failing}: device HSM_DEVICE`,
        `serving ${failing}, before: failed`,
      ]);
    });

    test('a signer whose token hangs ends, also when the token of the journal hangs with it', async () => {
      const records = module.token('records');
      const signer = await startSigner(failing);
      await until(
        () => `it serves${signer.output()}`,
        async () => (await told())?.state === 'serving',
        30_000,
      );
      records.hang('C_CloseSession');
      module.token(failing).hang('C_GetSessionInfo', { times: 1 });
      await until(
        () => `it ends${signer.output()}`,
        () => signer.child.signalCode === 'SIGKILL',
        20_000,
      );
      assert.equal((await told())?.state, 'failed');
      module.reset();
    });

    test('a PIN that is refused is told, and tried by nobody again: not by a signer, and not by a command', async () => {
      writeFileSync(pinOfFailing, 'another pin\n');
      module.reset();
      const signer = await startSigner(failing);
      assert.equal(await signer.ended, 78, signer.output());
      assert.equal((await told())?.state, 'pin-refused');
      assert.equal((await told())?.lastError?.class, 'credential');
      assert.equal(await startSigner(failing).then(({ ended }) => ended), 78);
      const slots = await list();
      assert.equal(slots[1]?.error?.code, 'HSM_PIN_REFUSED');
      assert.equal(slots[0]?.keys?.length, 1, 'the others are listed');
      assert.match(await runWell('list'), /slot two +timestamp +timestamp +signer +pin-refused .* HSM_PIN_REFUSED +\S+\n/);
      assert.equal((await run('selftest', '--slot', failing)).code, 1);
      assert.equal(module.token(failing).counters.loginsRefused, 1);
      const refusals = (await events('hsm.')).filter(({ kind }) => kind === 'hsm.pinRefused');
      assert.equal(refusals.length, 1, 'the second start fails of what is known');
      for (const secret of [operatorsPin, 'another pin'])
        assert.ok(!(await redis.hvals('hsm:{hsm}:slots')).some((text) => text.includes(secret)));
    });

    test('without Redis: the keys are listed, and the rest is said to be missing', async () => {
      await server.stop();
      const { code, stdout, stderr } = await run('list');
      assert.equal(code, 0, stderr);
      assert.match(stderr, /Redis is away/);
      assert.match(stdout, /records +sigillo-journal /);
      await refused('REDIS_UNAVAILABLE', 'list', '--no-login');
    });
  });
});
