/** `sigillo journal search`, `stats` and `export`; `verify` is in journal-verify-command.test.ts. */
import assert from 'node:assert/strict';
import { type SpawnSyncReturns, spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, test } from 'node:test';
import { embeddedClient } from '../../observability/journal/clickhouse.ts';
import { type LocalServer, serveLocally } from '../../observability/journal/local-server.ts';
import { origin } from '../observability/journal/signed-journal.ts';
import { redisServerMissing } from '../support/redis-server.ts';
import { type CommandResult, runSigillo } from '../support/run-sigillo.ts';
import { rsa } from '../support/timestamp-world.ts';
import { journalHome } from './journal-home.ts';

const isoOf = (micros: number): string =>
  `${new Date(Math.floor(micros / 1_000)).toISOString().replace('Z', '')}${String(micros % 1_000).padStart(3, '0')}Z`;
const linesOf = (text: string): string[] => text.split('\n').filter((line) => line !== '');

describe('sigillo journal', { skip: redisServerMissing() }, () => {
  const world = journalHome();
  const { folder, paths, pki, journal, environment, run, runElsewhere, readings, reading } = world;

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
      assert.match(stdout, new RegExp(`^timestamp\\.issued +${stamps} +${stamps} +0 +[▁▂▃▄▅▆▇█·]+$`, 'm'));
      assert.match(stdout, /^time\.state +10 +10 +10 +[▁▂▃▄▅▆▇█·]+$/m);
      assert.match(stdout, new RegExp(`^all +${journal.size} +${journal.size} +10 `, 'm'));
      assert.match(readFileSync(picture, 'utf8'), /^<svg [\s\S]*timestamp\.issued[\s\S]*<\/svg>\n$/);
      const json = JSON.parse((await run('stats', '--json', '--from', '2027-01-10')).stdout) as {
        total: number;
        by: string;
        occurrences: number;
        kinds: { kind: string; total: number; failure: number[]; occurrences: { total: number; failure: number[] } }[];
      };
      assert.deepEqual([json.total, json.occurrences], [journal.size, journal.size]);
      for (const { total, failure, occurrences } of json.kinds)
        assert.deepEqual([occurrences.total, occurrences.failure], [total, failure]);
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
      assert.match((await run('export', '--out', out)).stdout, new RegExp(`entries 0 to ${world.covered - 1}, `));
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
        [1, '--to', String(world.covered + 1)],
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
