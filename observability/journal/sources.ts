/**
 * Where the events of the journal come from: streams in Redis, each read in order from behind a position.
 *
 * Guarantees: an entry is handed out once, in order; one that cannot be read, or holds an event that its stream does not carry
 * (carried-kinds.ts), is handed out as what to quarantine, and holds nothing up; entries are removed only by `trim`, which the caller
 * does when they are durable elsewhere.
 */
import { SigilloError } from '../../config/errors.ts';
import { decodeAnswerBlock } from '../../queue/answer-block.ts';
import { clientRegisterKeys } from '../../queue/client-register.ts';
import { journalKeys, laneKeys } from '../../queue/keys.ts';
import type { RedisClient } from '../../queue/redis.ts';
import { tsuRegisterKeys } from '../../queue/tsu-register.ts';
import { kindsOn } from './carried-kinds.ts';
import { decodeDrafts } from './draft-block.ts';
import type { EventDraft, EventKind } from './events.ts';
import { type Origin, type SourcePositions, unfitIndex } from './origin.ts';
import { quarantineDrafts } from './quarantine.ts';
import type { TellClock } from './recorder.ts';
import { stampEvents } from './stamp-events.ts';

/** A stream, what it carries, and how one of its entries is read. */
export interface JournalSource {
  readonly key: string;
  readonly kinds: ReadonlySet<EventKind>;
  /** @throws JOURNAL_MALFORMED, LANE_ENTRY_MALFORMED */
  readonly decode: (block: Buffer) => EventDraft[];
}

export const journalSources: readonly JournalSource[] = [
  { key: laneKeys('timestamp').journal, kinds: kindsOn('answers'), decode: (block) => stampEvents(decodeAnswerBlock(block)) },
  { key: journalKeys.events, kinds: kindsOn('events'), decode: decodeDrafts },
  { key: clientRegisterKeys.journal, kinds: kindsOn('clients'), decode: decodeDrafts },
  { key: tsuRegisterKeys.journal, kinds: kindsOn('tsus'), decode: decodeDrafts },
];

/** The events of an entry. @throws JOURNAL_MALFORMED, LANE_ENTRY_MALFORMED */
const readEntry = ({ decode, kinds }: JournalSource, block: Buffer): EventDraft[] => {
  const drafts = decode(block);
  const stranger = drafts.find(({ kind }) => !kinds.has(kind));
  if (stranger !== undefined) throw new SigilloError('JOURNAL_MALFORMED', `${stranger.kind} does not come from this stream`);
  return drafts;
};

/** An event with where it came from. */
export interface SourcedEvent {
  readonly draft: EventDraft;
  readonly origin: Origin;
}

/** One entry of a stream. */
export interface SourceEntry {
  readonly events: readonly SourcedEvent[];
  /** The whole entry, for the quarantine. */
  readonly block: Buffer;
  readonly origin: Omit<Origin, 'index'>;
  /** What does not fit in it is in the journal already. */
  readonly isQuarantined: boolean;
}

/** Entries of one read: 64 stamps each make 500 events and 500 KB. */
const entriesPerRead = 8;
const beginning = '0-0';

interface EntryId {
  readonly millis: number;
  readonly number: number;
}

const parseId = (id: string): EntryId => {
  const [millis, number] = id.split('-');
  return { millis: Number(millis), number: Number(number ?? 0) };
};
const isBehind = (a: EntryId, b: EntryId): boolean => a.millis > b.millis || (a.millis === b.millis && a.number > b.number);

const originKey = ({ source, millis, number, index }: Origin): string => `${source} ${millis}-${number} ${index}`;

export interface JournalSourcesOptions {
  readonly redis: RedisClient;
  readonly sources?: readonly JournalSource[];
  /** How far each stream is in the journal. */
  readonly positions: SourcePositions;
  /** Events behind the positions that are in the journal nevertheless: a block that was stored in part. */
  readonly known: readonly Origin[];
  /** What is known about the clock of this host. @defaultValue nothing */
  readonly clock?: TellClock;
  readonly onQuarantined: (origin: Omit<Origin, 'index'>, error: Error) => void;
}

export class JournalSources {
  readonly #redis: RedisClient;
  readonly #sources: readonly JournalSource[];
  readonly #known: Set<string>;
  readonly #options: JournalSourcesOptions;
  readonly #read = new Map<string, string>();
  /** For each source the last entry of which something is known; gone when it was read so far. */
  readonly #knownTo = new Map<string, EntryId>();

  private constructor(options: JournalSourcesOptions) {
    this.#options = options;
    this.#redis = options.redis;
    this.#sources = options.sources ?? journalSources;
    this.#known = new Set(options.known.map(originKey));
    for (const { source, millis, number } of options.known) {
      const before = this.#knownTo.get(source);
      if (before === undefined || isBehind({ millis, number }, before)) this.#knownTo.set(source, { millis, number });
    }
  }

  /** @throws when Redis does not answer */
  static async open(options: JournalSourcesOptions): Promise<JournalSources> {
    const sources = new JournalSources(options);
    await Promise.all(sources.#sources.map(async ({ key }) => sources.#read.set(key, await sources.#start(key))));
    return sources;
  }

  /**
   * A stream that is younger than the position was lost with its Redis, or fell back with a failover: what it holds now is taken from
   * its beginning, because to have an event twice is better than not at all.
   */
  async #start(key: string): Promise<string> {
    const position = this.#options.positions[key] ?? beginning;
    const info = (await this.#redis.xinfo('STREAM', key).catch((error: Error) => {
      if (error.message.startsWith('ERR no such key')) return [];
      throw error;
    })) as unknown[];
    const last = info[info.indexOf('last-generated-id') + 1];
    return info.length === 0 || isBehind(parseId(position), parseId(String(last))) ? beginning : position;
  }

  /** How far each stream was read. */
  get positions(): SourcePositions {
    return Object.fromEntries(this.#read);
  }

  /** Whether something that comes behind the positions may be in the journal nevertheless. */
  get someKnown(): boolean {
    return this.#knownTo.size > 0;
  }

  /** The next entries of all streams; none when there are none. @throws when Redis does not answer: nothing was taken then */
  async next(): Promise<SourceEntry[]> {
    const read = await Promise.all(
      this.#sources.map(async (source) => {
        const after = this.#read.get(source.key) as string;
        const entries = (await this.#redis.xrangeBuffer(source.key, `(${after}`, '+', 'COUNT', entriesPerRead)) as [Buffer, Buffer[]][];
        return { source, entries };
      }),
    );
    const next = read.flatMap(({ source, entries }) => {
      const last = entries.at(-1);
      if (last !== undefined) this.#read.set(source.key, last[0].toString('latin1'));
      return entries.map(([id, fields]) => this.#entry(source, parseId(id.toString('latin1')), fields));
    });
    if (this.someKnown) for (const { source, entries } of read) this.#forget(source.key, entries.length < entriesPerRead);
    return next;
  }

  /** What is known of a source is of use until its last entry was read, or its end: that entry may have been removed already. */
  #forget(key: string, atItsEnd: boolean): void {
    const knownTo = this.#knownTo.get(key);
    if (knownTo !== undefined && !atItsEnd && isBehind(knownTo, parseId(this.#read.get(key) as string))) return;
    this.#knownTo.delete(key);
    if (!this.someKnown) this.#known.clear();
  }

  /** Removes the entries up to these positions. @throws when Redis does not answer */
  async trim(positions: SourcePositions): Promise<void> {
    await Promise.all(
      this.#sources.map(async ({ key }) => {
        const { millis, number } = parseId(positions[key] ?? beginning);
        if (millis > 0) await this.#redis.xtrim(key, 'MINID', '=', `${millis}-${number + 1}`);
      }),
    );
  }

  #entry(source: JournalSource, id: EntryId, fields: readonly Buffer[]): SourceEntry {
    const origin = { source: source.key, ...id };
    const block = fields[1] ?? Buffer.alloc(0);
    let drafts: EventDraft[];
    try {
      drafts = readEntry(source, block);
    } catch (error) {
      if (!(error instanceof SigilloError)) throw error;
      this.#options.onQuarantined(origin, error);
      drafts = quarantineDrafts(origin, block, error.message, this.#options.clock);
    }
    const events = drafts.map((draft, index) => ({ draft, origin: { ...origin, index } }));
    if (this.#known.size === 0) return { block, origin, events, isQuarantined: false };
    const isKnown = (one: Origin): boolean => this.#known.has(originKey(one));
    return {
      block,
      origin,
      events: events.filter((one) => !isKnown(one.origin)),
      isQuarantined: isKnown({ ...origin, index: unfitIndex }),
    };
  }
}
