import assert from 'node:assert/strict';
import { createPublicKey, generateKeyPairSync, hash, X509Certificate } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { firstStart } from '../../bin/prepare-home.ts';
import type { SigilloError } from '../../config/errors.ts';
import { homePaths } from '../../config/home.ts';
import { tsuAlgorithms } from '../../config/schema.ts';
import { decodeDrafts } from '../../observability/journal/draft-block.ts';
import { privateKeyUsagePeriod } from '../../pki/tsu-usage.ts';
import {
  configOf,
  type Finished,
  finished,
  openssl,
  softhsmPath,
  spawnFirstStart,
  temporaryFolder,
  withoutSofthsm,
} from '../support/token-home.ts';

const skip = withoutSofthsm;
const long = process.env['TEST_LONG'] !== undefined;
const folder = temporaryFolder();
after(folder.remove);
let homes = 0;
const newHome = (): string => {
  homes += 1;
  return join(folder.path, `home-${homes}`);
};
const preload = (name: string): string[] => ['--import', join(import.meta.dirname, '../support', name)];

const run = async (
  home: string,
  environment: Record<string, string> = {},
  nodeArguments: string[] = [],
): Promise<Finished & { ms: number }> => {
  const startedAt = performance.now();
  const result = await finished(spawnFirstStart(home, { environment, nodeArguments }));
  return { ...result, ms: performance.now() - startedAt };
};
const runWell = async (
  home: string,
  environment?: Record<string, string>,
  nodeArguments?: string[],
): Promise<Finished & { ms: number }> => {
  const result = await run(home, environment, nodeArguments);
  assert.equal(result.code, 0, result.stderr);
  return result;
};
const tsuFiles = (home: string): string[] =>
  readdirSync(homePaths(home).pkiFolder)
    .filter((name) => name.startsWith('tsu-'))
    .toSorted();

/** OpenSSL builds the path from the root to the TSU with what is in the files, and finds the TSU good for timestamps. */
const assertVerifies = (home: string, tsuFile: string): void => {
  const paths = homePaths(home);
  const tsu = join(paths.pkiFolder, tsuFile);
  for (const untrusted of [paths.timestampCaCertificate, tsu]) {
    assert.match(
      openssl('verify', '-x509_strict', '-purpose', 'timestampsign', '-CAfile', paths.rootCertificate, '-untrusted', untrusted, tsu),
      /OK/,
    );
  }
};
const certificatesOf = (home: string): Record<string, string> => {
  const { pkiFolder } = homePaths(home);
  return Object.fromEntries(readdirSync(pkiFolder).map((name) => [name, readFileSync(join(pkiFolder, name), 'utf8')]));
};

test('the first start makes everything with progress, and the second one nothing, quickly and without pkijs', { skip }, async () => {
  const home = newHome();
  const paths = homePaths(home);
  const first = await runWell(home);
  assert.match(
    first.stdout,
    /^\[1\/6\] .*\n\[2\/6\] [\s\S]*made: token sigillo-timestamp[\s\S]*\[5\/6\] .*\n.*made: tsu-ec-p256-1\.pem\n\[6\/6\] .*\n.*made: journal\.pem\n$/,
  );
  assert.ok(first.ms < 10_000, `${first.ms} ms`);
  assert.deepEqual(readdirSync(paths.pkiFolder).toSorted(), ['journal.pem', 'root-ca.pem', 'timestamp-ca.pem', 'tsu-ec-p256-1.pem']);
  assertVerifies(home, 'tsu-ec-p256-1.pem');
  assertTold(home);
  for (const path of [home, paths.pinFolder, paths.tokenFolder, paths.pkiFolder]) assert.equal(statSync(path).mode & 0o777, 0o700, path);

  const before = certificatesOf(home);
  const second = await runWell(home, {}, preload('report-pkijs.mjs'));
  assert.doesNotMatch(second.stdout, /made/);
  assert.doesNotMatch(second.stderr, /pkijs/);
  assert.deepEqual(certificatesOf(home), before);
  const times: number[] = [];
  for (let i = 0; i < 3; i += 1) times.push((await runWell(home)).ms);
  assert.ok(Math.min(...times) < 1_000, `${times.join(', ')} ms`);
});

test('a TSU of each algorithm, all under the same CAs', { skip }, async () => {
  const home = newHome();
  for (const algorithm of tsuAlgorithms) {
    await runWell(home, { SIGILLO__TIMESTAMP__ALGORITHM: algorithm });
    assertVerifies(home, `tsu-${algorithm}-1.pem`);
  }
  assert.equal(tsuFiles(home).length, tsuAlgorithms.length);
  const text = openssl('x509', '-noout', '-text', '-in', join(homePaths(home).pkiFolder, 'tsu-rsa-3072-1.pem'));
  assert.match(text, /Public-Key: \(3072 bit\)[\s\S]*Exponent: 65537/);
});

test('a new TSU is made when none has an hour left, and the old one stays', { skip }, async () => {
  const home = newHome();
  const config = configOf(home);
  const lines: string[] = [];
  const start = (at: Date): Promise<void> => firstStart(config, (line) => lines.push(line), { now: () => at });
  const born = new Date('2025-11-30T12:00:00Z');
  await start(born);
  const limit = privateKeyUsagePeriod(new X509Certificate(readFileSync(join(homePaths(home).pkiFolder, 'tsu-ec-p256-1.pem'))).raw)!
    .notAfter!;
  assert.equal(limit.toISOString(), '2026-02-28T12:00:00.000Z');
  const before = (hours: number): Date => new Date(limit.getTime() - hours * 3_600_000);
  await start(before(1));
  assert.deepEqual(tsuFiles(home), ['tsu-ec-p256-1.pem']);
  const first = certificatesOf(home)['tsu-ec-p256-1.pem'];
  await start(new Date(before(1).getTime() + 1));
  assert.deepEqual(tsuFiles(home), ['tsu-ec-p256-1.pem', 'tsu-ec-p256-2.pem']);
  assert.equal(certificatesOf(home)['tsu-ec-p256-1.pem'], first);
  await start(new Date(before(1).getTime() + 2));
  assert.equal(tsuFiles(home).length, 2);
});

/** What the journal is told: every certificate of the home, and every key that one of them or a checkpoint needs. */
const assertTold = (home: string, when = ''): void => {
  const paths = homePaths(home);
  const told = readFileSync(paths.journalOutbox, 'utf8')
    .split('\n')
    .filter((line) => line !== '')
    .flatMap((line) => {
      try {
        return decodeDrafts(Buffer.from(line, 'base64'));
      } catch {
        return []; // cut off by the kill
      }
    });
  const keys = new Set(told.flatMap((event) => (event.kind === 'key.generated' ? [hexOf(event.detail.spkiSha256)] : [])));
  const certificates = new Set(told.flatMap((event) => (event.kind === 'certificate.issued' ? [hexOf(event.detail.certificate)] : [])));
  for (const [name, pem] of Object.entries(certificatesOf(home))) {
    const isCertificate = name !== 'journal.pem';
    if (isCertificate) assert.ok(certificates.has(hexOf(new X509Certificate(pem).raw)), `${name} ${when}`);
    const publicKey = isCertificate ? new X509Certificate(pem).publicKey : createPublicKey(pem);
    assert.ok(keys.has(hash('sha256', publicKey.export({ format: 'der', type: 'spki' }))), `key of ${name} ${when}`);
  }
};
const hexOf = (octets: Uint8Array): string => Buffer.from(octets).toString('hex');

const finishesAfter = async (home: string, what: string): Promise<void> => {
  const paths = homePaths(home);
  const kept = existsSync(paths.pkiFolder) ? certificatesOf(home) : {};
  const result = await run(home);
  assert.equal(result.code, 0, `after a kill ${what}: ${result.stderr}`);
  const files = tsuFiles(home);
  assert.equal(files.length, 1, `after a kill ${what}: ${files.join(', ')}`);
  assertVerifies(home, files[0]!);
  // What was whole before is what is there now.
  const now = certificatesOf(home);
  for (const [name, content] of Object.entries(kept))
    if (name.endsWith('.pem')) assert.equal(now[name], content, `after a kill ${what}: ${name}`);
  const again = await run(home);
  assert.equal(again.code, 0, again.stderr);
  assert.doesNotMatch(again.stdout, /made/, `after a kill ${what}`);
  assertTold(home, `after a kill ${what}`);
};

test('killed between any two steps, a first start is finished by the next', { skip }, async (t) => {
  const counted = await runWell(newHome(), { KILL_AT: '0' }, preload('kill-at-step.mjs'));
  const steps = Number(/steps: (\d+)/.exec(counted.stderr)?.[1]);
  assert.ok(steps > 40, `${steps} steps`);
  // All of them in the long run; here every seventh, beginning with another one each time.
  const stride = long ? 1 : 7;
  const offset = 1 + Math.floor(Math.random() * stride);
  t.diagnostic(`${steps} steps, every ${stride}. from ${offset}`);
  let next = offset;
  const killAndFinish = async (): Promise<void> => {
    while (next <= steps) {
      const at = next;
      next += stride;
      const when = Math.random() < 0.5 ? 'before' : 'after';
      const home = newHome();
      const killed = await run(home, { KILL_AT: String(at), KILL_WHEN: when }, preload('kill-at-step.mjs'));
      assert.equal(killed.signal, 'SIGKILL', `step ${at}: ${killed.stderr}`);
      await finishesAfter(home, `${when} step ${at}`);
      rmSync(home, { recursive: true, force: true });
    }
  };
  await Promise.all(Array.from({ length: availableParallelism() }, killAndFinish));
});

test('killed at random moments, again and again on one home, a first start is finished by the next', { skip }, async (t) => {
  const wholeMs = (await runWell(newHome())).ms;
  for (let round = 0; round < (long ? 50 : 5); round += 1) {
    const home = newHome();
    const moments: number[] = [];
    for (let i = 0; i < 3; i += 1) {
      const child = spawnFirstStart(home);
      const end = finished(child);
      const afterMs = Math.round(Math.random() * wholeMs);
      moments.push(afterMs);
      await Promise.race([delay(afterMs), end]);
      child.kill('SIGKILL');
      await end;
    }
    t.diagnostic(`killed after ${moments.join(', ')} ms of ${Math.round(wholeMs)}`);
    if (!existsSync(home)) continue; // killed before it did anything
    await finishesAfter(home, `after ${moments.join(', ')} ms`);
  }
});

const refuses = async (home: string, code: string, message: RegExp): Promise<void> => {
  const before = certificatesOf(home);
  const result = await run(home);
  assert.equal(result.code, 1, result.stdout);
  assert.match(result.stderr, new RegExp(code));
  assert.match(result.stderr, message);
  assert.deepEqual(certificatesOf(home), before, 'nothing is overwritten');
};

test('what no interruption explains is an error that says what to do, and nothing is overwritten', { skip }, async () => {
  const home = newHome();
  const paths = homePaths(home);
  await runWell(home);
  const aside = join(folder.path, 'aside');
  mkdirSync(aside);

  const swap = async (file: string, content: string, code: string, message: RegExp): Promise<void> => {
    const original = readFileSync(file, 'utf8');
    writeFileSync(file, content);
    await refuses(home, code, message);
    writeFileSync(file, original);
  };
  const tsu = join(paths.pkiFolder, 'tsu-ec-p256-1.pem');
  await swap(tsu, '', 'CERTIFICATE_INVALID', /tsu-ec-p256-1\.pem: no certificate/);
  await swap(tsu, readFileSync(tsu, 'latin1').replace(/^(.{40})./m, '$1'), 'CERTIFICATE_INVALID', /tsu-ec-p256-1\.pem/);
  await swap(tsu, readFileSync(paths.timestampCaCertificate, 'utf8'), 'CERTIFICATE_INVALID', /tsu-ec-p256-1\.pem: not issued by/);
  await swap(
    paths.timestampCaCertificate,
    readFileSync(paths.rootCertificate, 'utf8'),
    'HSM_KEY_MISMATCH',
    /timestamp-ca\.pem[\s\S]*begin a new demonstration PKI/,
  );
  await swap(join(paths.pinFolder, 'sigillo-timestamp.pin'), 'wrong-pin\n', 'HSM_PIN_REFUSED', /sigillo-timestamp/);

  await swap(paths.journalKey, 'no key', 'CERTIFICATE_INVALID', /journal\.pem: no public key/);
  const { publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  await swap(
    paths.journalKey,
    String(publicKey.export({ format: 'pem', type: 'spki' })),
    'HSM_KEY_MISMATCH',
    /journal\.pem[\s\S]*Put back/,
  );

  renameSync(paths.tokenFolder, join(aside, 'tokens'));
  await refuses(home, 'HSM_KEY_MISSING', /root-ca\.pem/);
  rmSync(paths.tokenFolder, { recursive: true });
  renameSync(join(aside, 'tokens'), paths.tokenFolder);
  await runWell(home);
});

test('a CA certificate that is gone is made again for the same key, and what was issued stays valid', { skip }, async () => {
  const home = newHome();
  const paths = homePaths(home);
  await runWell(home);
  rmSync(paths.rootCertificate);
  rmSync(paths.timestampCaCertificate);
  await runWell(home);
  assertVerifies(home, 'tsu-ec-p256-1.pem');
  assert.deepEqual(tsuFiles(home), ['tsu-ec-p256-1.pem']);
});

test('the file of the journal key is written again for the same key, and a home made before gets both', { skip }, async () => {
  const home = newHome();
  const paths = homePaths(home);
  await runWell(home);
  const pem = readFileSync(paths.journalKey, 'utf8');
  rmSync(paths.journalKey);
  assert.match((await runWell(home)).stdout, /made: journal\.pem/);
  assert.equal(readFileSync(paths.journalKey, 'utf8'), pem);
  assert.match(openssl('pkey', '-pubin', '-in', paths.journalKey, '-noout', '-text'), /P-256/);

  // As an earlier release left it: two tokens, and no trace of the third.
  const { tokenFolder, pinFolder } = paths;
  const labelled = readdirSync(tokenFolder).filter((name) =>
    readFileSync(join(tokenFolder, name, 'token.object'), 'latin1').includes('sigillo-journal'),
  );
  assert.equal(labelled.length, 1);
  rmSync(join(tokenFolder, labelled[0]!), { recursive: true });
  for (const name of readdirSync(pinFolder)) if (name.startsWith('sigillo-journal')) rmSync(join(pinFolder, name));
  await refuses(home, 'HSM_KEY_MISSING', /journal\.pem/);
  rmSync(paths.journalKey);
  assert.match((await runWell(home)).stdout, /made: journal\.pem/);
  assert.notEqual(readFileSync(paths.journalKey, 'utf8'), pem);
  assertVerifies(home, 'tsu-ec-p256-1.pem');
});

test('a TSU key that lost its certificate is not certified a second time', { skip }, async () => {
  const home = newHome();
  await runWell(home);
  rmSync(join(homePaths(home).pkiFolder, 'tsu-ec-p256-1.pem'));
  await runWell(home);
  assert.deepEqual(tsuFiles(home), ['tsu-ec-p256-2.pem']);
});

const moduleConfig = (embedded: string, purposes: Record<string, string[]>): Record<string, unknown> => ({
  mode: 'module',
  module: softhsmPath,
  environment: { SOFTHSM2_CONF: homePaths(embedded).softhsmConf },
  slots: Object.entries(purposes).map(([label, slotPurposes]) => ({
    label,
    purposes: slotPurposes,
    pinFile: join(homePaths(embedded).pinFolder, `${label}.pin`),
  })),
});

test('a configured module gets the demonstration keys in its own tokens, by purpose', { skip }, async () => {
  const tokens = newHome();
  await runWell(tokens);
  for (const purposes of [
    { 'sigillo-authority': ['authority'], 'sigillo-timestamp': ['timestamp'], 'sigillo-journal': ['journal'] },
    { 'sigillo-timestamp': ['authority', 'timestamp', 'journal'] },
  ]) {
    const home = newHome();
    const config = configOf(home, { hsm: moduleConfig(tokens, purposes) });
    await firstStart(config, () => undefined);
    await firstStart(config, () => undefined);
    const files = tsuFiles(home);
    assert.equal(files.length, 1);
    assertVerifies(home, files[0]!);
    assert.ok(!existsSync(homePaths(home).tokenFolder));
  }
  const home = newHome();
  const config = configOf(home, { hsm: moduleConfig(tokens, { 'sigillo-timestamp': ['timestamp', 'journal'] }) });
  await assert.rejects(
    firstStart(config, () => undefined),
    (error: SigilloError) => error.code === 'CONFIG_INVALID' && /authority/.test(error.message),
  );
});

test('an installed TSU is checked: key, certificate, chain and root', { skip }, async () => {
  const source = newHome();
  await runWell(source);
  const paths = homePaths(source);
  const home = newHome();
  const chainFile = join(paths.pkiFolder, 'tsu-ec-p256-1.pem');
  const start = (changes: { keyLabel?: string; chainFile?: string; rootsFile?: string; algorithm?: string }): Promise<void> => {
    const tsu = { source: 'installed', keyLabel: changes.keyLabel ?? 'tsu-ec-p256-1', chainFile: changes.chainFile ?? chainFile };
    const config = configOf(home, {
      hsm: moduleConfig(source, { 'sigillo-timestamp': ['timestamp', 'journal'] }),
      timestamp: { tsu, algorithm: changes.algorithm ?? 'ec-p256' },
      trust: { rootsFile: changes.rootsFile ?? paths.rootCertificate },
    });
    return firstStart(config, () => undefined);
  };
  const rejects = (changes: Parameters<typeof start>[0], code: string): Promise<void> =>
    assert.rejects(start(changes), (error: SigilloError) => error.code === code || assert.fail(error));
  await start({});
  await rejects({ keyLabel: 'nothing' }, 'HSM_KEY_MISSING');
  await rejects({ algorithm: 'ec-p384' }, 'HSM_KEY_MISMATCH');
  await rejects({ chainFile: paths.timestampCaCertificate }, 'HSM_KEY_MISMATCH');
  await rejects({ chainFile: `${chainFile}.none` }, 'CONFIG_UNREADABLE');
  const [leaf] = readFileSync(chainFile, 'utf8').split(/(?<=-----END CERTIFICATE-----\n)/);
  writeFileSync(join(folder.path, 'leaf.pem'), leaf!);
  await rejects({ chainFile: join(folder.path, 'leaf.pem') }, 'CERTIFICATE_INVALID');
  const stranger = newHome();
  await runWell(stranger);
  await rejects({ rootsFile: homePaths(stranger).rootCertificate }, 'CERTIFICATE_INVALID');
});
