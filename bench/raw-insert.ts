/** The raw limit of the journal: rows of the same entries into the same table, one block after the other, and nothing else. */
import { emptyChain, headBehind, sealEvent } from '../observability/journal/chain.ts';
import { embeddedClient } from '../observability/journal/clickhouse.ts';
import { noOrigin } from '../observability/journal/origin.ts';
import { stampEvents } from '../observability/journal/stamp-events.ts';
import { StampLookup } from '../observability/journal/stamp-lookup.ts';
import { JournalStore, type StoredEvent } from '../observability/journal/store.ts';
import { decodeAnswerBlock } from '../queue/answer-block.ts';

export interface RawInsertJob {
  readonly folder: string;
  readonly blocks: readonly Uint8Array[];
}

export interface RawInsertAnswer {
  readonly rowsPerSecond: number;
  readonly cpuMicros: number;
  readonly bytesPerRow: number;
}

const rowsPerBlock = 5_000;
/** Inserted before it counts: the engine loads its parts at the first. */
const warmupRows = rowsPerBlock;

const run = async ({ folder, blocks }: RawInsertJob): Promise<RawInsertAnswer> => {
  const store = await JournalStore.open(await embeddedClient(folder));
  let head = emptyChain;
  const entries = blocks
    .flatMap((block) => stampEvents(decodeAnswerBlock(Buffer.from(block))))
    .map((draft): StoredEvent => {
      const sealed = sealEvent(head, draft);
      head = headBehind(sealed);
      return { ...sealed, origin: noOrigin };
    });
  await store.insert(entries.slice(0, warmupRows));
  const started = performance.now();
  const cpu = process.cpuUsage();
  for (let at = warmupRows; at < entries.length; at += rowsPerBlock) await store.insert(entries.slice(at, at + rowsPerBlock));
  const { user, system } = process.cpuUsage(cpu);
  const rows = entries.length - warmupRows;
  const seconds = (performance.now() - started) / 1_000;
  // What a stamp takes is its entry and what it is found by.
  await new StampLookup({ client: store.client, segmentEntries: entries.length }).extend(entries.length);
  const result = await store.client.query({
    query: "SELECT toFloat64(sum(data_compressed_bytes)) AS bytes FROM system.parts WHERE startsWith(table, 'journal_') AND active",
    format: 'JSONEachRow',
  });
  const [size] = await result.json<{ bytes: number }>();
  await store.close();
  return { rowsPerSecond: rows / seconds, cpuMicros: (user + system) / rows, bytesPerRow: (size?.bytes ?? 0) / entries.length };
};

process.on('message', (job: RawInsertJob) => {
  run(job).then(
    (answer) => process.send?.(answer),
    (error: unknown) => process.send?.({ failure: error instanceof Error ? (error.stack ?? error.message) : String(error) }),
  );
});
process.on('disconnect', () => process.exit(0));
