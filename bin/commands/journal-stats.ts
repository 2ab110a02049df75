/** `sigillo journal stats`: entries by kind over time, and what they tell of, as a table, JSON or a picture. */
import { writeFileAtomic } from '../../config/atomic-file.ts';
import { loadConfig } from '../../config/load.ts';
import {
  countEntries,
  groupIntervals,
  type KindStatistics,
  type Statistics,
  type StatisticsUnit,
  statisticsUnits,
  sumOutcomes,
} from '../../observability/journal/statistics.ts';
import { drawStatistics } from '../../observability/journal/statistics-picture.ts';
import { rangeText } from '../../observability/journal/statistics-text.ts';
import { endWithReader } from './closed-pipe.ts';
import { openJournalAccess } from './journal-access.ts';
import { queryText, readTime, usage } from './journal-options.ts';
import { printable } from './printable.ts';

export interface StatsCommandOptions {
  readonly from?: string;
  readonly to?: string;
  readonly by?: string;
  readonly json?: true;
  readonly picture?: string;
  readonly store?: string;
}

const levels = '▁▂▃▄▅▆▇█';
/** Intervals in a line where the width of the terminal is not known. */
const barsDefault = 60;
const barsMin = 10;

const readUnit = (text: string): StatisticsUnit => {
  const unit = statisticsUnits.find((one) => one === text);
  if (unit === undefined) throw usage(`--by: one of ${statisticsUnits.join(', ')}`);
  return unit;
};

const number = (value: number): string => value.toLocaleString('en');

/** Small bars, each kind by its own largest; what is there at all is seen. */
const barsOf = (values: readonly number[]): string => {
  const max = Math.max(...values);
  return values
    .map((value) => (value === 0 ? '·' : (levels[Math.max(0, Math.ceil((value / max) * levels.length) - 1)] as string)))
    .join('');
};

const notGood = ({ occurrences: { counts } }: KindStatistics): number =>
  counts.refused.concat(counts.failure).reduce((sum, value) => sum + value, 0);

const perInterval = ({ occurrences }: KindStatistics): number[] => sumOutcomes(occurrences.counts);

const tableOf = (statistics: Statistics, columns: number | undefined): string => {
  if (statistics.kinds.length === 0) return 'no entries\n';
  const { total, occurrences } = statistics;
  // Of occurrences, as the bars: an entry may stand for many.
  const heads = ['KIND', 'ENTRIES', 'OCCURRENCES', 'NOT SUCCESS'];
  const rows = statistics.kinds.map((one) => [printable(one.kind), ...[one.total, one.occurrences.total, notGood(one)].map(number)]);
  rows.push(['all', ...[total, occurrences, statistics.kinds.reduce((sum, one) => sum + notGood(one), 0)].map(number)]);
  const widths = heads.map((head, i) => Math.max(head.length, ...rows.map((cells) => (cells[i] as string).length)));
  const used = widths.reduce((sum, width) => sum + width + 2, 0);
  const barsMax = columns === undefined ? barsDefault : Math.max(barsMin, columns - used - 1);
  const { statistics: grouped, length } = groupIntervals(statistics, barsMax);
  const all = grouped.intervals.map((_, i) => grouped.kinds.reduce((sum, one) => sum + (perInterval(one)[i] as number), 0));
  const bars = [...grouped.kinds.map(perInterval), all].map(barsOf);
  const cut = (cells: readonly string[]): string =>
    cells.map((cell, i) => (i === 0 ? cell.padEnd(widths[i] as number) : cell.padStart(widths[i] as number))).join('  ');
  const [first, last] = [statistics.intervals[0] as number, statistics.intervals.at(-1) as number];
  const each = length === 1 ? `one ${statistics.by}` : `${length} ${statistics.by}s`;
  const over = `${rangeText(first, last, statistics.by)} (UTC), ${each} a bar`;
  const lines = rows.map((cells, i) => `${cut(cells)}  ${bars[i]}`);
  return `${[`${cut(heads)}  ${over}`, ...lines].join('\n')}\n`;
};

const statisticsJson = ({ by, intervals, total, occurrences, kinds }: Statistics): Record<string, unknown> => ({
  by,
  intervals: intervals.map((begin) => new Date(begin).toISOString()),
  total,
  occurrences,
  kinds: kinds.map(({ kind, total: entries, counts, occurrences: told }) => ({
    kind,
    total: entries,
    ...counts,
    occurrences: { total: told.total, ...told.counts },
  })),
});

const writePicture = (file: string, statistics: Statistics): void => {
  try {
    writeFileAtomic(file, drawStatistics(statistics, { title: 'Journal: events by kind over time' }), { mode: 0o644 });
  } catch (cause) {
    throw usage(`--picture: ${(cause as Error).message}`);
  }
  process.stderr.write(`sigillo: ${file} is written\n`);
};

/** Counts and shows. @throws USAGE, REDIS_UNAVAILABLE when the reading could not be recorded, JOURNAL_STORE_UNAVAILABLE, CONFIG_* */
export const showStatistics = async (options: StatsCommandOptions): Promise<void> => {
  const { from, to, by, picture } = options;
  const query = {
    ...(from === undefined ? {} : { fromMicros: readTime('--from', from) }),
    ...(to === undefined ? {} : { toMicros: readTime('--to', to) }),
    ...(by === undefined ? {} : { by: readUnit(by) }),
  };
  endWithReader();
  const access = await openJournalAccess(loadConfig(), options.store);
  try {
    const counted = await countEntries(access.client, query);
    if ('kind' in counted) throw usage(`these are ${number(counted.count)} ${by}s: choose a longer unit, or a shorter time`);
    await access.record({ subject: 'statistics', query: queryText({ from, to, by }), entries: counted.total });
    if (picture !== undefined) writePicture(picture, counted);
    if (options.json) process.stdout.write(`${JSON.stringify(statisticsJson(counted), null, 2)}\n`);
    else process.stdout.write(tableOf(counted, process.stdout.isTTY ? process.stdout.columns : undefined));
  } finally {
    await access.close();
  }
};
