import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { after, afterEach, before, describe, test } from 'node:test';
import { TimestampArchive } from '../../../observability/journal/archive.ts';
import { embeddedClient } from '../../../observability/journal/clickhouse.ts';
import { encodeEvent } from '../../../observability/journal/event-encoding.ts';
import type { EventDraft, JournalEvent } from '../../../observability/journal/events.ts';
import { JournalReader } from '../../../observability/journal/reader.ts';
import { expirePartitions } from '../../../observability/journal/retention.ts';
import { missingEntries } from '../../../observability/journal/scrub.ts';
import { publishedChains, retoldEntry } from '../../../observability/journal/told-events.ts';
import { type VerifyOptions, verifyJournal } from '../../../observability/journal/verify.ts';
import { type JournalVerdict, verifyPlaces } from '../../../observability/journal/verify-run.ts';
import { tokenVerifier } from '../../../observability/journal/verify-token.ts';
import { digestAlgorithms } from '../../../pki/algorithms.ts';
import { attachCertificates } from '../../../pki/token-certificates.ts';
import { createSigner, laneRequest, type SignedStamp } from '../../support/archived-stamps.ts';
import { publishedEvent } from '../../support/embedded-journal.ts';
import { makeHierarchy, makeSoftwareTsu, type SoftwareTsu } from '../../support/software-tsu.ts';
import { temporaryFolder } from '../../support/token-home.ts';
import { messageImprint } from '../../support/tsp-requests.ts';
import { editedOctets, journalKey, TamperedStore, TestJournal, TestPki, type TestTsu, testTsu } from './signed-journal.ts';

/** A year for the longest, so that a few years are several generations. */
const months = { certificate: 12, timestamp: 12, mail: 6, service: 6 };
const loaded = 'service-202701';

type Retold = JournalEvent & { readonly kind: 'journal.retold' };

describe('what is needed longer than it is kept', () => {
  const folder = temporaryFolder();
  const pki = new TestPki();
  const key = journalKey();
  const journal = new TestJournal(key);
  const stamps: SignedStamp[] = [];
  let tampered: TamperedStore;
  let reader: JournalReader;
  let checkpointTsu: TestTsu;
  let tsu: SoftwareTsu;
  let shortLived: SoftwareTsu;
  let sign: ReturnType<typeof createSigner>;
  let stored = 0;

  const setClock = (year: number, month: number): void => {
    journal.unixMicros = Date.UTC(year, month - 1, 2) * 1_000;
  };
  const store = async (): Promise<void> => {
    await tampered.insert(journal.sealed.slice(stored));
    stored = journal.size;
  };
  /** The clock of the test instead of that of the machine. */
  const append = async ({ unixMicros: _, ...draft }: EventDraft): Promise<void> => {
    journal.append(draft as EventDraft);
    await store();
  };
  const publish = (one: SoftwareTsu, chain = one.chain): void => {
    const { unixMicros: _, ...draft } = publishedEvent(one, chain);
    journal.append(draft as EventDraft);
  };
  const stamp = (): void => {
    const imprint = messageImprint(digestAlgorithms.sha256.oid, createHash('sha256').update(String(stamps.length)).digest());
    const stamped = sign(laneRequest(imprint, 'bank-1', true), Math.ceil(journal.unixMicros / 1_000) + 1);
    stamps.push(stamped);
    journal.append(stamped.event);
  };
  const work = async (): Promise<void> => {
    for (let i = 0; i < 20; i += 1) {
      journal.stopped(`reason ${i}`);
      stamp();
    }
    journal.append(journal.checkpoint(checkpointTsu.stamp));
    await store();
  };
  const expire = async (appending = append): Promise<string[]> => {
    const now = new Date(journal.unixMicros / 1_000);
    const gone = await expirePartitions({
      client: tampered.client,
      months,
      now: () => now,
      append: appending,
      exclusively: (one) => one(),
    });
    journal.append(journal.checkpoint(checkpointTsu.stamp));
    await store();
    return gone;
  };
  const verify = async (options: Partial<VerifyOptions> = {}): Promise<JournalVerdict> =>
    verifyJournal(reader, {
      keys: [key],
      verifyToken: tokenVerifier(checkpointTsu.roots, (await publishedChains(tampered.client)).chains),
      retentionMonths: months,
      now: new Date(journal.unixMicros / 1_000),
      ...options,
    });
  const expectValid = async (options: Partial<VerifyOptions> = {}): Promise<void> => {
    const verdict = await verify(options);
    assert.ok(verdict.kind === 'valid', JSON.stringify(verdict));
    assert.deepEqual(verdict.expiryUnproven, []);
    assert.ok(verdict.timestamped > 0 || options.to !== undefined);
  };
  const expectFault = async (fault: string, options: Partial<VerifyOptions> = {}): Promise<void> => {
    const verdict = await verify(options);
    assert.equal(verdict.kind === 'fault' && verdict.fault, fault, JSON.stringify(verdict));
  };
  /** Every stamp of those that must be there yet, bit for bit. */
  const expectStamps = async (from: number, chainOf = (_index: number): readonly Uint8Array[] => tsu.chain): Promise<void> => {
    const archive = new TimestampArchive(tampered.client);
    for (const [i, { serial, answer }] of stamps.entries()) {
      const found = await archive.bySerial(serial);
      if (i < from) assert.equal(found, undefined);
      else assert.deepEqual(Buffer.from(found?.token ?? []), Buffer.from(attachCertificates(answer.token, chainOf(i))));
    }
  };
  const retold = (subject: string): Retold[] =>
    journal.sealed.flatMap(({ event }) => (event.kind === 'journal.retold' && event.subject === subject ? [event] : []));
  const idOf = (one: SoftwareTsu): string => publishedEvent(one).subject;
  /** Stamps of the second month come with a shorter chain than those of the first. */
  const chainAt = (i: number): readonly Uint8Array[] => (i < 20 ? tsu.chain : tsu.chain.slice(0, 1));

  /** Stamps in January, June and August 2027, February and September 2028 and October 2029; from August on what is over goes first. */
  before(async () => {
    tampered = await TamperedStore.open(await embeddedClient(folder.path));
    reader = new JournalReader(tampered.client);
    checkpointTsu = testTsu(pki);
    const hierarchy = makeHierarchy(pki);
    tsu = makeSoftwareTsu(pki, hierarchy, 'ec-p256', 'stamping');
    // It has stamped nothing in this journal, and cannot any more.
    const validity = { to: new Date('2026-12-31T00:00:00Z') };
    const { certificate } = pki.issue('short-lived', { issuer: hierarchy.authority, extensions: [], validity });
    shortLived = { ...tsu, identity: { ...tsu.identity, certificate }, chain: [certificate.raw] };
    sign = createSigner(tsu);
    journal.append({ kind: 'tsu.published', subject: 'ab'.repeat(32), detail: { chain: checkpointTsu.chain } });
    publish(tsu);
    publish(tsu);
    publish(shortLived);
    await work();
    publish(tsu, tsu.chain.slice(0, 1));
    setClock(2027, 6);
    await work();
  });
  after(async () => {
    await tampered?.store.close();
    pki.close();
    folder.remove();
  });
  afterEach(async () => {
    await tampered.restore();
    stored = journal.size;
  });

  test('the first generation: service logs go, and an event in the journal says so', async () => {
    setClock(2027, 8);
    assert.deepEqual(await expire(), [loaded]);
    await work();
    await expectValid();
    await expectStamps(0, chainAt);
    await tampered.save();
  });

  test('the certificates of TSUs go, and are told again for what they have stamped since', async () => {
    setClock(2028, 2);
    assert.deepEqual(await expire(), ['certificate-202701', 'timestamp-202701', 'service-202706']);
    await work();
    await expectValid();
    await expectStamps(20, chainAt);
    assert.deepEqual([retold('ab'.repeat(32)).length, retold(idOf(tsu)).length, retold(idOf(shortLived)).length], [1, 2, 0]);
    await tampered.save();
  });

  test('a crash between telling again and the end tells nothing a third time', async () => {
    setClock(2028, 9);
    const crash = async (draft: EventDraft): Promise<void> => {
      await append(draft);
      if (draft.kind === 'journal.retold') throw new Error('killed');
    };
    await assert.rejects(expire(crash), /killed/);
    assert.equal(await missingEntries(tampered.client, journal.size), 0);
    assert.equal(retold(loaded).length, 1);
    await expectValid();
    await tampered.save();
  });

  test('the event goes that told of the service logs, and is told again', async () => {
    const gone = await expire();
    assert.ok(gone.includes('certificate-202708'), gone.join());
    assert.deepEqual(await expire(), []);
    assert.equal(retold(loaded).length, 1);
    const [teller] = retold(loaded);
    const entry = retoldEntry(teller as JournalEvent);
    assert.deepEqual(entry?.octets, journal.sealed[entry?.event.sequence ?? -1]?.octets);
    await work();
    await expectValid();
    await expectValid({ from: 10, to: 20 });
    await expectStamps(60, chainAt);
    await tampered.save();
  });

  test('the third generation: what was told again is told again, and not within what told it', async () => {
    setClock(2029, 10);
    await work();
    const gone = await expire();
    assert.ok(
      ['certificate-202802', 'certificate-202809'].every((name) => gone.includes(name)),
      gone.join(),
    );
    assert.equal(retold(loaded).length, 2);
    assert.deepEqual(retold(loaded)[0]?.detail, retold(loaded)[1]?.detail);
    await expectValid();
    await expectStamps(100, () => tsu.chain.slice(0, 1));
    assert.equal(await missingEntries(tampered.client, journal.size), 0);
    await tampered.save();
  });

  test('without a store an event that is told again counts as the writer told it', async () => {
    const verdict = await verifyPlaces(reader.read(0, journal.size), { keys: [key], retentionMonths: months });
    assert.ok(verdict.kind === 'valid' && verdict.expiryUnproven.length === 0, JSON.stringify(verdict));
  });

  describe('tampering is still found', () => {
    /** In the end: an entry that should be there yet. */
    const victim = () => journal.sealed.findLast(({ event }) => event.kind === 'timestamp.issued') as (typeof journal.sealed)[number];
    const hide = async (): Promise<void> => {
      const { event, hash } = victim();
      await tampered.delete(`sequence = ${event.sequence}`);
      await tampered.run(
        `INSERT INTO journal_expired (sequence, partition, hash) VALUES (${event.sequence}, '${loaded}', unhex('${hash.toString('hex')}'))`,
      );
    };
    /** Puts an event behind all, with a checkpoint over it: somebody had the writer take it. */
    const smuggle = async (teller: JournalEvent, entry: Uint8Array): Promise<void> => {
      const forged = new TestJournal(key);
      for (const { event } of journal.sealed) forged.append(event);
      forged.append({ ...teller, unixMicros: journal.unixMicros, detail: { entry } } as EventDraft);
      forged.append(forged.checkpoint());
      await tampered.insert(forged.sealed.slice(journal.size));
    };
    const forgedExpiry = (): Uint8Array => {
      const genuine = retoldEntry(retold(loaded)[0] as JournalEvent)?.event as JournalEvent & { kind: 'journal.expired' };
      const lie = new TestJournal(key);
      for (const { event } of journal.entriesOf(loaded)) lie.append(event);
      const hashes = [...journal.entriesOf(loaded), victim()].map(({ event, hash }) => {
        const number = Buffer.alloc(8);
        number.writeBigUInt64BE(BigInt(event.sequence));
        return Buffer.concat([number, hash]);
      });
      const { event, hash } = victim();
      const detail = {
        ...genuine.detail,
        last: event.sequence,
        entries: hashes.length,
        lastHash: hash,
        hashesSha256: createHash('sha256').update(Buffer.concat(hashes)).digest(),
      };
      return encodeEvent({ ...genuine, detail });
    };

    test('an edit, and a deletion of what was told again', async () => {
      const { event } = victim();
      await tampered.replace(event.sequence, { event, octets: editedOctets(event) });
      await expectFault('altered');
      await tampered.restore();
      await tampered.delete(`sequence = ${retold(loaded)[1]?.sequence}`);
      await expectFault('missing');
    });

    test('an entry that is called expired beside those that are told again', async () => {
      await hide();
      await expectFault('expiry-altered');
    });

    test('an event that is told again otherwise than it was', async () => {
      await hide();
      await smuggle(retold(loaded)[1] as JournalEvent, forgedExpiry());
      await expectFault('expiry-altered');
      await expectFault('expiry-altered', { from: 10, to: 20 });
    });

    test('what is told again under another name, and octets that are no entry, prove nothing', async () => {
      const teller = retold(loaded)[1] as Retold;
      await smuggle({ ...teller, subject: 'service-202706' }, teller.detail.entry);
      await expectValid();
      await tampered.restore();
      await smuggle(teller, Buffer.from('no entry'));
      await expectValid();
    });

    test('hashes beside those of a partition that goes: nothing is told of it, and it stays', async () => {
      const { event, hash } = victim();
      setClock(2030, 6);
      const going = 'service-202910';
      await tampered.delete(`sequence = ${event.sequence}`);
      await tampered.run(
        `INSERT INTO journal_expired (sequence, partition, hash) VALUES (${event.sequence}, '${going}', unhex('${hash.toString('hex')}'))`,
      );
      await assert.rejects(expire(), { code: 'JOURNAL_STORE_DAMAGED' });
      assert.ok(!journal.sealed.some((one) => one.event.kind === 'journal.expired' && one.event.subject === going));
      await expectFault('expiry-unexplained');
    });
  });
});
