/**
 * How many timestamps each TSU has made, from the journal. Its entries are searched for the digest of the TSU's certificate, within the
 * time of its use: exact, and as slow as reading that part of the journal, so it is done only when it is asked for.
 */
import type { Config } from '../../config/schema.ts';
import type { TsuRecord } from '../../queue/tsu-register.ts';
import { certificateOf } from '../../signer/tsu-folder.ts';
import { openJournalReading } from './journal-reading.ts';

/** A stamp has the time of its own clock; a step of it must not lose one. */
const marginMs = 86_400_000;

/** Stamps by id of the TSU. @throws REDIS_UNAVAILABLE, JOURNAL_STORE_UNAVAILABLE */
export const countStamps = async (config: Config, tsus: readonly TsuRecord[], now: Date): Promise<ReadonlyMap<string, number>> => {
  const reading = await openJournalReading(config, { offline: false });
  const counts = new Map<string, number>();
  try {
    await reading.record({ subject: 'statistics', query: 'stamps by TSU', entries: 0 });
    for (const record of tsus) {
      const certificate = certificateOf(record);
      if (certificate === undefined || record.activateAt === undefined) continue;
      const from = Date.parse(record.activateAt) - marginMs;
      const to = Math.min(Date.parse(record.usableUntil ?? now.toISOString()), now.getTime()) + marginMs;
      const digest = certificate.fingerprint256.replaceAll(':', '').toLowerCase();
      const result = await reading.client.query({
        query: `SELECT count() AS stamps FROM journal_events WHERE kind = 'timestamp.issued' AND unixMicros >= ${from * 1_000}
          AND unixMicros < ${to * 1_000} AND position(octets, unhex('${digest}')) > 0`,
        format: 'JSONEachRow',
      });
      const [row] = (await result.json()) as { stamps: string | number }[];
      counts.set(record.id, Number(row?.stamps ?? 0));
    }
    return counts;
  } finally {
    await reading.close();
  }
};
