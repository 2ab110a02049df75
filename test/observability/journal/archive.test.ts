import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { after, before, describe, test } from 'node:test';
import { type ArchivedStamp, imprintOf, type StampSearch, TimestampArchive } from '../../../observability/journal/archive.ts';
import { digestAlgorithms } from '../../../pki/algorithms.ts';
import { attachCertificates } from '../../../pki/token-certificates.ts';
import { createSigner, laneRequest, type SignedStamp } from '../../support/archived-stamps.ts';
import { EmbeddedJournal, publishedEvent } from '../../support/embedded-journal.ts';
import { makeHierarchy, makeSoftwareTsu, type SoftwareHierarchy, type SoftwareTsu } from '../../support/software-tsu.ts';
import { TestPki } from '../../support/timestamp-fixtures.ts';
import { messageImprint } from '../../support/tsp-requests.ts';
import { draftOf } from './fixtures.ts';

const { sha256, 'sha3-256': sha3 } = digestAlgorithms;
const start = Date.UTC(2026, 10, 22);
const hour = 3_600_000;
const hashOf = (text: string): Buffer => createHash('sha256').update(text).digest();

describe('the archive of timestamps', () => {
  let pki: TestPki;
  let hierarchy: SoftwareHierarchy;
  let tsu: SoftwareTsu;
  let journal: EmbeddedJournal;
  let archive: TimestampArchive;
  const stamps: SignedStamp[] = [];

  before(async () => {
    pki = new TestPki();
    hierarchy = makeHierarchy(pki);
    tsu = makeSoftwareTsu(pki, hierarchy, 'ec-p256');
    const sign = createSigner(tsu);
    journal = await EmbeddedJournal.open();
    archive = new TimestampArchive(journal.client);
    await journal.append(publishedEvent(tsu));
    // One each hour, by two clients in turn; every fourth over the same document; three months, so several partitions.
    for (let i = 0; i < 24; i += 1) {
      const imprint = messageImprint(sha256.oid, hashOf(i % 4 === 0 ? 'same' : `document ${i}`));
      stamps.push(sign(laneRequest(imprint, i % 2 === 0 ? 'bank-1' : 'bank-2', i % 3 === 0), start + i * 72 * hour));
    }
    for (const { event } of stamps) await journal.append(draftOf('timestamp.refused', { optional: true }), event);
  });
  after(async () => {
    await journal?.close();
    pki.close();
  });

  const find = async (search: Partial<StampSearch>): Promise<ArchivedStamp[]> => {
    const found: ArchivedStamp[] = [];
    for await (const stamp of archive.find({ limit: 100, ...search })) found.push(stamp);
    return found;
  };
  const serialsOf = (found: readonly ArchivedStamp[]): string[] => found.map(({ serial }) => serial);
  const newestFirst = (which: (stamp: SignedStamp, i: number) => boolean): string[] =>
    stamps
      .filter(which)
      .map(({ serial }) => serial)
      .toReversed();

  test('by serial number: whole, bit for bit, with its entry', async () => {
    for (const [i, { serial, event, answer }] of stamps.entries()) {
      const found = await archive.bySerial(serial);
      assert.ok(found !== undefined);
      const whole = i % 3 === 0 ? attachCertificates(answer.token, tsu.chain) : answer.token;
      assert.equal(Buffer.from(found.token).toString('hex'), Buffer.from(whole).toString('hex'));
      assert.deepEqual([found.client, found.certReq, found.unixMicros], [event.actor, i % 3 === 0, event.unixMicros]);
      assert.equal(found.octets.toString('hex'), journal.entries[found.sequence]?.octets.toString('hex'));
    }
    assert.equal(await archive.bySerial('ff'.repeat(20)), undefined);
    assert.equal(await archive.bySerial("' OR 1=1 --"), undefined);
  });

  test('by client, newest first', async () => {
    assert.deepEqual(
      serialsOf(await find({ client: 'bank-2' })),
      newestFirst((_, i) => i % 2 === 1),
    );
    assert.deepEqual(await find({ client: 'nobody' }), []);
  });

  test('by time: not before, and before', async () => {
    const at = (i: number): number => (start + i * 72 * hour) * 1_000;
    assert.deepEqual(
      serialsOf(await find({ fromMicros: at(5), toMicros: at(9) })),
      newestFirst((_, i) => i >= 5 && i < 9),
    );
    assert.deepEqual(
      serialsOf(await find({ fromMicros: at(20) })),
      newestFirst((_, i) => i >= 20),
    );
    assert.deepEqual(
      serialsOf(await find({ toMicros: at(2) })),
      newestFirst((_, i) => i < 2),
    );
  });

  test('by imprint: the same hash by the same digest', async () => {
    assert.deepEqual(
      serialsOf(await find({ imprints: [{ digest: 'sha256', hash: hashOf('same') }] })),
      newestFirst((_, i) => i % 4 === 0),
    );
    assert.deepEqual(await find({ imprints: [{ digest: 'sha3-256', hash: hashOf('same') }] }), []);
    const imprints = ['document 1', 'document 2', 'document 999'].map((text) => ({ digest: 'sha256', hash: hashOf(text) }) as const);
    assert.deepEqual(
      serialsOf(await find({ imprints })),
      newestFirst((_, i) => i === 1 || i === 2),
    );
  });

  test('what is alike only in the eight octets that are searched by is another imprint, and costs none of the limit', async () => {
    const hash = hashOf('document 3');
    const alike = Buffer.concat([Buffer.alloc(24), hash.subarray(24)]);
    const sign = createSigner(tsu, 5_000);
    const found = sign(laneRequest(messageImprint(sha256.oid, hash), 'tail'));
    await journal.append(found.event);
    for (let i = 0; i < 5; i += 1) await journal.append(sign(laneRequest(messageImprint(sha256.oid, alike), 'tail')).event);
    await journal.append(sign(laneRequest(messageImprint(sha3.oid, hash), 'tail')).event);
    const search = { client: 'tail', imprints: [{ digest: 'sha256', hash }], limit: 2 } as const;
    assert.deepEqual(serialsOf(await find(search)), [found.serial]);
    assert.equal((await find({ ...search, imprints: [{ digest: 'sha256', hash: alike }], limit: 10 })).length, 5);
  });

  test('all that is given must hold, and no more than the limit comes', async () => {
    const search = { client: 'bank-1', imprints: [{ digest: 'sha256', hash: hashOf('same') }] } as const;
    const right = newestFirst((_, i) => i % 4 === 0);
    assert.deepEqual(serialsOf(await find(search)), right);
    assert.deepEqual(serialsOf(await find({ ...search, limit: 2 })), right.slice(0, 2));
    assert.deepEqual(await find({ ...search, client: 'bank-2' }), []);
  });

  test('pages do not show', async () => {
    const sign = createSigner(tsu, 10_000);
    const [template] = [sign(laneRequest(messageImprint(sha256.oid, hashOf('many')), 'many'))];
    const many = Array.from({ length: 2_345 }, (_, i) => ({ ...template.event, subject: String(i).padStart(40, '0') }));
    await journal.append(...many);
    const found = await find({ client: 'many', limit: 2_200 });
    assert.deepEqual(
      serialsOf(found),
      many
        .map(({ subject }) => subject)
        .toReversed()
        .slice(0, 2_200),
    );
    assert.equal((await find({ client: 'many', limit: 10_000 })).length, 2_345);
  });

  test('a chain that was recorded anew holds for what comes behind it', async () => {
    const another = makeSoftwareTsu(pki, hierarchy, 'ec-p256', 'another');
    const sign = createSigner(another, 20_000);
    const request = laneRequest(messageImprint(sha256.oid, hashOf('x')), 'bank-1', true);
    const [overtaking, first, second] = [sign(request), sign(request), sign(request)];
    const short = another.chain.slice(0, 1);
    await journal.append(overtaking.event, publishedEvent(another), first.event, publishedEvent(another, short), second.event);
    for (const [{ serial, answer }, chain] of [
      [overtaking, another.chain],
      [first, another.chain],
      [second, short],
    ] as const) {
      const whole = attachCertificates(answer.token, chain);
      assert.equal(
        Buffer.from((await archive.bySerial(serial))?.token ?? []).toString('hex'),
        Buffer.from(whole).toString('hex'),
        String(chain.length),
      );
    }
  });

  test('an imprint is read back, whatever its parameters', () => {
    for (const parameters of [undefined, []]) {
      const { digest, hash } = imprintOf(messageImprint(sha3.oid, hashOf('x'), parameters));
      assert.deepEqual([digest, Buffer.from(hash).toString('hex')], ['sha3-256', hashOf('x').toString('hex')]);
    }
    assert.throws(() => imprintOf(messageImprint('1.3.14.3.2.26', Buffer.alloc(20))), { code: 'JOURNAL_MALFORMED' });
  });
});
