/** What the journal gives out, judged by docs/verify-journal.py: an auditor's program, which knows the formats and nothing of our code. */
import assert from 'node:assert/strict';
import { createHash, createPublicKey } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { Hono } from 'hono';
import { createJournalApp } from '../../gateway/journal-app.ts';
import { createJournalSource } from '../../gateway/journal-source.ts';
import { writeBundle } from '../../observability/journal/bundle.ts';
import { embeddedClient } from '../../observability/journal/clickhouse.ts';
import { JournalReader } from '../../observability/journal/reader.ts';
import { resumeTree } from '../../observability/journal/tree-store.ts';
import {
  editedOctets,
  type JournalKey,
  journalKey,
  noteOf,
  origin,
  TamperedStore,
  TestJournal,
  TestPki,
  type TestTsu,
  testTsu,
} from '../observability/journal/signed-journal.ts';
import { opensslMissing } from '../support/openssl-ts.ts';
import { type Finished, programMissing, runProgram } from '../support/service.ts';
import { temporaryFolder } from '../support/token-home.ts';

const program = fileURLToPath(new URL('../../docs/verify-journal.py', import.meta.url));
const skip = (await programMissing('python3', 'python3')) || (await opensslMissing());

const pemOf = (spki: Uint8Array): string =>
  createPublicKey({ key: Buffer.from(spki), format: 'der', type: 'spki' }).export({ format: 'pem', type: 'spki' }) as string;

describe('docs/verify-journal.py', { skip }, () => {
  const folder = temporaryFolder();
  const store = temporaryFolder();
  const pki = new TestPki();
  const key = journalKey();
  // Certificates begin when they are made, later than this line, and are judged at the time of the stamp.
  const begin = Date.now() + 60_000;
  const journal = new TestJournal(key, begin);
  const gone = `service-${new Date(begin).toISOString().slice(0, 7).replace('-', '')}`;
  /** Checkpoints by size. */
  const notes = new Map<number, string>();
  let tsu: TestTsu;
  let tampered: TamperedStore;
  let reader: JournalReader;
  let app: Hono;

  const file = (name: string, content: string | Uint8Array): string => {
    writeFileSync(join(folder.path, name), content);
    return name;
  };
  const checkpointNow = (of: JournalKey = key): string => noteOf(of, journal.size, journal.tree.root());

  /** 700 entries with checkpoints of 300 and 600, the second timestamped; what is `service` has expired. */
  before(async () => {
    tsu = testTsu(pki);
    journal.append({ kind: 'tsu.published', detail: { chain: tsu.chain } });
    while (journal.size < 700) {
      for (const at of [1, 2, 255, 256, 257, 300, 600]) if (journal.size === at) notes.set(at, checkpointNow());
      if (journal.size === 300 || journal.size === 600) journal.append(journal.checkpoint(journal.size === 600 ? tsu.stamp : undefined));
      else if (journal.size % 50 === 3) journal.stopped('größe');
      else journal.stamp();
    }
    tampered = await TamperedStore.open(await embeddedClient(store.path));
    await tampered.insert(journal.sealed);
    await tampered.expire(gone);
    reader = new JournalReader(tampered.client);
    await resumeTree(reader, journal.size);
    const newest = { note: notes.get(600) as string, token: null, size: 600 };
    app = createJournalApp({
      checkpoints: { newest: async () => newest },
      source: createJournalSource(async () => tampered.client),
      reading: { answer: () => assert.fail('nobody asks for a stamp by its serial number') },
      keyFile: '',
    });
    file('journal.pem', pemOf(key.spki));
    file('other.pem', pemOf(journalKey().spki));
    file('roots.pem', pki.openssl('x509', '-in', 'root.pem'));
    file(
      'wrong-roots.pem',
      pki.openssl('x509', '-in', pki.issue('stranger', { extensions: ['basicConstraints=critical,CA:TRUE'] }).certificateFile),
    );
  });
  after(async () => {
    await tampered?.store.close();
    pki.close();
    for (const { remove } of [folder, store]) remove();
  });

  const run = (...parameters: string[]): Promise<Finished> =>
    runProgram('python3', [program, ...parameters], { cwd: folder.path, env: { PATH: process.env['PATH'], PYTHONUTF8: '1' } });
  const accepts = async (told: RegExp, ...parameters: string[]): Promise<string> => {
    const { code, stdout, stderr } = await run(...parameters);
    assert.equal(code, 0, stderr);
    assert.match(stdout, told);
    return stdout;
  };
  const refuses = async (told: RegExp, ...parameters: string[]): Promise<void> => {
    const { code, stdout, stderr } = await run(...parameters);
    assert.match(stderr, told);
    assert.match(stderr, /^INVALID: [^\n]+\n$/, 'one line, no trace of the program');
    assert.deepEqual([code, stdout], [1, '']);
  };
  const withKey = ['--key', 'journal.pem'];

  describe('a bundle', () => {
    const write = async (from: number, to: number): Promise<Buffer> => {
      const chunks: Buffer[] = [];
      for await (const chunk of writeBundle(reader, { from, to, key })) chunks.push(chunk);
      return Buffer.concat(chunks);
    };
    for (const [from, to, size] of [
      [0, 1, 300],
      [0, 600, 600],
      [1, 2, 300],
      [255, 257, 300],
      [256, 300, 300],
      [299, 301, 600],
      [17, 600, 600],
      [599, 600, 600],
    ] as const) {
      test(`of ${from} to ${to} is accepted`, async () => {
        file('good.bundle', await write(from, to));
        const expired = journal.entriesOf(gone).filter(({ event }) => event.sequence >= from && event.sequence < to).length;
        const told = `valid: entries ${from} to ${to - 1} of ${origin}, ${expired} of them expired; by the checkpoint of ${size} entries`;
        await accepts(new RegExp(told), 'bundle', 'good.bundle', ...withKey);
      });
    }

    test('the timestamp of its checkpoint leads to the roots that are trusted', async () => {
      file('stamped.bundle', await write(310, 320));
      const year = new RegExp(`stamped \\w+ +\\d+ [\\d:.]+ ${new Date(begin).getUTCFullYear()} GMT$`, 'm');
      await accepts(year, 'bundle', 'stamped.bundle', ...withKey, '--roots', 'roots.pem');
      await accepts(/not looked at/, 'bundle', 'stamped.bundle', ...withKey);
      const untrusted = ['--roots', 'wrong-roots.pem'];
      await refuses(/the timestamp of the checkpoint: .*Verification: FAILED/, 'bundle', 'stamped.bundle', ...withKey, ...untrusted);
      file('unstamped.bundle', await write(0, 10));
      await accepts(/whose timestamp is absent/, 'bundle', 'unstamped.bundle', ...withKey, '--roots', 'roots.pem');
    });

    test('shows what the entries say', async () => {
      file('shown.bundle', await write(298, 302));
      const shown = (await accepts(/^valid/m, 'bundle', 'shown.bundle', ...withKey, '--show')).split('\n').slice(0, 4);
      for (const [i, line] of shown.entries()) {
        const { event } = journal.sealed[298 + i]!;
        const entry = JSON.parse(line) as Record<string, unknown>;
        assert.equal(entry['sequence'], event.sequence);
        assert.deepEqual([entry['kind'], entry['subject'], entry['unixMicros']], [event.kind, event.subject, event.unixMicros]);
        assert.equal(entry['previous'], Buffer.from(event.previous).toString('hex'));
      }
      assert.deepEqual((JSON.parse(shown[2] as string) as { detail: object }).detail, journal.sealed[300]?.event.detail);
    });

    /** With a trailer that fits, as somebody makes it who has no key. */
    const changed = async (change: (lines: string[]) => string[]): Promise<string> => {
      const lines = change((await write(310, 410)).toString().trimEnd().split('\n').slice(0, -1));
      const text = `${lines.join('\n')}\n`;
      const sha256 = createHash('sha256').update(text).digest('hex');
      return file('changed.bundle', `${text}${JSON.stringify({ entries: lines.length - 1, sha256 })}\n`);
    };
    const changedHeader = (change: object): Promise<string> =>
      changed(([head, ...lines]) => [JSON.stringify({ ...(JSON.parse(head as string) as object), ...change }), ...lines]);
    const entry = (k: number): string => editedOctets(journal.sealed[k]?.event as never).toString('base64');
    /** The line of the entry k. */
    const line = (k: number): number => 1 + k - 310;
    const otherOf = (lines: string[]): string[] =>
      lines.with(line(340), lines[line(341)] as string).with(line(341), lines[line(340)] as string);

    for (const [what, change, told] of [
      [
        'an edited entry',
        (lines: string[]) => lines.with(line(340), entry(340)),
        /entry 340 is not what it was: entry 341 was made behind/,
      ],
      ['a deleted entry', (lines: string[]) => lines.toSpliced(line(340), 1), /entry 340 is not at its place: entry 341 stands there/],
      [
        'a repeated entry',
        (lines: string[]) => lines.toSpliced(line(340), 0, lines[line(339)] as string),
        /entry 340 is not at its place: entry 339/,
      ],
      ['reordered entries', otherOf, /entry 340 is not at its place: entry 341 stands there/],
      ['entries cut off at the end', (lines: string[]) => lines.slice(0, -3), /entries 407 to 409 are missing/],
      [
        'the last entry edited',
        (lines: string[]) => lines.with(line(409), entry(409)),
        /entries 310 to 409 .* entry 409 was changed, or all from/,
      ],
      ['what is no entry', (lines: string[]) => lines.with(line(340), 'AAAA'), /entry 340 is no entry/],
      ['what is no base64', (lines: string[]) => lines.with(line(340), '....'), /entry 340 is no entry/],
      [
        'a hash of an expired entry',
        (lines: string[]) => lines.with(line(353), (lines[line(353)] as string).replace(/"hash":"..../, '"hash":"AAAA')),
        /entry 353 is not what it was/,
      ],
      [
        'an entry that is written in another way',
        (lines: string[]) =>
          lines.with(line(340), Buffer.concat([Buffer.from('8d1801', 'hex'), journal.sealed[340]!.octets.subarray(2)]).toString('base64')),
        /entry 340 is no entry: a number that is not in its shortest form/,
      ],
    ] as const) {
      test(`${what} is refused, by its place`, async () => {
        await refuses(told, 'bundle', await changed(change as (lines: string[]) => string[]), ...withKey);
      });
    }

    test('entries made anew from one on, each behind the other, are refused', async () => {
      const forged = journal.rewriteFrom(340, (event) => ({ ...event, node: 'forged' }) as never).slice(0, 70);
      const name = await changed((lines) => [...lines.slice(0, line(340)), ...forged.map(({ octets }) => octets.toString('base64'))]);
      await refuses(/entries 310 to 409 are chained, but do not lead to the signed root/, 'bundle', name, ...withKey);
    });

    test('a replaced checkpoint is refused', async () => {
      const stranger = journalKey();
      const root = Buffer.alloc(32, 7);
      const own = notes.get(600) as string;
      for (const [checkpoint, told] of [
        [noteOf(stranger, 600, root), /the checkpoint of 600 entries is not signed by this key/],
        [own.replace('\n600\n', '\n601\n'), /the signature of the checkpoint of 601 entries is wrong/],
        [notes.get(300), /the checkpoint of 300 entries does not cover entries 310 to 409/],
        [noteOf(key, 600, root), /do not lead to the signed root/],
        [noteOf({ ...key, name: 'other.example.com' }, 600, root), /the checkpoint is of another journal: other\.example\.com/],
        ['no note', /no signed note/],
        [7, /not in the format/],
      ] as const)
        await refuses(told, 'bundle', await changedHeader({ checkpoint }), ...withKey);
      await refuses(/not signed by this key/, 'bundle', await changedHeader({}), '--key', 'other.pem');
    });

    test('a changed header is refused', async () => {
      for (const [change, told] of [
        [{ from: 309 }, /`left` does not hold|entry 309 is not at its place/],
        [{ to: 409 }, /there are entries behind 408/],
        [{ left: [] }, /`left` does not hold/],
        [{ left: Array.from({ length: 5 }, () => Buffer.alloc(32).toString('base64')) }, /do not lead to the signed root/],
        [{ consistency: [] }, /do not lead to the signed root/],
        [{ version: 2 }, /no bundle of version 1/],
      ] as const)
        await refuses(told, 'bundle', await changedHeader(change), ...withKey);
    });

    test('damage is refused', async () => {
      const bytes = (await write(310, 320)).toString();
      await refuses(/cut off behind entry 319/, 'bundle', file('x', bytes.slice(0, bytes.lastIndexOf('{'))), ...withKey);
      await refuses(/trailer does not fit/, 'bundle', file('x', bytes.replace(/[0-9a-f]{64}/, '0'.repeat(64))), ...withKey);
      await refuses(/lines follow the trailer/, 'bundle', file('x', `${bytes}\n`), ...withKey);
      await refuses(/not in the format/, 'bundle', file('x', ''), ...withKey);
      assert.equal((await run('bundle', 'absent.bundle', ...withKey)).code, 2);
      assert.equal((await run('bundle', 'x')).code, 2);
    });
  });

  describe('a proof', () => {
    const ask = async (path: string): Promise<Record<string, unknown>> => {
      const response = await app.request(`/journal/proof/${path}`);
      assert.equal(response.status, 200, path);
      return (await response.json()) as Record<string, unknown>;
    };
    const proofFile = (proof: object): string => file('proof.json', JSON.stringify(proof));

    test('of inclusion, in trees of every form', async () => {
      for (const size of [1, 2, 256, 257, 600]) {
        for (const sequence of new Set([0, 1, 255, size - 1].filter((one) => one < size))) {
          const name = proofFile(await ask(`inclusion?sequence=${sequence}&size=${size}`));
          file('checkpoint', notes.get(size) as string);
          const told = new RegExp(`^valid: entry ${sequence} is in ${origin}, by the checkpoint of ${size} entries`);
          await accepts(told, 'inclusion', name, ...withKey, ...(size === 600 ? [] : ['--checkpoint', 'checkpoint']));
        }
      }
    });

    test('of inclusion: with the entry, and what is refused', async () => {
      const proof = await ask('inclusion?sequence=340');
      const octets = journal.sealed[340]?.octets as Buffer;
      const whole = { ...proof, entry: octets.toString('base64') };
      const shown = await accepts(/^valid/m, 'inclusion', proofFile(whole), ...withKey, '--show');
      assert.equal((JSON.parse(shown.split('\n')[0] as string) as { subject: string }).subject, journal.sealed[340]?.event.subject);
      const path = proof['path'] as string[];
      const noPath = /the path does not lead from entry \d+ to the root/;
      for (const [change, told] of [
        [{ entry: entry340() }, /the entry is not the one of the proof/],
        [{ sequence: 341 }, /the entry is 340, the proof is for 341/],
        [{ sequence: 341, entry: undefined }, noPath],
        [{ sequence: 600, entry: undefined }, noPath],
        [{ path: path.toReversed() }, noPath],
        [{ path: path.slice(1) }, noPath],
        [{ path: [...path, path[0]] }, noPath],
        [{ size: 599 }, /the proof is for 599 entries, the checkpoint for 600/],
        [{ checkpoint: noteOf(journalKey(), 600, Buffer.alloc(32)) }, /not signed by this key/],
        [{ checkpoint: undefined }, /not in the format: KeyError 'checkpoint'/],
      ] as const)
        await refuses(told, 'inclusion', proofFile({ ...whole, ...change }), ...withKey);
    });
    const entry340 = (): string => editedOctets(journal.sealed[340]?.event as never).toString('base64');

    test('of consistency, between trees of every form, and what is refused', async () => {
      const sizes = [1, 2, 255, 256, 300, 600];
      for (const from of sizes) {
        for (const to of sizes.filter((size) => size >= from)) {
          const name = proofFile(await ask(`consistency?from=${from}&to=${to}`));
          file('old', JSON.stringify({ note: notes.get(from), token: null, size: from }));
          file('new', notes.get(to) as string);
          const told = new RegExp(`^valid: the ${to} entries of ${origin} continue the ${from} of`);
          await accepts(told, 'consistency', name, ...withKey, '--old', 'old', ...(to === 600 ? [] : ['--checkpoint', 'new']));
        }
      }
      const name = proofFile(await ask('consistency?from=300'));
      file('old', notes.get(257) as string);
      await refuses(/`from` of the proof is 300, its checkpoint is of 257/, 'consistency', name, ...withKey, '--old', 'old');
      file('old', noteOf(key, 300, Buffer.alloc(32, 1)));
      await refuses(/the first 300 entries are not what they were/, 'consistency', name, ...withKey, '--old', 'old');
      file('old', noteOf({ ...key, name: 'other.example.com' }, 300, Buffer.alloc(32, 1)));
      await refuses(/the checkpoints are of two journals/, 'consistency', name, ...withKey, '--old', 'old');
    });
  });
});
