/** The commands run as children, because one process alone can have the folder of the engine open. */
import assert from 'node:assert/strict';
import { type SpawnSyncReturns, spawnSync } from 'node:child_process';
import { createPublicKey } from 'node:crypto';
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { Redis } from 'ioredis';
import { operatorName } from '../../bin/commands/operator.ts';
import { homePaths } from '../../config/home.ts';
import { embeddedClient } from '../../observability/journal/clickhouse.ts';
import { decodeDrafts } from '../../observability/journal/draft-block.ts';
import { type LocalServer, serveLocally } from '../../observability/journal/local-server.ts';
import { noOrigin } from '../../observability/journal/origin.ts';
import { journalKeys } from '../../queue/keys.ts';
import {
  editedOctets,
  journalKey,
  noteOf,
  origin,
  TamperedStore,
  TestJournal,
  TestPki,
  testTsu,
} from '../observability/journal/signed-journal.ts';
import { redisServerMissing, startTestRedis, type TestRedis } from '../support/redis-server.ts';
import { type CommandResult, runSigillo } from '../support/run-sigillo.ts';
import { rsa } from '../support/timestamp-world.ts';
import { temporaryFolder } from '../support/token-home.ts';

const begin = Date.UTC(2027, 0, 10);
const isoOf = (micros: number): string =>
  `${new Date(Math.floor(micros / 1_000)).toISOString().replace('Z', '')}${String(micros % 1_000).padStart(3, '0')}Z`;
const linesOf = (text: string): string[] => text.split('\n').filter((line) => line !== '');

describe('sigillo journal', { skip: redisServerMissing() }, () => {
  const folder = temporaryFolder();
  const home = join(folder.path, 'home');
  const paths = homePaths(home);
  const pki = new TestPki();
  const key = journalKey();
  const journal = new TestJournal(key, begin);
  let server: TestRedis;
  let redis: Redis;
  /** Size of the last checkpoint. */
  let covered = 0;

  before(async () => {
    server = await startTestRedis();
    redis = server.connect();
    const tsu = testTsu(pki);
    journal.append({ kind: 'tsu.published', detail: { chain: tsu.chain }, subject: 'tsu' });
    for (let i = 0; i < 200; i += 1) {
      if (i % 50 === 49) {
        const checkpoint = journal.checkpoint(tsu.stamp);
        covered = journal.size;
        journal.append(checkpoint);
      }
      if (i % 20 === 0)
        journal.append({ kind: 'time.state', detail: { from: 'good', to: 'unknown' }, subject: 'node-1', outcome: 'failure' });
      else journal.stamp();
    }
    mkdirSync(paths.journalFolder, { recursive: true });
    mkdirSync(paths.pkiFolder, { recursive: true });
    const store = await TamperedStore.open(await embeddedClient(paths.journalFolder));
    await store.store.insert(journal.sealed.map((sealed) => ({ ...sealed, origin: noOrigin })));
    await store.store.close();
    const pem = createPublicKey({ key: Buffer.from(key.spki), format: 'der', type: 'spki' }).export({ format: 'pem', type: 'spki' });
    writeFileSync(paths.journalKey, pem);
    writeFileSync(paths.rootCertificate, readFileSync(join(pki.folder, 'root.pem')));
  });
  after(async () => {
    await server?.close();
    pki.close();
    folder.remove();
  });

  const environment = (more: Record<string, string> = {}): Record<string, string> => ({
    SIGILLO_HOME: home,
    SIGILLO__REDIS: JSON.stringify({ mode: 'url', url: `unix://${server.socket}` }),
    SIGILLO__JOURNAL__ORIGIN: origin,
    ...more,
  });
  const run = (...parameters: string[]): Promise<CommandResult> => runSigillo(['journal', ...parameters], environment());
  /** Without the home of the service: what an auditor has. */
  const runElsewhere = (...parameters: string[]): Promise<CommandResult> =>
    runSigillo(['journal', ...parameters], { SIGILLO_HOME: join(folder.path, 'elsewhere') });
  /** Readings that were recorded since the last call. */
  const readings = async (): Promise<unknown[]> => {
    const entries = await redis.xrangeBuffer(journalKeys.events, '-', '+');
    await redis.del(journalKeys.events);
    return entries.flatMap(([, fields]) =>
      decodeDrafts(fields[1] as Buffer).map(({ kind, subject, role, actor, detail }) => ({ kind, subject, role, actor, detail })),
    );
  };
  const reading = (subject: string, query: string, entries: number): unknown => ({
    kind: 'journal.read',
    subject,
    role: 'operator',
    actor: operatorName(),
    detail: { query, entries },
  });

  describe('search', () => {
    test('as JSON, newest first; the reading is recorded', async () => {
      const { code, stdout, stderr } = await run('search', '--kind', 'time.*', '--limit', '3', '--json');
      assert.equal(code, 0, stderr);
      const entries = linesOf(stdout).map((line) => JSON.parse(line) as { sequence: number; kind: string; detail: unknown });
      const expected = journal.sealed.filter(({ event }) => event.kind === 'time.state').toReversed();
      assert.deepEqual(
        entries.map(({ sequence }) => sequence),
        expected.slice(0, 3).map(({ event }) => event.sequence),
      );
      assert.deepEqual(entries[0]?.detail, { from: 'good', to: 'unknown' });
      assert.deepEqual(await readings(), [reading('entries', 'kind=time.* limit=3', 3)]);
    });

    test('as a table, oldest first', async () => {
      const { code, stdout, stderr } = await run('search', '--oldest-first', '--limit', '4');
      assert.equal(code, 0, stderr);
      const [heading, ...rows] = linesOf(stdout);
      assert.match(heading ?? '', /^SEQUENCE {2}TIME +KIND +ACTOR +SUBJECT +OUTCOME$/);
      const { event } = journal.sealed[2]!;
      assert.equal(rows.length, 4);
      assert.match(rows[0] ?? '', /^ +0 {2}2027-01-10T00:00:00.001000Z {2}tsu.published +journal +tsu +success$/);
      assert.ok(rows[2]?.includes(event.subject), 'a subject is whole where there is no terminal');
      assert.match(rows[2] ?? '', new RegExp(`^ +2 +${isoOf(event.unixMicros)} +timestamp.issued +journal`));
    });

    test('by a range of time, by subject, and nothing found', async () => {
      const { event } = journal.sealed[100]!;
      const from = isoOf(event.unixMicros);
      const one = await run('search', '--from', from, '--to', isoOf(event.unixMicros + 1), '--json');
      assert.equal((JSON.parse(one.stdout) as { sequence: number }).sequence, 100);
      const prefix = await run('search', '--subject', `${event.subject.slice(0, 12)}*`, '--json');
      assert.equal((JSON.parse(prefix.stdout) as { sequence: number }).sequence, 100);
      await readings();
      const none = await run('search', '--actor', 'nobody', '--outcome', 'success', '--node', 'node-1');
      assert.deepEqual([none.code, none.stdout], [1, '']);
      assert.deepEqual(await readings(), [reading('entries', 'actor=nobody outcome=success node=node-1 limit=100', 0)]);
    });

    test('wrong usage', async () => {
      for (const wrong of [
        ['--kind', 'nothing'],
        ['--outcome', 'good'],
        ['--from', 'yesterday'],
        ['--to', '2027-02-30'],
        ['--limit', '0'],
        ['--limit', 'x'],
        ['--actor', 'a'.repeat(300)],
      ]) {
        const { code, stderr } = await run('search', ...wrong);
        assert.equal(code, 64, wrong.join(' '));
        assert.match(stderr, /USAGE/);
      }
      assert.deepEqual(await readings(), []);
    });

    test('beside the running service; without Redis it is refused there', async () => {
      const client = await embeddedClient(paths.journalFolder);
      let socket: LocalServer | undefined;
      try {
        await client.query({ query: 'SELECT 1', format: 'JSONEachRow' });
        socket = await serveLocally(paths.journalSocket, client);
        const found = await run('search', '--limit', '1', '--json');
        assert.equal((JSON.parse(found.stdout) as { sequence: number }).sequence, journal.size - 1, found.stderr);
        assert.equal((await readings()).length, 1);
        const { code, stdout } = await run('verify', '--json');
        assert.deepEqual([code, (JSON.parse(stdout) as { kind: string }).kind], [0, 'valid']);
        const unrecorded = await runSigillo(
          ['journal', 'search'],
          environment({ SIGILLO__REDIS: '{mode: url, url: unix:///nonexistent/redis.sock}' }),
        );
        assert.deepEqual([unrecorded.code, unrecorded.stdout], [1, '']);
        assert.match(unrecorded.stderr, /REDIS_UNAVAILABLE/);
      } finally {
        await socket?.close();
        await client.close();
        rmSync(paths.journalSocket, { force: true });
      }
    });

    test('of a stopped service without Redis, and of a copy: it says that it is not recorded', async () => {
      const stopped = await runSigillo(
        ['journal', 'search', '--limit', '1'],
        environment({ SIGILLO__REDIS: '{mode: url, url: unix:///nonexistent/redis.sock}' }),
      );
      assert.equal(stopped.code, 0, stopped.stderr);
      assert.match(stopped.stderr, /not recorded/);
      const copy = await runElsewhere('search', '--limit', '1', '--store', paths.journalFolder);
      assert.equal(copy.code, 0, copy.stderr);
      assert.match(copy.stderr, /not recorded/);
      assert.equal(copy.stdout, stopped.stdout);
      const missing = await runElsewhere('search');
      assert.equal(missing.code, 1);
      assert.match(missing.stderr, /JOURNAL_STORE_UNAVAILABLE/);
      assert.ok(!existsSync(join(folder.path, 'elsewhere')), 'a store was made where there is none');
    });
  });

  describe('stats', () => {
    test('a table, JSON and a picture; the reading is recorded', async () => {
      await readings();
      const picture = join(folder.path, 'stats.svg');
      const { code, stdout, stderr } = await run('stats', '--by', 'hour', '--picture', picture);
      assert.equal(code, 0, stderr);
      const stamps = journal.sealed.filter(({ event }) => event.kind === 'timestamp.issued').length;
      assert.match(stdout, new RegExp(`^timestamp\\.issued +${stamps} +0 +[▁▂▃▄▅▆▇█·]+$`, 'm'));
      assert.match(stdout, /^time\.state +10 +10 +[▁▂▃▄▅▆▇█·]+$/m);
      assert.match(stdout, new RegExp(`^all +${journal.size} +10 `, 'm'));
      assert.match(readFileSync(picture, 'utf8'), /^<svg [\s\S]*timestamp\.issued[\s\S]*<\/svg>\n$/);
      const json = JSON.parse((await run('stats', '--json', '--from', '2027-01-10')).stdout) as {
        total: number;
        by: string;
        kinds: { kind: string; total: number; failure: number[] }[];
      };
      assert.equal(json.total, journal.size);
      assert.equal(
        json.kinds.find(({ kind }) => kind === 'time.state')?.failure.reduce((a, b) => a + b),
        10,
      );
      assert.deepEqual(await readings(), [
        reading('statistics', 'by=hour', journal.size),
        reading('statistics', 'from=2027-01-10', journal.size),
      ]);
    });

    test('of nothing, and wrong usage', async () => {
      const none = await run('stats', '--to', '2000-01-01');
      assert.deepEqual([none.code, none.stdout], [0, 'no entries\n']);
      for (const wrong of [
        ['--by', 'week'],
        ['--from', 'x'],
        ['--picture', '/nonexistent/folder/x.svg'],
      ]) {
        assert.equal((await run('stats', ...wrong)).code, 64, wrong.join(' '));
      }
    });
  });

  describe('verify', () => {
    interface Verdict {
      readonly kind: string;
      readonly fault?: string;
      readonly at?: number;
      readonly entries?: number;
      readonly timestamped?: number;
      readonly anchors?: number;
      readonly to?: number;
      readonly unanchored?: number;
      readonly entriesPerSecond?: number;
    }
    const verdictOf = async (result: Promise<CommandResult>): Promise<[number, Verdict]> => {
      const { code, stdout, stderr } = await result;
      assert.notEqual(stdout, '', stderr);
      return [code, JSON.parse(stdout) as Verdict];
    };

    test('the whole journal, for people and as JSON; it is no reading', async () => {
      await readings();
      const { code, stdout, stderr } = await run('verify');
      assert.equal(code, 0, stderr);
      assert.match(stdout, /^journal: valid\n/);
      assert.match(stdout, new RegExp(`entries +0 to ${journal.size - 1} \\(${journal.size} read, 0 expired\\)`));
      assert.match(stdout, /timestamps +4 of 4 checkpoints, the last of 2027-01-10T/);
      assert.match(stdout, /elsewhere +no checkpoint/);
      assert.match(stdout, /entries\/s/);
      const [, verdict] = await verdictOf(run('verify', '--json'));
      assert.deepEqual([verdict.kind, verdict.entries, verdict.timestamped, verdict.anchors], ['valid', journal.size, 4, 0]);
      assert.equal(verdict.unanchored, journal.size - covered);
      assert.ok((verdict.entriesPerSecond ?? 0) > 0);
      assert.deepEqual(await readings(), []);
    });

    test('a range, between the checkpoints around it', async () => {
      const [code, verdict] = await verdictOf(run('verify', '--from', '60', '--to', '80', '--json'));
      assert.equal(code, 0);
      assert.ok((verdict.entries ?? 0) < 120 && (verdict.to ?? 0) >= 80, JSON.stringify(verdict));
    });

    test('a copy in the hands of an auditor, with key and roots', async () => {
      const trust = ['--key', paths.journalKey, '--origin', origin, '--trust', paths.rootCertificate];
      const [code, verdict] = await verdictOf(runElsewhere('verify', '--store', paths.journalFolder, ...trust, '--json'));
      assert.deepEqual([code, verdict.kind, verdict.timestamped], [0, 'valid', 4]);
      const untrusted = await runElsewhere('verify', '--store', paths.journalFolder, ...trust.slice(0, 4));
      assert.match(untrusted.stdout, /timestamps +not verified/);
      const keyless = await runElsewhere('verify', '--store', paths.journalFolder);
      assert.equal(keyless.code, 78);
      assert.match(keyless.stderr, /--key/);
    });

    test('checkpoints that are held elsewhere: a file, beside the store, in Redis', async () => {
      const { note } = journal.sealed.find(({ event }) => event.subject === String(covered))!.event.detail as { note: string };
      const file = join(folder.path, 'checkpoint');
      writeFileSync(file, note);
      assert.equal((await verdictOf(run('verify', '--checkpoint', file, '--json')))[1].anchors, 1);

      const beyond = noteOf(key, journal.size + 5, Buffer.alloc(32, 1));
      const truncated = async (): Promise<void> => {
        const [code, verdict] = await verdictOf(run('verify', '--json'));
        assert.deepEqual([code, verdict.fault, verdict.at], [1, 'truncated', journal.size]);
      };
      const published = JSON.stringify({ size: journal.size + 5, note: beyond, token: null });
      writeFileSync(paths.journalCheckpoint, published);
      await truncated();
      rmSync(paths.journalCheckpoint);
      await redis.set(journalKeys.checkpoint, published);
      await truncated();
      await redis.del(journalKeys.checkpoint);

      writeFileSync(file, noteOf(journalKey(), 5, Buffer.alloc(32)));
      const [code, verdict] = await verdictOf(run('verify', '--checkpoint', file, '--json'));
      assert.deepEqual([code, verdict.fault], [1, 'anchor-signature']);
      writeFileSync(file, '{"note": 5}');
      assert.equal((await run('verify', '--checkpoint', file)).code, 78);
    });

    test('another key: the place and the name of the fault', async () => {
      const other = join(folder.path, 'other.pem');
      const { spki } = journalKey();
      writeFileSync(
        other,
        createPublicKey({ key: Buffer.from(spki), format: 'der', type: 'spki' }).export({ format: 'pem', type: 'spki' }),
      );
      const { code, stdout } = await run('verify', '--key', other);
      assert.equal(code, 1);
      assert.match(stdout, /^journal: NOT VALID: checkpoint-signature at entry \d+: /);
      // A key that the journal had before stands beside the one that it has.
      assert.equal((await run('verify', '--key', other, '--key', paths.journalKey)).code, 0);
    });

    for (const [name, at, tamper] of [
      [
        'altered',
        70,
        (store: TamperedStore) => store.replace(70, { event: journal.sealed[70]!.event, octets: editedOctets(journal.sealed[70]!.event) }),
      ],
      ['missing', 71, (store: TamperedStore) => store.delete('sequence = 71')],
    ] as const) {
      test(`an entry that is ${name}: exit status 1, and the place`, async () => {
        const copy = join(folder.path, `copy-${name}`);
        cpSync(paths.journalFolder, copy, { recursive: true });
        const store = await TamperedStore.open(await embeddedClient(copy));
        await tamper(store);
        await store.store.close();
        const trust = ['--store', copy, '--key', paths.journalKey, '--origin', origin];
        const [code, verdict] = await verdictOf(runElsewhere('verify', ...trust, '--json'));
        assert.deepEqual([code, verdict.kind, verdict.fault, verdict.at], [1, 'fault', name, at]);
        const { stdout } = await runElsewhere('verify', ...trust);
        assert.match(stdout, new RegExp(`^journal: NOT VALID: ${name} .*${at}`));
      });
    }
  });

  describe('export', () => {
    const verifyBundle = (file: string): Promise<CommandResult> =>
      runElsewhere('verify', '--bundle', file, '--key', paths.journalKey, '--origin', origin, '--trust', paths.rootCertificate);

    test('a range, which is verified elsewhere; the reading is recorded', async () => {
      await readings();
      const out = join(folder.path, 'range.bundle');
      const { code, stdout, stderr } = await run('export', '--from', '20', '--to', '120', '--out', out);
      assert.equal(code, 0, stderr);
      assert.match(stdout, /entries 20 to 119, /);
      assert.equal(statSync(out).mode & 0o777, 0o600);
      assert.ok(!readdirSync(dirname(out)).includes('range.bundle.new'));
      assert.deepEqual(await readings(), [reading('export', 'from=20 to=120', 100)]);
      const verified = await verifyBundle(out);
      assert.equal(verified.code, 0, verified.stdout);
      assert.match(verified.stdout, /entries +20 to 119 \(100 read/);
      assert.match(verified.stdout, /timestamps +of the checkpoint that covers them: 2027-01-10T/);

      const content = readFileSync(out);
      content[content.length / 2] = (content[content.length / 2] as number) ^ 1;
      const changed = join(folder.path, 'changed.bundle');
      writeFileSync(changed, content);
      const { code: changedCode, stdout: why } = await verifyBundle(changed);
      assert.equal(changedCode, 1);
      assert.match(why, /^journal: NOT VALID: /);
      assert.equal((await verifyBundle(join(folder.path, 'absent'))).code, 78);
      assert.equal((await runElsewhere('verify', '--bundle', out, '--from', '5')).code, 64);
    });

    test('all that a checkpoint covers, or what is of a time', async () => {
      const out = join(folder.path, 'all.bundle');
      assert.match((await run('export', '--out', out)).stdout, new RegExp(`entries 0 to ${covered - 1}, `));
      const again = await run('export', '--out', out);
      assert.equal(again.code, 64);
      assert.match(again.stderr, /--force/);
      const at = (sequence: number): string => isoOf(journal.sealed[sequence]!.event.unixMicros);
      assert.match((await run('export', '--out', out, '--force', '--from', at(30), '--to', at(40))).stdout, /entries 30 to 39, /);
      assert.equal((await verifyBundle(out)).code, 0);
    });

    test('what cannot be exported leaves no file', async () => {
      const out = join(folder.path, 'none.bundle');
      for (const [code, ...parameters] of [
        [1, '--to', String(covered + 1)],
        [64, '--from', '50', '--to', '50'],
        [64, '--from', 'x'],
        [64, '--from', '2100-01-01'],
        [78, '--recipient', '/nonexistent.pem'],
        [1, '--recipient', paths.journalKey],
      ] as const) {
        assert.equal((await run('export', '--out', out, ...parameters)).code, code, parameters.join(' '));
        assert.ok(!existsSync(out) && !existsSync(`${out}.new`), parameters.join(' '));
      }
      assert.equal((await run('export', '--out', '/nonexistent/folder/x')).code, 64);
    });

    test('encrypted: OpenSSL decrypts it with the key of the recipient alone, and what comes out is valid', async () => {
      const encrypts = ['keyUsage=critical,keyEncipherment'];
      const auditor = pki.issue('auditor', { key: rsa(2_048), extensions: encrypts });
      const other = pki.issue('other', { key: rsa(2_048), extensions: encrypts });
      const signs = pki.issue('signs', { key: rsa(2_048), extensions: ['keyUsage=critical,digitalSignature'] });
      const out = join(folder.path, 'export.cms');
      const { code, stderr } = await run('export', '--to', '100', '--out', out, '--recipient', auditor.certificateFile);
      assert.equal(code, 0, stderr);
      assert.ok(!readFileSync(out).includes('sigillo-journal-bundle'));
      const decrypt = ({ certificateFile, keyFile }: typeof auditor, to: string): SpawnSyncReturns<Buffer> =>
        spawnSync('openssl', [
          'cms',
          '-decrypt',
          '-binary',
          '-inform',
          'DER',
          '-in',
          out,
          '-recip',
          certificateFile,
          '-inkey',
          keyFile,
          '-out',
          to,
        ]);
      const decrypted = join(folder.path, 'decrypted.bundle');
      assert.equal(decrypt(auditor, decrypted).status, 0);
      const verified = await verifyBundle(decrypted);
      assert.equal(verified.code, 0, verified.stdout);
      assert.match(verified.stdout, /entries +0 to 99 \(100 read/);
      const stolen = join(folder.path, 'stolen.bundle');
      assert.notEqual(decrypt(other, stolen).status, 0);
      assert.ok(!existsSync(stolen) || !readFileSync(stolen).includes('sigillo'));
      const refused = await run('export', '--to', '100', '--out', `${out}2`, '--recipient', signs.certificateFile);
      assert.equal(refused.code, 1);
      assert.match(refused.stderr, /CERTIFICATE_INVALID.*keyEncipherment/s);
      assert.ok(!existsSync(`${out}2`));
    });
  });
});
