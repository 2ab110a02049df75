/** `sigillo journal verify`: the whole, a range, a copy in the hands of an auditor, and what somebody did to it. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { cpSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import type { SealedEvent } from '../../observability/journal/chain.ts';
import { embeddedClient } from '../../observability/journal/clickhouse.ts';
import type { JournalEvent } from '../../observability/journal/events.ts';
import { journalKeys } from '../../queue/keys.ts';
import { editedOctets, journalKey, noteOf, origin, TamperedStore, TestJournal } from '../observability/journal/signed-journal.ts';
import { redisServerMissing } from '../support/redis-server.ts';
import { type CommandResult, runSigillo } from '../support/run-sigillo.ts';
import { journalHome, pemOf } from './journal-home.ts';

describe('sigillo journal verify', { skip: redisServerMissing() }, () => {
  const world = journalHome();
  const { folder, paths, journal, environment, run, runElsewhere, readings } = world;

  interface Verdict {
    readonly kind: string;
    readonly fault?: string;
    readonly why?: string;
    readonly warnings?: readonly string[];
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
    assert.equal(verdict.unanchored, journal.size - world.covered);
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
    const { note } = journal.sealed.find(({ event }) => event.subject === String(world.covered))!.event.detail as { note: string };
    const file = join(folder.path, 'checkpoint');
    writeFileSync(file, note);
    assert.equal((await verdictOf(run('verify', '--checkpoint', file, '--json')))[1].anchors, 1);

    const beyond = noteOf(world.key, journal.size + 5, Buffer.alloc(32, 1));
    const truncated = async (): Promise<void> => {
      const [code, verdict] = await verdictOf(run('verify', '--json'));
      assert.deepEqual([code, verdict.fault, verdict.at], [1, 'truncated', journal.size]);
    };
    const published = JSON.stringify({ size: journal.size + 5, note: beyond, token: null });
    writeFileSync(paths.journalCheckpoint, published);
    await truncated();
    rmSync(paths.journalCheckpoint);
    await world.redis.set(journalKeys.checkpoint, published);
    await truncated();
    await world.redis.del(journalKeys.checkpoint);

    writeFileSync(file, noteOf(journalKey(), 5, Buffer.alloc(32)));
    const [code, verdict] = await verdictOf(run('verify', '--checkpoint', file, '--json'));
    assert.deepEqual([code, verdict.fault], [1, 'anchor-signature']);
    writeFileSync(file, '{"note": 5}');
    assert.equal((await run('verify', '--checkpoint', file)).code, 78);
  });

  test('another key: the place and the name of the fault', async () => {
    const other = join(folder.path, 'other.pem');
    writeFileSync(other, pemOf(journalKey().spki));
    const { code, stdout } = await run('verify', '--key', other);
    assert.equal(code, 1);
    assert.match(stdout, /^journal: NOT VALID: checkpoint-signature at entry \d+: /);
    // A key that the journal had before stands beside the one that it has.
    assert.equal((await run('verify', '--key', other, '--key', paths.journalKey)).code, 0);
  });

  /** What an auditor has to say for a copy that was tampered with. */
  const onCopy = async (name: string, tamper: (store: TamperedStore) => Promise<void>): Promise<string[]> => {
    const copy = join(folder.path, `copy-${name}`);
    cpSync(paths.journalFolder, copy, { recursive: true });
    const store = await TamperedStore.open(await embeddedClient(copy));
    await tamper(store);
    await store.store.close();
    return ['verify', '--store', copy, '--key', paths.journalKey, '--origin', origin];
  };
  const at = (sequence: number): SealedEvent => journal.sealed[sequence] as SealedEvent;
  const lastCheckpoint = (): SealedEvent => journal.sealed.findLast(({ event }) => event.kind === 'journal.checkpoint') as SealedEvent;

  const tamperings: readonly (readonly [what: string, fault: string, place: () => number, (store: TamperedStore) => Promise<void>])[] = [
    ['altered', 'altered', () => 70, (store) => store.replace(70, { event: at(70).event, octets: editedOctets(at(70).event) })],
    ['deleted', 'missing', () => 71, (store) => store.delete('sequence = 71')],
    [
      'exchanged with the next',
      'reordered',
      () => 72,
      async (store) => {
        await store.replace(72, at(73));
        await store.replace(73, at(72));
      },
    ],
    ['there twice', 'repeated', () => 74, (store) => store.put(74, at(74))],
    ['inserted', 'repeated', () => 75, (store) => store.put(75, { ...at(75), octets: editedOctets(at(75).event) })],
    ['no entry', 'malformed', () => 0, (store) => store.replace(0, { ...at(0), octets: randomBytes(200) })],
    [
      // With a signature that somebody else made, and everything behind it made anew.
      'a checkpoint of another key',
      'checkpoint-signature',
      () => lastCheckpoint().event.sequence,
      async (store) => {
        const { sequence, subject } = lastCheckpoint().event;
        const note = noteOf(journalKey(), Number(subject), Buffer.alloc(32));
        await store.delete(`sequence >= ${sequence}`);
        await store.insert(journal.rewriteFrom(sequence, (event) => ({ ...event, detail: { note } }) as JournalEvent));
      },
    ],
    [
      // An older one, whose signature is genuine, in the place of the newest.
      'a checkpoint that stood elsewhere',
      'checkpoint-malformed',
      () => lastCheckpoint().event.sequence,
      async (store) => {
        const { sequence } = lastCheckpoint().event;
        const { event: older } = journal.sealed.find(({ event }) => event.kind === 'journal.checkpoint') as SealedEvent;
        await store.delete(`sequence >= ${sequence}`);
        await store.insert(journal.rewriteFrom(sequence, (event) => ({ ...event, detail: older.detail }) as JournalEvent));
      },
    ],
  ];
  for (const [i, [what, fault, place, tamper]] of tamperings.entries()) {
    test(`an entry that is ${what}: exit status 1, and the place`, async () => {
      const [code, verdict] = await verdictOf(runElsewhere(...(await onCopy(`tampered-${i}`, tamper)), '--json'));
      assert.deepEqual([code, verdict.kind, verdict.fault, verdict.at], [1, 'fault', fault, place()]);
    });
  }
  test('the same for people', async () => {
    const { code, stdout } = await runElsewhere(...(await onCopy('for-people', (store) => store.delete('sequence = 71'))));
    assert.equal(code, 1);
    assert.match(stdout, /^journal: NOT VALID: missing at entry 71: /);
  });

  test('a chain made anew without checkpoints: a verdict of its own, by the defaults in a copy', async () => {
    const forged = new TestJournal(journalKey());
    for (const { event } of journal.sealed) {
      // 200 entries, one each second.
      const unixMicros = event.unixMicros + event.sequence * 1_000_000;
      if (event.kind !== 'journal.checkpoint') forged.append({ ...event, unixMicros } as JournalEvent);
    }
    const command = await onCopy('unsigned', async (store) => {
      await store.run('TRUNCATE TABLE journal_events');
      await store.insert(forged.sealed);
    });
    const { code, stdout } = await runElsewhere(...command);
    assert.equal(code, 1);
    assert.match(stdout, /^journal: NOT SIGNED: no signed checkpoint covers any of 201 entries, which span 204 s: /);
    assert.match(stdout, /covered +none by a signed checkpoint/);
    // Settings of the auditor's own service say nothing of the copy.
    const settings = environment({ SIGILLO__JOURNAL__CHECKPOINT__SECONDS: '3600' });
    const [jsonCode, verdict] = await verdictOf(runSigillo(['journal', ...command, '--json'], settings));
    assert.deepEqual([jsonCode, verdict.kind, verdict.entries], [1, 'unsigned', forged.size]);
    assert.match(verdict.why ?? '', /no signed checkpoint/);
  });

  test('a tail that is longer than the settings of the service allow: a warning', async () => {
    const store = await TamperedStore.open(await embeddedClient(paths.journalFolder));
    const { size } = journal;
    journal.unixMicros += 40_000_000;
    journal.stopped('x');
    await store.insert(journal.sealed.slice(size));
    await store.store.close();
    const { code, stdout } = await run('verify');
    assert.equal(code, 0);
    assert.match(stdout, /^journal: valid\n/);
    assert.match(stdout, /^ {2}warning +no checkpoint covers the last 3 entries, which span 40 s: that is more than/m);
    const settings = environment({ SIGILLO__JOURNAL__CHECKPOINT__SECONDS: '3600' });
    const [, verdict] = await verdictOf(runSigillo(['journal', 'verify', '--json'], settings));
    assert.deepEqual([verdict.kind, verdict.unanchored, verdict.warnings], ['valid', 3, []]);
  });
});
