import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { after, describe, test } from 'node:test';
import { SigilloError } from '../../config/errors.ts';
import { configFile, loadConfig, parseConfig } from '../../config/load.ts';
import { isLoopback } from '../../config/schema.ts';
import { readSecretFile } from '../../config/secrets.ts';

const installed = {
  hsm: { mode: 'module', module: '/lib/p11.so', slots: [{ label: 'a', purposes: ['timestamp', 'journal'], pinFile: '/pin' }] },
  timestamp: { tsu: { source: 'installed', keyLabel: 'k', chainFile: '/chain.pem' } },
  trust: { rootsFile: '/roots.pem' },
};

/** A tree with one value at a dotted path. */
const at = (path: string, value: unknown): unknown => path.split('.').reduceRight((inner, key) => ({ [key]: inner }), value);

const refused = (tree: unknown, path: string): void => {
  assert.throws(
    () => parseConfig(tree),
    (error) => error instanceof SigilloError && error.code === 'CONFIG_INVALID' && error.message.includes(` ${path}: `),
    `${path} should be refused in ${JSON.stringify(tree)}`,
  );
};

describe('schema of the configuration', () => {
  test('nothing at all is a whole configuration', () => {
    const config = parseConfig({});
    assert.equal(config.home, resolve('./var'));
    assert.deepEqual([config.public.host, config.public.port, config.ops.port], ['127.0.0.1', 8_080, 8_081]);
    assert.deepEqual([config.redis.mode, config.hsm.mode, config.timestamp.access], ['embedded', 'embedded', 'anonymous']);
    assert.deepEqual(parseConfig(JSON.parse(JSON.stringify(config))), config, 'what is shown can be read again');
  });

  test('an unknown key is refused with its path, on every level and in every variant', () => {
    for (const path of [
      'bogus',
      'public.bogus',
      'ops.bogus',
      'redis.bogus',
      'hsm.bogus',
      'signer.bogus',
      'timestamp.bogus',
      'time.bogus',
      'journal.bogus',
      'trust.bogus',
      'log.bogus',
    ]) {
      const [section] = path.split('.');
      const mode = section === 'redis' || section === 'hsm' ? { mode: 'embedded' } : {};
      const tree = path.includes('.') ? { [section as string]: { ...mode, bogus: 1 } } : { bogus: 1 };
      refused(tree, path);
    }
    refused({ redis: { mode: 'cluster', nodes: [{ host: 'a', port: 1, tls: true }] } }, 'redis.nodes.0.tls');
    refused({ ...installed, timestamp: { tsu: { source: 'demonstration', keyLabel: 'x' } } }, 'timestamp.tsu.keyLabel');
    refused({ redis: { mode: 'embedded', url: 'redis://x' } }, 'redis.url');
    refused({ redis: { mode: 'url', url: 'redis://x', password: 'secret' } }, 'redis.password');
    assert.throws(() => parseConfig({ __proto__: null, constructor: 1 }), { code: 'CONFIG_INVALID' });
  });

  test('every number has its limits, themselves included', () => {
    const limits: [string, number, number][] = [
      ['public.port', 1, 65_535],
      ['public.requestTimeoutMs', 100, 120_000],
      ['public.connectionsMax', 1, 100_000],
      ['ops.port', 1, 65_535],
      ['signer.workers', 1, 256],
      ['signer.batchesPerWorker', 1, 16],
      ['signer.deadAfterMs', 500, 60_000],
      ['timestamp.accuracyMicros', 1_000, 1_000_000],
      ['timestamp.bodyBytesMax', 256, 1_048_576],
      ['timestamp.inFlightMax', 1, 100_000],
      ['timestamp.entriesOutstandingMax', 1, 64],
      ['timestamp.batchMax', 1, 256],
      ['timestamp.imprintsMax', 1, 10_000],
      ['timestamp.deadlineMs', 100, 60_000],
      ['time.pollMs', 250, 1_024_000],
      ['time.timeoutMs', 50, 10_000],
      ['time.offsetMsMax', 1, 1_000],
      ['time.accuracyMicrosMax', 1_000, 1_000_000],
      ['time.unverifiedMicros', 1_000, 1_000_000],
      ['time.holdoverMs', 1_000, 86_400_000],
      ['time.driftPpm', 1, 100_000],
      ['time.goodRounds', 1, 100],
      ['time.stepMsMax', 10, 1_000],
      ['time.settleMs', 100, 3_600_000],
      ['journal.waitingMax', 16, 10_000_000],
      ['journal.spool.megabytesMax', 1, 10_000_000],
      ['journal.checkpoint.seconds', 1, 86_400],
      ['journal.checkpoint.events', 1, 10_000_000],
      ['shutdownMs', 1_000, 120_000],
    ];
    // Room for the values that a cross check ties to another key.
    const wide = (tree: object): unknown => {
      const {
        timestamp = {},
        time = {},
        ...rest
      } = tree as {
        timestamp?: { inFlightMax?: number; deadlineMs?: number; imprintsMax?: number; accuracyMicros?: number };
        time?: { pollMs?: number; timeoutMs?: number; holdoverMs?: number; accuracyMicrosMax?: number };
      };
      const inFlightMax = timestamp.inFlightMax ?? 100_000;
      const deadlineMs = timestamp.deadlineMs ?? 100;
      const pollMs = time.pollMs ?? Math.max(time.timeoutMs ?? 250, 500);
      return {
        shutdownMs: 120_000,
        ...rest,
        timestamp: {
          inFlightMax,
          deadlineMs,
          imprintsMax: Math.min(1_000, inFlightMax),
          accuracyMicros: time.accuracyMicrosMax ?? 1_000_000,
          ...timestamp,
        },
        time: {
          servers: [{ host: 'a.test' }],
          pollMs,
          timeoutMs: Math.min(1_000, pollMs),
          holdoverMs: Math.max(pollMs * 2, 1_000),
          ...time,
        },
      };
    };
    for (const [path, min, max] of limits) {
      for (const value of [min, max]) assert.doesNotThrow(() => parseConfig(wide(at(path, value) as object)), `${path}: ${value}`);
      for (const value of [min - 1, max + 1, min + 0.5, String(min), null]) refused(at(path, value), path);
    }
  });

  test('what must be chosen from a list', () => {
    for (const path of [
      'timestamp.access',
      'timestamp.algorithm',
      'timestamp.signatureDigest',
      'timestamp.tsaName',
      'time.leapSeconds',
      'log.level',
      'log.format',
    ])
      refused(at(path, 'bogus'), path);
    refused({ timestamp: { digests: ['sha1'] } }, 'timestamp.digests.0');
    refused({ timestamp: { digests: [] } }, 'timestamp.digests');
    for (const oid of ['', '1', '3.1', '1.02', '1..2', '1.2.', 'a.b', `1.${'9'.repeat(30)}`])
      refused({ timestamp: { policies: [oid] } }, 'timestamp.policies.0');
    refused({ timestamp: { policies: [] } }, 'timestamp.policies');
    refused({ redis: { mode: 'bogus' } }, 'redis.mode');
    refused({ hsm: { mode: 'module', module: 'x', slots: [] } }, 'hsm.slots');
    refused(
      { hsm: { ...installed.hsm, slots: [{ label: 'x'.repeat(33), purposes: ['timestamp'], pinFile: '/pin' }] } },
      'hsm.slots.0.label',
    );
    refused({ hsm: { ...installed.hsm, slots: [{ label: 'x', purposes: ['bogus'], pinFile: '/pin' }] } }, 'hsm.slots.0.purposes.0');
  });

  test('keys that depend on each other', () => {
    refused({ timestamp: { inFlightMax: 999 } }, 'timestamp.inFlightMax');
    assert.doesNotThrow(() => parseConfig({ timestamp: { inFlightMax: 1_000 } }));
    refused({ shutdownMs: 5_000 }, 'shutdownMs');
    assert.doesNotThrow(() => parseConfig({ shutdownMs: 5_001 }));
    assert.doesNotThrow(() => parseConfig(installed));
    refused({ ...installed, hsm: { mode: 'embedded' } }, 'timestamp.tsu.source');
    refused({ ...installed, trust: {} }, 'trust.rootsFile');
    const servers = [{ host: 'a.test' }, { host: 'b.test', port: 1_123 }];
    assert.deepEqual(parseConfig({ time: { servers } }).time.servers[0], { host: 'a.test', port: 123 });
    refused({ time: { servers, quorum: 3 } }, 'time.quorum');
    refused({ time: { quorum: 1 } }, 'time.quorum');
    assert.doesNotThrow(() => parseConfig({ time: { servers, quorum: 2 } }));
    refused({ time: { servers: [...servers, { host: 'A.test', port: 123 }] } }, 'time.servers');
    assert.doesNotThrow(() => parseConfig({ time: { servers: [...servers, { host: 'b.test' }] } }));
    refused({ time: { pollMs: 999 } }, 'time.timeoutMs');
    refused({ time: { pollMs: 300_001 } }, 'time.holdoverMs');
    refused({ time: { accuracyMicrosMax: 999_999 } }, 'time.accuracyMicrosMax');
    assert.doesNotThrow(() => parseConfig({ time: { servers, accuracyMicrosMax: 50_000 }, timestamp: { accuracyMicros: 50_000 } }));
    refused({ timestamp: { accuracyMicros: 999_999 } }, 'timestamp.accuracyMicros');
    assert.doesNotThrow(() => parseConfig({ time: { servers }, timestamp: { accuracyMicros: 1_000 } }));
    refused({ time: { unverifiedMicros: 50_001 }, timestamp: { accuracyMicros: 50_000 } }, 'timestamp.accuracyMicros');
    assert.doesNotThrow(() => parseConfig({ time: { unverifiedMicros: 50_000 }, timestamp: { accuracyMicros: 50_000 } }));
    const vouched = (accuracyMicrosMax: number) => ({
      time: { unverifiedMicros: 50_000, accuracyMicrosMax },
      timestamp: { accuracyMicros: 50_000 },
    });
    refused(vouched(50_999), 'time.accuracyMicrosMax');
    assert.doesNotThrow(() => parseConfig(vouched(51_000)));
    refused({ time: { servers: [{ host: '' }] } }, 'time.servers.0.host');
    refused({ time: { servers: [{ host: 'a.test', nts: true }] } }, 'time.servers.0.nts');
    for (const other of ['timestamp', 'mail', 'service']) {
      const retentionMonths = { certificate: 24, timestamp: 24, mail: 24, service: 24 };
      assert.doesNotThrow(() => parseConfig({ journal: { retentionMonths } }));
      refused({ journal: { retentionMonths: { ...retentionMonths, [other]: 25 } } }, 'journal.retentionMonths.certificate');
    }
    refused({ journal: { retentionMonths: { certificate: 239 } } }, 'journal.retentionMonths.certificate');
    const [slot] = installed.hsm.slots;
    refused({ ...installed, hsm: { ...installed.hsm, slots: [{ ...slot, purposes: ['timestamp'] }] } }, 'hsm.slots');
    const apart = [
      { ...slot, purposes: ['timestamp'] },
      { ...slot, label: 'b', purposes: ['journal'] },
    ];
    assert.doesNotThrow(() => parseConfig({ ...installed, hsm: { ...installed.hsm, slots: apart } }));
  });

  test('a module has one environment: it is loaded once in a process', () => {
    const [slot] = installed.hsm.slots;
    const hsm = (first: object, second: object, more: object = {}) => ({
      ...installed,
      hsm: {
        ...installed.hsm,
        ...more,
        slots: [
          { ...slot, ...first },
          { ...slot, label: 'b', ...second },
        ],
      },
    });
    const [x, y] = [{ environment: { CONF: '/x' } }, { environment: { CONF: '/y' } }];
    refused(hsm(x, y), 'hsm.slots.1.environment');
    refused(hsm({}, y), 'hsm.slots.1.environment');
    refused(hsm({}, { ...y, module: '/lib/p11.so' }), 'hsm.slots.1.environment');
    refused(hsm({}, y, { environment: { CONF: '/x' } }), 'hsm.slots.1.environment');
    for (const good of [hsm(x, x), hsm({}, y, y), hsm(x, { ...y, module: '/lib/other.so' })]) assert.doesNotThrow(() => parseConfig(good));
  });

  test('anonymous on a public address needs a second yes', () => {
    for (const host of ['0.0.0.0', '::', '192.0.2.1', 'example.org', '127.example.org', '1270.0.0.1']) {
      assert.throws(() => parseConfig({ public: { host } }), { code: 'CONFIG_ANONYMOUS_PUBLIC' }, host);
      assert.doesNotThrow(() => parseConfig({ public: { host, anonymousOnPublicAddress: true } }), host);
      assert.doesNotThrow(() => parseConfig({ public: { host }, timestamp: { access: 'clients' } }), host);
    }
    for (const host of ['127.0.0.1', '127.1.2.3', '::1', 'localhost']) {
      assert.ok(isLoopback(host), host);
      assert.doesNotThrow(() => parseConfig({ public: { host } }), host);
    }
  });

  test('a password never stands in a URL', () => {
    for (const url of ['redis://:secret@host', 'redis://user:secret@host:6379/0', 'rediss://user:@host'])
      refused({ redis: { mode: 'url', url } }, 'redis.url');
    for (const url of ['redis://host', 'rediss://user@host:6380/1', 'unix:///run/redis.sock']) {
      assert.doesNotThrow(() => parseConfig({ redis: { mode: 'url', url, passwordFile: '/run/secret' } }), url);
    }
    for (const url of ['http://host', 'host:6379', 'unix://relative']) refused({ redis: { mode: 'url', url } }, 'redis.url');
    for (const query of ['?password=hunter2', '/0?db=1&password=hunter2', '/?pass%77ord=hunter2', '?tls=true', '?']) {
      for (const url of [`redis://host${query}`, `rediss://user@host:6380${query}`, `unix:///run/redis.sock${query}`])
        refused({ redis: { mode: 'url', url } }, 'redis.url');
    }
    for (const name of ['password', 'PASSWORD', 'pass%77ord', 'user', 'username', 'access_token', 'http_header_Authorization', 'api_key'])
      for (const url of [
        `http://host?${name}=hunter2`,
        `https://host:8443/?application=x&${name}=hunter2`,
        `http://host/a?b?&${name}=hunter2`,
      ])
        refused({ journal: { url } }, 'journal.url');
    for (const url of ['http://host', 'https://host:8443/base', 'http://host/?application=sigillo&ch_max_threads=2'])
      assert.doesNotThrow(() => parseConfig({ journal: { url } }), url);
    for (const tree of [{ redis: { mode: 'url', url: 'redis://h?password=hunter2' } }, { journal: { url: 'http://h?password=hunter2' } }])
      assert.throws(
        () => parseConfig(tree),
        (error: Error) => !error.message.includes('hunter2'),
        'the secret is not repeated',
      );
  });

  test('every problem is named at once', () => {
    assert.throws(
      () => parseConfig({ public: { port: 0, bogus: 1 }, log: { level: 'x' } }),
      (error: Error) => ['public.port: ', 'public.bogus: unknown key', 'log.level: '].every((part) => error.message.includes(part)),
    );
    for (const tree of [null, [], 'text', 7]) assert.throws(() => parseConfig(tree), { code: 'CONFIG_INVALID' });
  });
});

describe('loading the configuration', () => {
  const folder = mkdtempSync(join(tmpdir(), 'sigillo-load-'));
  after(() => rmSync(folder, { recursive: true, force: true }));
  let files = 0;
  const write = (text: string): string => {
    files += 1;
    const file = join(folder, `${files}.yaml`);
    writeFileSync(file, text);
    return file;
  };
  const load = (environment: Record<string, string>) => loadConfig({ SIGILLO_HOME: join(folder, 'home'), ...environment });

  test('defaults, then the file, then the environment', () => {
    const file = write('public: {port: 9000, host: "::1"}\nlog: {level: warn}\n');
    const config = load({ SIGILLO_CONFIG: file, SIGILLO_PORT: '9100', SIGILLO__LOG__FORMAT: 'json' });
    assert.deepEqual([config.public.port, config.public.host], [9_100, '::1']);
    assert.deepEqual([config.log.level, config.log.format], ['warn', 'json']);
    assert.equal(config.ops.port, 8_081);
    assert.equal(load({ SIGILLO_OPS_PORT: '9200' }).ops.port, 9_200);
  });

  test('an empty file is a file without keys', () => {
    for (const text of ['', '# nothing\n', 'null\n', '{}\n']) assert.equal(load({ SIGILLO_CONFIG: write(text) }).public.port, 8_080);
  });

  test('sigillo.yaml in the home folder is found; SIGILLO_CONFIG goes before it', () => {
    const home = join(folder, 'with-file');
    mkdirSync(home);
    assert.equal(configFile({ SIGILLO_HOME: home }), undefined);
    writeFileSync(join(home, 'sigillo.yaml'), 'public: {port: 9300}\n');
    assert.equal(loadConfig({ SIGILLO_HOME: home }).public.port, 9_300);
    assert.equal(loadConfig({ SIGILLO_HOME: home, SIGILLO_CONFIG: write('public: {port: 9400}') }).public.port, 9_400);
  });

  test('variables: two underscores part levels, one parts words, values are YAML', () => {
    const config = load({
      SIGILLO__TIMESTAMP__DEADLINE_MS: '700',
      SIGILLO__TIMESTAMP__POLICIES: '[1.2.3, 1.2.4]',
      SIGILLO__TIMESTAMP__QUALIFIED: 'true',
      SIGILLO__REDIS: '{mode: url, url: "redis://cache:6379"}',
    });
    assert.equal(config.timestamp.deadlineMs, 700);
    assert.deepEqual(config.timestamp.policies, ['1.2.3', '1.2.4']);
    assert.equal(config.timestamp.qualified, true);
    assert.equal(config.redis.mode === 'url' && config.redis.url, 'redis://cache:6379');
    assert.equal(load({ OTHER: 'x', SIGILLOX: 'y' }).public.port, 8_080);
  });

  test('a home that looks like a number stays a path', () => {
    assert.equal(loadConfig({ SIGILLO_HOME: '2026' }).home, resolve('2026'));
  });

  test('what is wrong in the environment is refused', () => {
    assert.throws(() => load({ SIGILLO_PROT: '1' }), { code: 'CONFIG_INVALID', message: /SIGILLO_PROT: unknown variable/ });
    assert.throws(() => load({ SIGILLO__PUBLIC__PROT: '1' }), { code: 'CONFIG_INVALID', message: /public\.prot: unknown key/ });
    assert.throws(() => load({ SIGILLO_PORT: '{' }), { code: 'CONFIG_INVALID', message: /SIGILLO_PORT: not a YAML value/ });
    assert.throws(() => load({ SIGILLO_PORT: 'http' }), { code: 'CONFIG_INVALID', message: /public\.port/ });
    for (const [text, path] of [
      ['public: 3\n', 'public'],
      ['public: [1]\n', 'public'],
      ['public: on\n', 'public'],
    ] as const) {
      const environment = { SIGILLO_CONFIG: write(text), SIGILLO__PUBLIC__HOST: '127.0.0.1', SIGILLO_PORT: '9100' };
      assert.throws(() => load(environment), { code: 'CONFIG_INVALID', message: new RegExp(` ${path}: `) }, text);
    }
    assert.throws(() => load({ SIGILLO_CONFIG: write('journal: {block: 7}\n'), SIGILLO__JOURNAL__BLOCK__ROWS_MAX: '9' }), {
      code: 'CONFIG_INVALID',
      message: / journal\.block: /,
    });
    assert.equal(load({ SIGILLO_CONFIG: write('public:\n'), SIGILLO_PORT: '9100' }).public.port, 9_100, 'an empty section is none');
    assert.throws(() => load({ SIGILLO__: '1' }), { code: 'CONFIG_INVALID' });
    assert.throws(() => load({ SIGILLO____PROTO____POLLUTED: '1' }), { code: 'CONFIG_INVALID' });
    assert.equal(({} as { polluted?: unknown }).polluted, undefined);
  });

  test('what is wrong in the file is refused', () => {
    assert.throws(() => load({ SIGILLO_CONFIG: join(folder, 'missing.yaml') }), { code: 'CONFIG_UNREADABLE', message: /missing\.yaml/ });
    assert.throws(() => load({ SIGILLO_CONFIG: folder }), { code: 'CONFIG_UNREADABLE' });
    for (const text of ['a: [', '- a\n', 'text', 'a: &x 1\nb: *x\n', 'public: 1\npublic: 2\n']) {
      assert.throws(() => load({ SIGILLO_CONFIG: write(text) }), { code: 'CONFIG_INVALID' }, text);
    }
  });

  test('a secret is the first line of its file', () => {
    assert.equal(readSecretFile(write('s3cret')), 's3cret');
    assert.equal(readSecretFile(write('s3cret \r\nmore\n')), 's3cret ');
    for (const text of ['', '\n', '\r\nx']) assert.throws(() => readSecretFile(write(text)), { code: 'CONFIG_INVALID' });
    assert.throws(() => readSecretFile(join(folder, 'missing')), { code: 'CONFIG_UNREADABLE' });
  });
});
