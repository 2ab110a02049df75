/**
 * What must be told again before a partition goes, because something that stays needs it: which entries went with partitions whose
 * hashes stay, and the chains of TSUs whose stamps stay.
 *
 * It is told as it was, the whole entry within another. So it needs no trust: its hash stays at its place in the tree, its time is the
 * time of then, and its number says which stamps a chain is for. What was told again already is not told a third time, so a crash
 * before the partition goes is harmless.
 */
import type { ClickHouseClient } from '@clickhouse/client';
import { parseCertificate } from '../../pki/certificate-path.ts';
import { splitDer } from '../../pki/der.ts';
import type { EventDraft } from './events.ts';
import { type Partition, partitionName } from './partitions.ts';
import { draftOf, type TellClock } from './recorder.ts';
import { partitionOf } from './store.ts';
import { readableEvents, type ToldEvent } from './told-events.ts';

type Told<K extends 'journal.expired' | 'tsu.published'> = Extract<ToldEvent['event'], { kind: K }>;

const groupedBySubject = <E extends ToldEvent>(told: readonly E[]): E[][] => [...Map.groupBy(told, ({ event }) => event.subject).values()];

/** The first of each run of the same chain: which of several a stamp was answered with depends on their order. */
const chainsThatDiffer = (told: readonly ToldEvent<Told<'tsu.published'>>[]): ToldEvent[] =>
  told.filter(({ event }, i) => {
    const before = told[i - 1];
    return before === undefined || Buffer.compare(before.event.detail.chain, event.detail.chain) !== 0;
  });

/** When a TSU can have stamped last, in milliseconds; one whose certificate nobody can read may stamp for ever. */
const stampedUntil = (chain: Uint8Array): number => {
  try {
    const [tsu] = splitDer(chain);
    return (tsu === undefined ? undefined : parseCertificate(tsu))?.notAfter.getTime() ?? Number.POSITIVE_INFINITY;
  } catch {
    return Number.POSITIVE_INFINITY; // then its stamps may still be there
  }
};

/** Begin of the first month of which stamps or stamped checkpoints stay, in milliseconds. */
const oldestStay = (staying: readonly Partition[]): number => {
  const months = staying.filter(({ retention }) => retention === 'timestamp' || retention === 'certificate').map(({ month }) => month);
  if (months.length === 0) return Number.POSITIVE_INFINITY;
  const oldest = Math.min(...months);
  return Date.UTC(Math.floor(oldest / 100), (oldest % 100) - 1);
};

/**
 * The events that must be durable before a partition goes.
 *
 * An entry of almost the greatest size cannot be within another: such a chain of a TSU, of 65,000 octets, would keep its partition.
 *
 * @param staying the partitions that stay
 * @throws JOURNAL_STORE_UNAVAILABLE, JOURNAL_MALFORMED
 */
export const retellings = async (
  client: ClickHouseClient,
  going: Partition,
  staying: readonly Partition[],
  clock?: TellClock,
): Promise<EventDraft[]> => {
  if (going.retention !== 'certificate') return [];
  const expiries = groupedBySubject(await readableEvents(client, 'journal.expired')).map((told) => told.at(-1) as ToldEvent);
  const since = oldestStay(staying);
  const chains = groupedBySubject(await readableEvents(client, 'tsu.published'))
    .flatMap(chainsThatDiffer)
    .filter(({ event }) => stampedUntil((event as Told<'tsu.published'>).detail.chain) >= since);
  const name = partitionName(going);
  return [...expiries, ...chains]
    .filter(({ tellers }) => tellers.every((teller) => partitionOf(teller) === name))
    .map(({ event: { subject }, octets }) =>
      draftOf({ kind: 'journal.retold', subject, outcome: 'success', detail: { entry: octets } }, 'journal', clock),
    );
};
