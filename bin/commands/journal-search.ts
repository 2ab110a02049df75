/** `sigillo journal search`: entries of the journal, newest first. */
import { loadConfig } from '../../config/load.ts';
import { eventOutcomes } from '../../observability/journal/events.ts';
import { instantText } from '../../observability/journal/instants.ts';
import { type EntrySearch, entryJson, type FoundEntry, kindsMatching, searchEntries } from '../../observability/journal/search.ts';
import { endWithReader } from './closed-pipe.ts';
import { openJournalAccess } from './journal-access.ts';
import { queryText, readNumber, readTime, usage } from './journal-options.ts';
import { printable, shorten } from './printable.ts';

export interface SearchCommandOptions {
  readonly kind?: string;
  readonly actor?: string;
  readonly subject?: string;
  readonly outcome?: string;
  readonly node?: string;
  readonly from?: string;
  readonly to?: string;
  readonly limit: string;
  readonly oldestFirst?: true;
  readonly json?: true;
  readonly store?: string;
}

/** Entries that are recorded and shown together: about 1 MB, and one event for each such part of a long list. */
const entriesAtOnce = 1_000;
const limitMax = 10_000_000;
const textMax = 256;
const columnGap = '  ';
/** What a subject is shortened to on a narrow terminal at least: both ends of a serial number. */
const subjectMin = 17;

const readText = (option: string, text: string): string => {
  if (text.length > textMax) throw usage(`${option}: at most ${textMax} characters`);
  return text;
};

const readKinds = (text: string): EntrySearch['kinds'] => {
  const kinds = kindsMatching(text);
  if (kinds.length === 0)
    throw usage(`--kind: no kind of event is called ${JSON.stringify(text.slice(0, 80))}; docs/journal-events.md lists them`);
  return kinds;
};

const readOutcome = (text: string): EntrySearch['outcome'] => {
  const outcome = eventOutcomes.find((one) => one === text);
  if (outcome === undefined) throw usage(`--outcome: one of ${eventOutcomes.join(', ')}`);
  return outcome;
};

const subjectOf = (text: string): Pick<EntrySearch, 'subject' | 'subjectStart'> =>
  text.endsWith('*') ? { subjectStart: text.slice(0, -1) } : { subject: text };

const searchOf = (options: SearchCommandOptions): EntrySearch => {
  const { kind, actor, subject, outcome, node, from, to, limit, oldestFirst } = options;
  return {
    ...(kind === undefined ? {} : { kinds: readKinds(kind) }),
    ...(actor === undefined ? {} : { actor: readText('--actor', actor) }),
    ...(subject === undefined ? {} : subjectOf(readText('--subject', subject))),
    ...(outcome === undefined ? {} : { outcome: readOutcome(outcome) }),
    ...(node === undefined ? {} : { node: readText('--node', node) }),
    ...(from === undefined ? {} : { fromMicros: readTime('--from', from) }),
    ...(to === undefined ? {} : { toMicros: readTime('--to', to) }),
    first: oldestFirst ? 'oldest' : 'newest',
    limit: readNumber('--limit', limit, { min: 1, max: limitMax }),
  };
};

const queryOf = ({ kind, actor, subject, outcome, node, from, to, limit, oldestFirst }: SearchCommandOptions): string =>
  queryText({ kind, actor, subject, outcome, node, from, to, limit, oldestFirst });

type Cells = readonly [sequence: string, time: string, kind: string, actor: string, subject: string, outcome: string];
const headings: Cells = ['SEQUENCE', 'TIME', 'KIND', 'ACTOR', 'SUBJECT', 'OUTCOME'];
const subjectColumn = 4;

const cellsOf = (found: FoundEntry): Cells => {
  if (found.kind === 'unreadable') return [String(found.sequence), '', 'UNREADABLE', '', found.why, ''];
  const { sequence, unixMicros, kind, actor, subject, outcome } = found.event;
  return [String(sequence), instantText(unixMicros), kind, actor, subject, outcome];
};

/** Writes entries as a table, part by part; the columns of the first part stay. */
class Table {
  #widths: number[] | undefined;

  write(entries: readonly FoundEntry[]): void {
    const rows = entries.map((found) => cellsOf(found).map(printable));
    const isFirst = this.#widths === undefined;
    this.#widths ??= this.#measure([headings, ...rows]);
    const widths = this.#widths;
    const lines = (isFirst ? [headings, ...rows] : rows).map((cells) =>
      cells
        .map((cell, i) => {
          const width = widths[i] as number;
          const text = i === subjectColumn ? shorten(cell, width) : cell;
          return i === 0 ? text.padStart(width) : text.padEnd(width);
        })
        .join(columnGap)
        .trimEnd(),
    );
    process.stdout.write(`${lines.join('\n')}\n`);
  }

  #measure(rows: readonly (readonly string[])[]): number[] {
    const widths = headings.map((_, i) => Math.max(...rows.map((cells) => (cells[i] as string).length)));
    const { columns, isTTY } = process.stdout;
    if (!isTTY) return widths;
    const others = widths.reduce((sum, width) => sum + width + columnGap.length, -columnGap.length) - (widths[subjectColumn] as number);
    widths[subjectColumn] = Math.min(widths[subjectColumn] as number, Math.max(subjectMin, columns - others));
    return widths;
  }
}

/**
 * Searches and shows; false when nothing was found.
 * @throws USAGE, REDIS_UNAVAILABLE when the reading could not be recorded, JOURNAL_STORE_UNAVAILABLE, CONFIG_*
 */
export const searchJournal = async (options: SearchCommandOptions): Promise<boolean> => {
  endWithReader();
  const search = searchOf(options);
  const query = queryOf(options);
  const access = await openJournalAccess(loadConfig(), options.store);
  const table = new Table();
  let count = 0;
  let part: FoundEntry[] = [];
  const showPart = async (): Promise<void> => {
    await access.record({ subject: 'entries', query, entries: part.length });
    if (options.json) for (const found of part) process.stdout.write(`${JSON.stringify(entryJson(found))}\n`);
    else if (part.length > 0) table.write(part);
    part = [];
  };
  try {
    for await (const found of searchEntries(access.client, search)) {
      part.push(found);
      count += 1;
      if (part.length >= entriesAtOnce) await showPart();
    }
    // Also a search that found nothing has read the journal.
    if (part.length > 0 || count === 0) await showPart();
  } finally {
    await access.close();
  }
  if (count === 0) process.stderr.write('sigillo: no such entry in the journal\n');
  return count > 0;
};
