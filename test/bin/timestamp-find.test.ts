import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { userInfo } from 'node:os';
import { dirname, join } from 'node:path';
import { after, afterEach, before, describe, test } from 'node:test';
import type { ClickHouseClient } from '@clickhouse/client';
import { homePaths } from '../../config/home.ts';
import { embeddedClient } from '../../observability/journal/clickhouse.ts';
import { type LocalServer, serveLocally } from '../../observability/journal/local-server.ts';
import { attachCertificates } from '../../pki/token-certificates.ts';
import { grantedResponse } from '../../pki/tsp-granted.ts';
import { journalKeys } from '../../queue/keys.ts';
import { createSigner, laneRequest, type SignedStamp } from '../support/archived-stamps.ts';
import { waitingEvents } from '../support/clients.ts';
import { EmbeddedJournal, publishedEvent } from '../support/embedded-journal.ts';
import { redisServerMissing, startTestRedis, type TestRedis } from '../support/redis-server.ts';
import { type CommandResult, runSigillo } from '../support/run-sigillo.ts';
import { makeHierarchy, makeSoftwareTsu, type SoftwareHierarchy, type SoftwareTsu } from '../support/software-tsu.ts';
import { TestPki } from '../support/timestamp-fixtures.ts';
import { temporaryFolder } from '../support/token-home.ts';
import { messageImprint } from '../support/tsp-requests.ts';

interface Found {
  readonly serial: string;
  readonly genTime: string;
  readonly client: string;
  readonly imprint: string;
  readonly certReq: boolean;
  readonly sequence: number;
  readonly token: string;
  readonly file?: string;
}

const sha256 = '2.16.840.1.101.3.4.2.1';
const start = Date.UTC(2026, 10, 22, 10);
const hashOf = (text: string): Buffer => createHash('sha256').update(text).digest();

describe('sigillo timestamp find', { skip: redisServerMissing() }, () => {
  const home = temporaryFolder();
  const paths = homePaths(home.path);
  let pki: TestPki;
  let hierarchy: SoftwareHierarchy;
  let tsu: SoftwareTsu;
  let redis: TestRedis;
  let journal: EmbeddedJournal | undefined;
  let readers: ClickHouseClient;
  let socket: LocalServer;
  const stamps: SignedStamp[] = [];

  before(async () => {
    pki = new TestPki();
    hierarchy = makeHierarchy(pki);
    tsu = makeSoftwareTsu(pki, hierarchy, 'ec-p256');
    redis = await startTestRedis();
    mkdirSync(dirname(paths.journalFolder), { recursive: true });
    journal = await EmbeddedJournal.open(paths.journalFolder);
    const sign = createSigner(tsu);
    for (let i = 0; i < 6; i += 1) {
      const request = laneRequest(messageImprint(sha256, hashOf(`document ${i % 5}`)), i === 4 ? 'bank-2' : 'bank-1', i % 2 === 0);
      stamps.push(sign(request, start + i * 60_000));
    }
    await journal.append(publishedEvent(tsu), ...stamps.map(({ event }) => event));
    readers = await embeddedClient(paths.journalFolder);
    socket = await serveLocally(paths.journalSocket, readers);
  });
  after(async () => {
    await stopService();
    await redis.close();
    home.remove();
    pki.close();
  });
  afterEach(() => redis.connect().flushall());

  const stopService = async (): Promise<void> => {
    if (journal === undefined) return;
    await socket.close();
    await readers.close();
    await journal.close();
    journal = undefined;
  };
  const run = (...parameters: string[]): Promise<CommandResult> =>
    runSigillo(['timestamp', 'find', ...parameters], {
      SIGILLO_HOME: home.path,
      SIGILLO__REDIS: JSON.stringify({ mode: 'url', url: `unix://${redis.socket}` }),
    });
  const foundBy = async (...parameters: string[]): Promise<Found[]> => {
    const { code, stdout, stderr } = await run('--json', ...parameters);
    assert.ok(code === 0 || stdout === '[]\n', stderr);
    return JSON.parse(stdout) as Found[];
  };
  const numbersOf = (found: readonly Found[]): number[] => found.map(({ serial }) => stamps.findIndex((stamp) => stamp.serial === serial));
  const wholeToken = (stamp: SignedStamp): Uint8Array =>
    stamp.event.detail.certReq ? attachCertificates(stamp.answer.token, tsu.chain) : stamp.answer.token;
  const recorded = () => waitingEvents(redis.connect(), journalKeys.events);

  test('by serial number, as anybody writes it', async () => {
    const { serial } = stamps[0] as SignedStamp;
    for (const text of [serial, serial.toUpperCase(), `0x${serial.toUpperCase()}`, serial.match(/../g)?.join(':') ?? '']) {
      assert.deepEqual(numbersOf(await foundBy('--serial', text)), [0]);
    }
  });

  test('JSON tells all of a stamp', async () => {
    for (const stamp of stamps.slice(0, 2)) {
      const [found] = await foundBy('--serial', stamp.serial);
      assert.deepEqual(found, {
        serial: stamp.serial,
        genTime: new Date(stamp.event.unixMicros / 1_000).toISOString().replace(/\.?0*Z$/, 'Z'),
        client: 'bank-1',
        imprint: `sha256:${hashOf(`document ${stamps.indexOf(stamp)}`).toString('hex')}`,
        certReq: stamp.event.detail.certReq,
        sequence: 1 + stamps.indexOf(stamp),
        token: Buffer.from(wholeToken(stamp)).toString('base64'),
      });
    }
  });

  test('by file, imprint, client and time; newest first, within the limit', async () => {
    const file = pki.file('document-0', 'document 0');
    assert.deepEqual(numbersOf(await foundBy('--file', file)), [5, 0]);
    assert.deepEqual(numbersOf(await foundBy('--imprint', `sha256:${hashOf('document 1').toString('hex')}`)), [1]);
    assert.deepEqual(numbersOf(await foundBy('--client', 'bank-1')), [5, 3, 2, 1, 0]);
    assert.deepEqual(numbersOf(await foundBy('--client', 'bank-1', '--limit', '2')), [5, 3]);
    assert.deepEqual(numbersOf(await foundBy('--from', '2026-11-22T10:01:00Z', '--to', '2026-11-22T11:03:00+01:00')), [2, 1]);
    assert.deepEqual(numbersOf(await foundBy('--from', '2026-11-22', '--client', 'bank-2')), [4]);
    assert.deepEqual(await foundBy('--from', '2026-11-23'), []);
  });

  test('a table for people; nothing found is exit status 1', async () => {
    const { code, stdout } = await run('--client', 'bank-2');
    assert.equal(code, 0);
    assert.match(stdout, /^SERIAL +TIME +CLIENT +IMPRINT\n[0-9a-f]{40} +2026-11-22T10:04:00Z +bank-2 +sha256:[0-9a-f]{64}\n$/);
    const none = await run('--client', 'nobody');
    assert.deepEqual([none.code, none.stdout], [1, '']);
    assert.match(none.stderr, /no such timestamp/);
  });

  test('--out writes each as a TimeStampResp, as it was issued, that OpenSSL verifies', async () => {
    const folder = join(pki.folder, 'found', 'here');
    const { code, stdout, stderr } = await run('--from', '2026-11-22', '--out', folder);
    assert.equal(code, 0, stderr);
    assert.equal(stdout.split('\n').filter((line) => line.includes(folder)).length, stamps.length);
    assert.deepEqual(readdirSync(folder).toSorted(), stamps.map(({ serial }) => `${serial}.tsr`).toSorted());
    const chain = pki.file('chain.pem', tsu.identity.certificate.toString() + hierarchy.authority.certificate.toString());
    for (const [i, stamp] of stamps.entries()) {
      const tsr = join(folder, `${stamp.serial}.tsr`);
      assert.equal(readFileSync(tsr).toString('hex'), Buffer.from(grantedResponse(wholeToken(stamp))).toString('hex'));
      const data = pki.file('data', `document ${i % 5}`);
      const untrusted = stamp.event.detail.certReq ? [] : ['-untrusted', chain];
      pki.openssl('ts', '-verify', '-data', data, '-in', tsr, '-CAfile', hierarchy.rootFile, ...untrusted);
    }
  });

  test('every reading is an event by the user of this machine, before anything is shown', async () => {
    await foundBy('--client', 'bank-1', '--limit', '3');
    await foundBy('--client', 'nobody');
    const events = await recorded();
    const actor = userInfo().username;
    assert.deepEqual(
      events.map(({ kind, subject, role, actor: by, detail }) => [kind, subject, role, by, detail]),
      [
        ['journal.read', 'timestamp', 'operator', actor, { query: 'client=bank-1 limit=3', entries: 3 }],
        ['journal.read', 'timestamp', 'operator', actor, { query: 'client=nobody limit=100', entries: 0 }],
      ],
    );
  });

  for (const [parameters, message] of [
    [[], /say what to find/],
    [['--serial', 'xyz'], /--serial/],
    [['--imprint', 'md5:00'], /--imprint/],
    [['--imprint', 'sha256:00'], /64 hexadecimal digits/],
    [['--imprint', `sha256:${'0'.repeat(64)}`, '--file', 'x'], /exclude each other/],
    [['--file', '/nonexistent/file'], /--file/],
    [['--from', 'yesterday'], /--from/],
    [['--to', '2026-11-22T10:00:00'], /--to/],
    [['--client', 'a', '--limit', '0'], /--limit/],
  ] as const) {
    test(`${parameters.join(' ') || 'nothing'}: wrong usage`, async () => {
      const { code, stderr, stdout } = await run(...parameters);
      assert.deepEqual([code, stdout], [64, '']);
      assert.match(stderr, message);
      assert.deepEqual(await recorded(), []);
    });
  }

  test('without Redis nothing is shown', async () => {
    const result = await runSigillo(['timestamp', 'find', '--client', 'bank-1'], {
      SIGILLO_HOME: home.path,
      SIGILLO__REDIS: '{mode: url, url: unix:///nonexistent/redis.sock}',
    });
    assert.deepEqual([result.code, result.stdout], [1, '']);
    assert.match(result.stderr, /REDIS_UNAVAILABLE.*must be recorded/);
  });

  describe('with the service stopped', () => {
    before(stopService);

    test('it says how to read the store', async () => {
      const { code, stderr } = await run('--client', 'bank-1');
      assert.equal(code, 1);
      assert.match(stderr, /JOURNAL_STORE_UNAVAILABLE.*--offline/);
    });

    test('--offline reads the store itself, and says that this is recorded nowhere', async () => {
      const result = await runSigillo(['timestamp', 'find', '--json', '--offline', '--client', 'bank-2'], {
        SIGILLO_HOME: home.path,
        SIGILLO__REDIS: '{mode: url, url: unix:///nonexistent/redis.sock}',
      });
      assert.equal(result.code, 0, result.stderr);
      assert.deepEqual(numbersOf(JSON.parse(result.stdout) as Found[]), [4]);
      assert.match(result.stderr, /not recorded/);
    });

    test('--offline records all the same when Redis is there', async () => {
      assert.deepEqual(numbersOf(await foundBy('--offline', '--client', 'bank-2')), [4]);
      assert.equal((await recorded()).length, 1);
    });

    test('--offline makes no store where there is none', async () => {
      const empty = join(home.path, 'empty');
      mkdirSync(empty);
      writeFileSync(join(empty, 'x'), '');
      const result = await runSigillo(['timestamp', 'find', '--offline', '--client', 'bank-2'], {
        SIGILLO_HOME: empty,
        SIGILLO__REDIS: JSON.stringify({ mode: 'url', url: `unix://${redis.socket}` }),
      });
      assert.match(result.stderr, /JOURNAL_STORE_UNAVAILABLE/);
      assert.deepEqual(readdirSync(empty), ['x']);
    });
  });
});
