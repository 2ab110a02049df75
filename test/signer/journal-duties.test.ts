import assert from 'node:assert/strict';
import { createPublicKey, hash, X509Certificate } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { pino } from 'pino';
import { firstStart } from '../../bin/prepare-home.ts';
import { configDigest } from '../../config/digest.ts';
import { homePaths } from '../../config/home.ts';
import { release } from '../../config/release.ts';
import type { Config } from '../../config/schema.ts';
import { checkpointText, signedCheckpoint, verifyCheckpoint } from '../../observability/journal/checkpoint.ts';
import { decodeDrafts } from '../../observability/journal/draft-block.ts';
import type { EventDraft, EventKind } from '../../observability/journal/events.ts';
import { nodeName } from '../../observability/journal/recorder.ts';
import { requestCheckpointSignature } from '../../queue/checkpoint-signing.ts';
import { journalKeys, laneKeys } from '../../queue/keys.ts';
import { readSlots, type SlotStatus } from '../../queue/slot-status.ts';
import { type SignerService, startSigner } from '../../signer/service.ts';
import { redisServerMissing, startTestRedis, type TestRedis } from '../support/redis-server.ts';
import { configOf, softhsmPath, temporaryFolder, withoutSofthsm } from '../support/token-home.ts';
import { until } from '../support/until.ts';

const hex = (octets: Uint8Array): string => Buffer.from(octets).toString('hex');

describe('what a signer does for the journal', { skip: withoutSofthsm || redisServerMissing() }, () => {
  const folder = temporaryFolder();
  const paths = homePaths(folder.path);
  let server: TestRedis;
  let config: Config;
  const lines: { level: number; msg: string }[] = [];
  const log = pino({ level: 'debug' }, { write: (line: string) => void lines.push(JSON.parse(line)) });
  before(async () => {
    server = await startTestRedis();
    config = configOf(folder.path, {
      redis: { mode: 'url', url: `unix://${server.socket}` },
      signer: { workers: 1 },
      journal: { origin: 'example.org/journal' },
    });
    await firstStart(config, () => undefined);
  });
  after(async () => {
    await server.close();
    folder.remove();
  });

  const eventsOf = async (): Promise<EventDraft[]> => {
    const entries = await server.connect().xrangeBuffer(journalKeys.events, '-', '+');
    return entries.flatMap(([, fields]) => decodeDrafts(fields[1] as Buffer));
  };
  const ofKind = <K extends EventKind>(events: readonly EventDraft[], kind: K): Extract<EventDraft, { kind: K }>[] =>
    events.filter((event): event is Extract<EventDraft, { kind: K }> => event.kind === kind);
  const toldOf = async (slot: string, purpose: string): Promise<SlotStatus | undefined> =>
    (await readSlots(server.connect())).find(({ status }) => status.slot === slot && status.purpose === purpose)?.status;
  /** A whole life of a signer. @returns what the journal got of it */
  const live = async (during: (signer: SignerService) => Promise<void> = async () => undefined): Promise<EventDraft[]> => {
    await server.connect().del(journalKeys.events);
    const signer = await startSigner(config, log);
    try {
      await during(signer);
    } finally {
      await signer.stop('SIGTERM');
    }
    return eventsOf();
  };

  test('the set-up, the chain, the key in use, start, clock and stop are told, once', async () => {
    const events = await live();
    assert.ok(!existsSync(paths.journalOutbox));
    assert.deepEqual(
      ofKind(events, 'key.generated').map(({ subject, actor, detail }) => [subject, actor, detail.token, detail.algorithm]),
      [
        ['sigillo-demonstration-root-ca', 'first-start', 'sigillo-authority', 'ec-p384'],
        ['sigillo-demonstration-timestamp-ca', 'first-start', 'sigillo-authority', 'ec-p384'],
        ['tsu-ec-p256-1', 'first-start', 'sigillo-timestamp', 'ec-p256'],
        ['sigillo-journal', 'first-start', 'sigillo-journal', 'ec-p256'],
      ],
    );
    const [tsu, ca] = readFileSync(join(paths.pkiFolder, 'tsu-ec-p256-1.pem'), 'utf8')
      .split(/(?<=-----END CERTIFICATE-----\n)/)
      .map((pem) => new X509Certificate(pem)) as [X509Certificate, X509Certificate];
    const issued = ofKind(events, 'certificate.issued');
    assert.deepEqual(
      issued.map(({ detail }) => detail.profile),
      ['root-ca', 'timestamp-ca', 'tsu'],
    );
    assert.equal(issued[2]?.subject, tsu.serialNumber.toLowerCase());
    assert.equal(issued[2]?.detail.issuer, ca.subject.replaceAll('\n', ', '));
    assert.equal(hex(issued[2]?.detail.certificate ?? Buffer.of()), hex(tsu.raw));

    const id = hash('sha256', tsu.raw);
    const chain = hex(Buffer.concat([tsu.raw, ca.raw]));
    assert.deepEqual(
      ofKind(events, 'tsu.published').map(({ subject, detail }) => [subject, hex(detail.chain)]),
      [[id, chain]],
    );
    const chains = await server.connect().hgetallBuffer(laneKeys('timestamp').chains);
    assert.deepEqual(
      Object.entries(chains).map(([field, octets]) => [field, hex(octets)]),
      [[id, chain]],
    );
    const spkiSha256 = hash('sha256', tsu.publicKey.export({ format: 'der', type: 'spki' }));
    assert.deepEqual(
      ofKind(events, 'key.activated').map(({ subject, detail }) => [subject, detail.token, detail.algorithm, hex(detail.spkiSha256)]),
      [['tsu-ec-p256-1', 'sigillo-timestamp', 'ec-p256', spkiSha256]],
    );

    assert.deepEqual(
      ofKind(events, 'service.started').map(({ subject, detail }) => [subject, detail.version, hex(detail.configSha256)]),
      [['signer', release, hex(configDigest(config))]],
    );
    assert.deepEqual(
      ofKind(events, 'time.state').map(({ subject, detail }) => [subject, detail.from, detail.to]),
      [[nodeName(), 'unknown', 'unverified']],
    );
    assert.deepEqual(
      ofKind(events, 'service.stopped').map(({ detail }) => detail.reason),
      ['SIGTERM'],
    );
    assert.equal(events.at(-1)?.kind, 'service.logStopped');
    assert.deepEqual(
      ofKind(events, 'hsm.serving').map(({ subject, detail }) => [subject, detail.before]),
      [['sigillo-timestamp', 'none']],
    );
    assert.equal((await eventsOf()).length, 4 + 3 + 1 + 1 + 2 + 1 + 2 + 1, 'and nothing else');
  });

  test('the next start tells only of itself, and a Redis that lost everything gets the chains again', async () => {
    assert.deepEqual((await live()).map(({ kind }) => kind).toSorted(), [
      'hsm.serving',
      'service.logStarted',
      'service.logStopped',
      'service.started',
      'service.stopped',
      'time.state',
    ]);
    const events = await live(async () => {
      const look = server.connect();
      await look.flushall();
      // Every connection is closed, and comes back to an empty server.
      await look.call('CLIENT', 'KILL', 'TYPE', 'normal');
      await until('the chain is back', async () => (await server.connect().hlen(laneKeys('timestamp').chains)) === 1);
    });
    assert.deepEqual([ofKind(events, 'tsu.published').length, ofKind(events, 'key.activated').length], [1, 1]);
  });

  test('a checkpoint is signed for whoever asks through Redis, with the published key', async () => {
    await live(async (signer) => {
      const command = server.connect();
      const checkpoint = { origin: 'example.org/journal', size: 42, root: new Uint8Array(32).fill(7) };
      const { signature, spki } = await requestCheckpointSignature(command, checkpointText(checkpoint), { deadlineMs: 3_000 });
      const published = createPublicKey(readFileSync(paths.journalKey)).export({ format: 'der', type: 'spki' });
      assert.deepEqual(spki, published);
      const note = signedCheckpoint(checkpoint, spki, signature);
      assert.equal(verifyCheckpoint(note, { name: 'example.org/journal', spki: published }).kind, 'valid');
      const smaller = checkpointText({ ...checkpoint, size: 41 });
      await assert.rejects(requestCheckpointSignature(command, smaller, { deadlineMs: 3_000 }), { code: 'JOURNAL_CHECKPOINT_REFUSED' });
      const metrics = JSON.stringify(await signer.metrics());
      assert.match(metrics, /"journal_key_up"[^}]*"values":\[\{"value":1/);
      assert.match(metrics, /"journal_events_lost_total"[^}]*"values":\[\{"value":0/);
      await until('its slot is told of', async () => (await toldOf('sigillo-journal', 'journal'))?.signatures.total === 1);
      const told = await toldOf('sigillo-journal', 'journal');
      assert.deepEqual([told?.process, told?.state], ['signer of sigillo-timestamp', 'serving']);
      assert.deepEqual(told?.sessions, { busy: 0, open: 1, max: 1 });
    });
    assert.equal((await toldOf('sigillo-journal', 'journal'))?.state, 'stopped');
  });

  test('without its key the signer stamps, says so, and answers requests with the reason', async () => {
    // A slot that has no such key in it.
    const module = softhsmPath ?? assert.fail();
    const withoutKey: Config = {
      ...config,
      hsm: {
        mode: 'module',
        module,
        environment: { SOFTHSM2_CONF: paths.softhsmConf },
        slots: [
          { label: 'sigillo-timestamp', purposes: ['timestamp', 'journal'], pinFile: join(paths.pinFolder, 'sigillo-timestamp.pin') },
        ],
      },
    };
    lines.length = 0;
    const signer = await startSigner(withoutKey, log);
    try {
      assert.ok((await signer.health()).every(({ ok }) => ok));
      // The start does not wait for a token of an operator.
      await until('it is said', () => lines.some(({ level, msg }) => level === 50 && /cannot sign checkpoints/.test(msg)));
      assert.match(JSON.stringify(await signer.metrics()), /"journal_key_up"[^}]*"values":\[\{"value":0/);
      const text = checkpointText({ origin: 'example.org/journal', size: 1, root: new Uint8Array(32) });
      await assert.rejects(requestCheckpointSignature(server.connect(), text, { deadlineMs: 3_000 }), { code: 'HSM_KEY_MISSING' });
      await until('both are told of', async () => (await toldOf('sigillo-timestamp', 'timestamp'))?.state === 'serving');
      const told = await toldOf('sigillo-timestamp', 'journal');
      assert.deepEqual([told?.state, told?.lastError?.code, told?.sessions.open], ['failed', 'HSM_KEY_MISSING', 0]);
      // The server of this test keeps nothing on disk.
      assert.ok(lines.some(({ level, msg }) => level === 50 && /keeps less than journal.durability/.test(msg)));
    } finally {
      await signer.stop('done');
    }
  });
});
