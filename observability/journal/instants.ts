/** Instants as people write them and as the journal keeps them: ISO 8601, and microseconds since 1970. */

const pattern = /^(\d{4})-(\d\d)-(\d\d)(?:T(\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,6}))?)?(Z|[+-]\d\d:\d\d))?$/;
const microsPerMilli = 1_000;

/** How an instant may be written, for messages. */
export const instantForms = 'an ISO 8601 time such as 2026-11-22 (UTC) or 2026-11-22T10:30:00Z';

const isDate = (year: number, month: number, day: number): boolean => {
  const date = new Date(Date.UTC(year, month - 1, day));
  return date.getUTCMonth() === month - 1 && date.getUTCDate() === day;
};

/**
 * Reads an instant: a date, which is its begin in UTC, or a date and a time with its offset from UTC.
 * @returns microseconds since 1970; undefined for anything else, and for what was before
 */
export const readInstant = (text: string): number | undefined => {
  const [, year, month, day, , , , fraction = ''] = pattern.exec(text) ?? [];
  // Date.parse takes 30 February for 2 March.
  if (year === undefined || !isDate(Number(year), Number(month), Number(day))) return undefined;
  const millis = Date.parse(text.replace(/\.\d+/, ''));
  const micros = millis * microsPerMilli + Number(fraction.padEnd(6, '0'));
  return Number.isSafeInteger(micros) && micros >= 0 ? micros : undefined;
};

/** ISO 8601 with microseconds, in UTC. */
export const instantText = (unixMicros: number): string => {
  const millis = Math.floor(unixMicros / microsPerMilli);
  const micros = String(unixMicros % microsPerMilli).padStart(3, '0');
  const date = new Date(millis);
  // A changed row may hold any number.
  return Number.isNaN(date.getTime()) ? `${unixMicros} µs` : date.toISOString().replace('Z', `${micros}Z`);
};
