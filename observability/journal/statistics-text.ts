/** How statistics are written; of intervals no more of the time than the unit says. */
import type { Statistics, StatisticsUnit } from './statistics.ts';

const lengths: Readonly<Record<StatisticsUnit, number>> = {
  month: 'YYYY-MM'.length,
  day: 'YYYY-MM-DD'.length,
  hour: 'YYYY-MM-DDTHH:MM'.length,
};

/** The begin of an interval in UTC. @param millis since 1970 */
const intervalText = (millis: number, by: StatisticsUnit): string => new Date(millis).toISOString().slice(0, lengths[by]).replace('T', ' ');

/** From one interval to another, both included. @param first begin, in milliseconds since 1970 */
export const rangeText = (first: number, last: number, by: StatisticsUnit): string =>
  first === last ? intervalText(first, by) : `${intervalText(first, by)} to ${intervalText(last, by)}`;

/** So many entries. */
export const entriesText = (entries: number): string => `${entries.toLocaleString('en')} ${entries === 1 ? 'entry' : 'entries'}`;

const hourMs = 3_600_000;

/** Where the last interval ends, in milliseconds since 1970. There must be one. */
export const lastInstant = ({ by, intervals }: Statistics): number => {
  const last = intervals.at(-1) as number;
  if (by !== 'month') return last + (by === 'day' ? 24 * hourMs : hourMs);
  const date = new Date(last);
  return Date.UTC(date.getUTCFullYear(), date.getUTCMonth() + 1);
};
