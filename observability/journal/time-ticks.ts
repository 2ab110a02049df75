/** Ticks of a time axis: at round hours, days, months or years in UTC, as many as there is room for. */

export interface TimeTick {
  readonly millis: number;
  readonly label: string;
}

const hourMs = 3_600_000;
const dayMs = 24 * hourMs;
const monthNames = ['Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun', 'Jul', 'Aug', 'Sep', 'Oct', 'Nov', 'Dec'];

/** The next tick at or behind an instant, and its label. */
interface TickStep {
  atOrBehind(millis: number): number;
  label(date: Date): string;
}

const dayLabel = (date: Date): string => `${date.getUTCDate()} ${monthNames[date.getUTCMonth()]}`;
const twoDigits = (value: number): string => String(value).padStart(2, '0');

const everyHours = (hours: number): TickStep => ({
  atOrBehind: (millis) => Math.ceil(millis / (hours * hourMs)) * hours * hourMs,
  label: (date) => (date.getUTCHours() === 0 ? dayLabel(date) : `${twoDigits(date.getUTCHours())}:00`),
});
/** @param phase days since 1970 of any tick: 4 is a Monday */
const everyDays = (days: number, phase = 0): TickStep => ({
  atOrBehind: (millis) => (Math.ceil((millis / dayMs - phase) / days) * days + phase) * dayMs,
  label: dayLabel,
});
const everyMonths = (months: number): TickStep => ({
  atOrBehind: (millis) => {
    const date = new Date(millis);
    const month = date.getUTCFullYear() * 12 + date.getUTCMonth();
    const from = Date.UTC(Math.floor(month / 12), month % 12) < millis ? month + 1 : month;
    const tick = Math.ceil(from / months) * months;
    return Date.UTC(Math.floor(tick / 12), tick % 12);
  },
  label: (date) => (date.getUTCMonth() === 0 ? String(date.getUTCFullYear()) : (monthNames[date.getUTCMonth()] as string)),
});

const steps: readonly TickStep[] = [
  ...[1, 2, 3, 6, 12].map(everyHours),
  everyDays(1),
  everyDays(2),
  everyDays(7, 4),
  everyDays(14, 4),
  ...[1, 3, 6, 12, 24, 60, 120].map(everyMonths),
];

const ticksOf = ({ atOrBehind, label }: TickStep, from: number, to: number, most: number): TimeTick[] => {
  const ticks: TimeTick[] = [];
  for (let at = atOrBehind(from); at <= to && ticks.length <= most; at = atOrBehind(at + 1)) {
    ticks.push({ millis: at, label: label(new Date(at)) });
  }
  return ticks;
};

/**
 * @param from milliseconds since 1970
 * @param most ticks that there is room for
 */
export const timeTicks = (from: number, to: number, most: number): TimeTick[] => {
  let ticks: TimeTick[] = [];
  for (const step of steps) {
    ticks = ticksOf(step, from, to, most);
    if (ticks.length <= most) break;
  }
  return ticks.slice(0, most);
};
