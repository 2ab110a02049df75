import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { parse } from 'yaml';
import { maskSecrets } from '../../bin/commands/config.ts';
import { runSigillo } from '../support/run-sigillo.ts';

/** RFC 8785, for what has neither numbers beyond 2^53 nor keys that look like numbers. */
const canonicalJson = (value: unknown): string => {
  if (Array.isArray(value)) return `[${value.map(canonicalJson).join(',')}]`;
  if (typeof value !== 'object' || value === null) return JSON.stringify(value);
  const members = Object.entries(value).toSorted(([a], [b]) => (a < b ? -1 : 1));
  return `{${members.map(([key, item]) => `${JSON.stringify(key)}:${canonicalJson(item)}`).join(',')}}`;
};

describe('sigillo config', () => {
  const folder = mkdtempSync(join(tmpdir(), 'sigillo-config-'));
  after(() => rmSync(folder, { recursive: true, force: true }));
  const home = { SIGILLO_HOME: join(folder, 'home') };
  const withFile = (text: string): Record<string, string> => {
    const file = join(folder, 'sigillo.yaml');
    writeFileSync(file, text);
    return { ...home, SIGILLO_CONFIG: file };
  };

  test('check: ok', async () => {
    assert.deepEqual(await runSigillo(['config', 'check'], home), { code: 0, stdout: 'ok\n', stderr: '' });
  });

  test('check: every problem with the path of its key, and 78', async () => {
    const { code, stdout, stderr } = await runSigillo(
      ['config', 'check'],
      withFile('public: {prot: 1, port: 0}\ntimestamp: {deadlineMs: 1}\n'),
    );
    assert.equal(code, 78);
    assert.equal(stdout, '');
    assert.match(stderr, /^CONFIG_INVALID: /);
    for (const key of ['public.prot: unknown key', 'public.port: ', 'timestamp.deadlineMs: '])
      assert.ok(stderr.includes(`\n  ${key}`), stderr);
  });

  test('check: a file that is missing', async () => {
    const { code, stderr } = await runSigillo(['config', 'check'], { ...home, SIGILLO_CONFIG: join(folder, 'missing.yaml') });
    assert.equal(code, 78);
    assert.match(stderr, /CONFIG_UNREADABLE.*\n.*missing\.yaml/);
  });

  test('a command that needs a configuration ends with 78 as well', async () => {
    const { code, stderr } = await runSigillo(['client', 'list'], { ...home, SIGILLO_PORT: '0' });
    assert.equal(code, 78);
    assert.match(stderr, /public\.port/);
    assert.match(stderr, /what to do/);
  });

  test('show: the configuration in force as YAML and as JSON', async () => {
    const environment = withFile('ops: {port: 9001}\n');
    const yaml = await runSigillo(['config', 'show'], { ...environment, SIGILLO_PORT: '9000' });
    const json = await runSigillo(['config', 'show', '--json'], { ...environment, SIGILLO_PORT: '9000' });
    assert.equal(yaml.code, 0);
    const shown = parse(yaml.stdout) as { public: { port: number }; ops: { port: number }; timestamp: { algorithm: string } };
    assert.deepEqual(shown, JSON.parse(json.stdout));
    assert.deepEqual([shown.public.port, shown.ops.port, shown.timestamp.algorithm], [9_000, 9_001, 'ec-p256']);
  });

  test('digest: of a text that others can make of what `show` says', async () => {
    const environment = { ...withFile('ops: {port: 9001}\n'), SIGILLO_PORT: '9000' };
    const digest = await runSigillo(['config', 'digest'], environment);
    assert.deepEqual([digest.code, digest.stderr], [0, '']);
    const text = await runSigillo(['config', 'digest', '--text'], environment);
    assert.equal(`${createHash('sha256').update(text.stdout).digest('hex')}\n`, digest.stdout);
    const shown = await runSigillo(['config', 'show', '--json'], environment);
    assert.equal(text.stdout, canonicalJson(JSON.parse(shown.stdout)), 'nothing is masked in this one');
    const other = await runSigillo(['config', 'digest'], { ...environment, SIGILLO_PORT: '9002' });
    assert.notEqual(other.stdout, digest.stdout);
    assert.equal((await runSigillo(['config', 'digest'], { ...environment, SIGILLO_PORT: '0' })).code, 78);
  });

  test('show masks what can hide a secret', () => {
    const masked = maskSecrets({
      redis: { url: 'rediss://app@redis.example:6380/0?password=x&db=1', passwordFile: '/run/secrets/redis' },
      hsm: {
        environment: { VENDOR_PIN: '1234', VENDOR_CONF: '/etc/vendor.conf' },
        slots: [{ label: 'a', pinFile: '/p', environment: { VENDOR_PIN: '5678', VENDOR_LOGIN: 'hunter2' } }],
      },
    });
    assert.deepEqual(masked, {
      redis: { url: 'rediss://***@redis.example:6380/0?password=***&db=1', passwordFile: '/run/secrets/redis' },
      hsm: {
        environment: { VENDOR_PIN: '***', VENDOR_CONF: '***' },
        slots: [{ label: 'a', pinFile: '/p', environment: { VENDOR_PIN: '***', VENDOR_LOGIN: '***' } }],
      },
    });
  });

  test('every command has help with an example; wrong usage is 64', async () => {
    const commands = [
      'start',
      'init',
      'gateway',
      'signer',
      'config check',
      'config show',
      'config digest',
      'client add',
      'client list',
      'client disable',
      'client enable',
      'client remove',
      'timestamp',
      'timestamp verify',
    ];
    for (const command of commands) {
      const { code, stdout } = await runSigillo([...command.split(' '), '--help'], home);
      assert.equal(code, 0, command);
      assert.ok(stdout.includes(`Example:\n  $ sigillo ${command}`), command);
    }
    for (const wrong of [
      ['bogus'],
      ['client', 'add'],
      ['timestamp'],
      ['config', 'check', '--bogus'],
      ['timestamp', '--digest', 'md5', 'x'],
    ]) {
      assert.equal((await runSigillo(wrong, home)).code, 64, wrong.join(' '));
    }
  });
});
