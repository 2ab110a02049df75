/** Every line for the shell in docs/journal.md is run as it stands there, in a folder that holds the files it names. */
import assert from 'node:assert/strict';
import { createHash, createPublicKey } from 'node:crypto';
import { chmodSync, copyFileSync, cpSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { delimiter, dirname, join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { homePaths } from '../../config/home.ts';
import { embeddedClient } from '../../observability/journal/clickhouse.ts';
import { proveConsistency, proveInclusion, type SubtreeHash } from '../../observability/journal/merkle.ts';
import { noOrigin } from '../../observability/journal/origin.ts';
import { grantedResponse } from '../../pki/tsp-granted.ts';
import { journalKey, origin, TamperedStore, TestJournal, TestPki, testTsu } from '../observability/journal/signed-journal.ts';
import { opensslMissing } from '../support/openssl-ts.ts';
import { type Finished, programMissing, runProgram } from '../support/service.ts';
import { rsa } from '../support/timestamp-world.ts';
import { temporaryFolder } from '../support/token-home.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const page = readFileSync(join(root, 'docs/journal.md'), 'utf8');
const snippets = [...page.matchAll(/^```sh\n(.*?)^```/gms)].map((match) => match[1] as string);
const skip = (await programMissing('python3', 'python3')) || (await programMissing('curl', 'curl')) || (await opensslMissing());

/** Blocks that are no commands: a checkpoint, and proofs. */
const untyped = 2;
const jsonBlocks = page.match(/^```json$/gm)?.length ?? 0;

/** The one that begins so. */
const snippet = (start: string): string => {
  const found = snippets.filter((one) => one.startsWith(start));
  assert.equal(found.length, 1, start);
  return found[0] as string;
};
const used = new Set<string>();
const nodeOf = (left: Uint8Array, right: Uint8Array): Buffer =>
  createHash('sha256').update(Buffer.of(1)).update(left).update(right).digest();

describe('the lines for the shell in docs/journal.md', { skip }, () => {
  const folder = temporaryFolder();
  const home = join(folder.path, 'home');
  const work = join(folder.path, 'work');
  const paths = homePaths(home);
  const pki = new TestPki();
  const key = journalKey();
  // The month that the page exports.
  const journal = new TestJournal(key, Date.UTC(2026, 10, 10));
  const file = (name: string, content: string | Uint8Array): void => {
    mkdirSync(dirname(join(work, name)), { recursive: true });
    writeFileSync(join(work, name), content);
  };
  let server: Server;

  /** What `npx` and `curl` of the page reach: this program, and a gateway with one checkpoint. */
  const serve = async (files: Readonly<Record<string, string | Uint8Array>>): Promise<void> => {
    server = createServer((request, response) => {
      const content = files[request.url ?? ''];
      response.writeHead(content === undefined ? 404 : 200).end(content);
    });
    await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  };
  const makeNpx = (): void => {
    const npx = join(folder.path, 'bin/npx');
    mkdirSync(dirname(npx));
    writeFileSync(npx, `#!/bin/sh\n[ "$1" = sigillo ] && shift && exec "${process.execPath}" "${join(root, 'bin/sigillo.ts')}" "$@"\n`);
    chmodSync(npx, 0o755);
  };

  const noteIn = (sequence: number): string => (journal.sealed[sequence]!.event.detail as { note: string }).note;

  before(async () => {
    while (journal.size < 80) {
      if (journal.size % 20 === 5) journal.append({ kind: 'time.state', detail: { from: 'good', to: 'unknown' }, outcome: 'failure' });
      else if (journal.size % 20 === 6)
        journal.append({
          kind: 'timestamp.refused',
          actor: 'bank-1',
          outcome: 'refused',
          subject: '',
          detail: { reason: 'badRequest', policy: Buffer.of(), messageImprint: Buffer.of() },
        });
      else if (journal.size === 30 || journal.size === 70) journal.append(journal.checkpoint());
      else journal.stamp();
    }
    journal.unixMicros = Date.UTC(2026, 11, 2) * 1_000;
    journal.append(journal.checkpoint());
    mkdirSync(paths.journalFolder, { recursive: true });
    const store = await TamperedStore.open(await embeddedClient(paths.journalFolder));
    await store.store.insert(journal.sealed.map((sealed) => ({ ...sealed, origin: noOrigin })));
    await store.store.close();
    mkdirSync(work);
    cpSync(paths.journalFolder, join(work, 'copy/clickhouse'), { recursive: true });

    const pem = createPublicKey({ key: Buffer.from(key.spki), format: 'der', type: 'spki' }).export({ format: 'pem', type: 'spki' });
    mkdirSync(paths.pkiFolder, { recursive: true });
    writeFileSync(paths.journalKey, pem);
    const tsu = testTsu(pki);
    const roots = pki.openssl('x509', '-in', 'root.pem');
    writeFileSync(paths.rootCertificate, roots);
    file('journal.pem', pem);
    file('roots.pem', roots);
    const auditor = pki.issue('auditor', { key: rsa(2_048), extensions: ['keyUsage=critical,keyEncipherment'] });
    copyFileSync(auditor.certificateFile, join(work, 'auditor.pem'));
    copyFileSync(auditor.keyFile, join(work, 'auditor.key'));
    copyFileSync(join(root, 'docs/verify-journal.py'), join(work, 'verify-journal.py'));
    const note = noteIn(70);
    // Stamped now: OpenSSL judges certificates by the clock, and these begin today.
    const token = tsu.stamp(Buffer.from(note), Date.now() + 1_000);
    const chain = ['tsu-ec-p256.pem', 'timestamp-ca.pem'].map((name) => pki.openssl('x509', '-in', name));
    makeNpx();
    await serve({
      '/journal/checkpoint': note,
      '/journal/checkpoint.tsr': grantedResponse(token),
      '/repository/trust.pem': roots,
      '/repository/tsa-chain.pem': Buffer.concat(chain),
    });
    file('kept.txt', noteIn(30));
    file('entry', journal.sealed[41]!.octets);
    const at: SubtreeHash = (level, index) =>
      level === 0 ? journal.sealed[index]!.hash : nodeOf(at(level - 1, 2 * index), at(level - 1, 2 * index + 1));
    const base64 = (hashes: readonly Uint8Array[]): string[] => hashes.map((hash) => Buffer.from(hash).toString('base64'));
    const [leafHash] = base64([journal.sealed[41]!.hash]);
    file(
      'inclusion.json',
      JSON.stringify({ sequence: 41, size: 70, leafHash, path: base64(proveInclusion(41, 70, at)), checkpoint: note }),
    );
    file('consistency.json', JSON.stringify({ from: 30, to: 70, path: base64(proveConsistency(30, 70, at)), checkpoint: note }));
  });
  after(() => {
    server?.close();
    pki.close();
    folder.remove();
  });

  const run = (lines: string): Promise<Finished> =>
    runProgram('sh', ['-e', '-c', lines], {
      cwd: work,
      env: {
        PATH: [join(folder.path, 'bin'), process.env['PATH']].join(delimiter),
        PYTHONUTF8: '1',
        SERVER: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
        SIGILLO_HOME: home,
        SIGILLO__JOURNAL__ORIGIN: origin,
      },
    });
  const works = async (start: string): Promise<string> => {
    const lines = snippet(start);
    used.add(lines);
    const { code, stdout, stderr } = await run(lines);
    assert.equal(code, 0, `${lines}${stdout}${stderr}`);
    return stdout;
  };

  test('the timestamp of a checkpoint', async () => {
    await works('curl ');
  });
  test('the signature of a checkpoint', async () => {
    assert.equal(await works("sed '/^$/,$d' checkpoint"), 'Verified OK\n');
  });
  test('the hash of an entry', async () => {
    assert.ok((await works("(printf '\\0'; cat entry)")).includes(Buffer.from(journal.sealed[42]!.event.previous).toString('hex')));
  });
  test('searching, verifying and exporting', async () => {
    const stdout = await works('npx sigillo journal search');
    assert.match(stdout, /time\.state/);
    assert.match(stdout, /"reason":"badRequest"/);
  });
  test('decrypting an export, and its digest', async () => {
    await works('openssl cms -decrypt');
    const trailer = readFileSync(join(work, 'november.bundle'), 'utf8').trimEnd().split('\n').at(-1) as string;
    assert.equal((await works("sed '$d' november.bundle")).split(' ')[0], (JSON.parse(trailer) as { sha256: string }).sha256);
  });
  test('verifying a bundle, and a copy of the store', async () => {
    await works('npx sigillo journal verify --bundle');
  });
  test('verifying without Sigillo', async () => {
    assert.equal((await works('python3 ')).match(/^valid: /gm)?.length, 3);
  });
  test('the test vectors, judged without Sigillo', async () => {
    const vectors = JSON.parse(/^```json\n([^`]*)^```/m.exec(page)?.[1] ?? '') as Record<string, unknown>;
    const key = createPublicKey({ key: Buffer.from(vectors['key'] as string, 'base64'), format: 'der', type: 'spki' });
    file('vectors.pem', key.export({ format: 'pem', type: 'spki' }));
    file('vectors-2.txt', (vectors['checkpoints'] as Record<string, string>)['2'] as string);
    for (const name of ['inclusion', 'consistency']) file(`vectors-${name}.json`, JSON.stringify(vectors[name]));
    const { code, stdout, stderr } = await run(
      `python3 verify-journal.py inclusion vectors-inclusion.json --key vectors.pem
       python3 verify-journal.py consistency vectors-consistency.json --key vectors.pem --old vectors-2.txt`,
    );
    assert.equal(code, 0, stderr);
    assert.equal(stdout.match(/^valid: /gm)?.length, 2);
  });
  test('there are no others', () => {
    assert.deepEqual(
      snippets.filter((one) => !used.has(one)),
      [],
    );
    assert.equal(page.match(/^```$/gm)?.length, 2 * untyped + snippets.length + jsonBlocks);
  });
});
