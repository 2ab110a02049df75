/** What `sigillo journal verify` says: for people, and as JSON. */
import type { BundleValid } from '../../observability/journal/verify-bundle.ts';
import type { CoverVerdict } from '../../observability/journal/verify-cover.ts';
import type { JournalFault } from '../../observability/journal/verify-places.ts';
import type { JournalValid, JournalVerdict } from '../../observability/journal/verify-run.ts';
import { printable } from './printable.ts';

export interface VerifyRun {
  readonly verdict: JournalVerdict;
  /** Whether signatures reach far enough; undefined when something is wrong anyway, and for a bundle, which one covers. */
  readonly cover: CoverVerdict | undefined;
  /** Checkpoints held elsewhere that the journal was compared with; undefined for a bundle, which has its own. */
  readonly anchors: number | undefined;
  /** There were roots to verify timestamps with. */
  readonly trusted: boolean;
  readonly seconds: number;
}

const hexOf = (octets: Uint8Array): string => Buffer.from(octets).toString('hex');
const number = (value: number): string => value.toLocaleString('en');

/** One entry, or the range in which the first wrong one lies. */
const placeOf = ({ at, until }: JournalFault): string =>
  until > at + 1 ? `in entries ${at} to ${until - 1}` : until === at ? 'as a whole' : `at entry ${at}`;

const speedOf = ({ verdict, seconds }: VerifyRun): number =>
  verdict.kind === 'valid' ? Math.round((verdict.entries + verdict.expired) / seconds) : 0;

const isBundle = (verdict: JournalValid): verdict is BundleValid => 'checkpointTime' in verdict;

const timestampsText = (verdict: JournalValid, trusted: boolean): string => {
  if (!trusted) return 'not verified, there are no trusted roots: name them with --trust';
  if (isBundle(verdict)) {
    const { checkpointTime } = verdict;
    return checkpointTime === undefined ? 'none' : `of the checkpoint that covers them: ${checkpointTime.toISOString()}`;
  }
  const { checkpoints, timestamped, lastTimestamp } = verdict;
  const last = lastTimestamp === undefined ? '' : `, the last of ${lastTimestamp.toISOString()}`;
  return `${number(timestamped)} of ${number(checkpoints)} checkpoints${last}`;
};

const anchorsText = (anchors: number): string =>
  anchors === 0
    ? 'no checkpoint: that entries were cut off at the end would not be noticed'
    : `${anchors} ${anchors === 1 ? 'checkpoint, and it agrees' : 'checkpoints, and they agree'}`;

const uncoveredText = ({ entries, seconds }: CoverVerdict): string =>
  `${number(entries)} entries, which span ${number(Math.round(seconds))} s`;

/** Why nobody can rely on what is valid in itself. */
const unsignedWhy = (cover: CoverVerdict): string =>
  `no signed checkpoint covers any of ${uncoveredText(cover)}: all of them can have been made anew`;

const warningsOf = ({ cover }: VerifyRun): string[] =>
  cover?.kind === 'late' ? [`no checkpoint covers the last ${uncoveredText(cover)}: that is more than the settings allow`] : [];

const coveredText = ({ from, to, unanchored }: JournalValid): string => {
  if (unanchored === 0) return 'all by signed checkpoints';
  return unanchored === to - from
    ? 'none by a signed checkpoint yet'
    : `all but the last ${number(unanchored)}, which no checkpoint covers yet`;
};

const describeValid = (verdict: JournalValid, run: VerifyRun): string => {
  const { from, to, entries, expired, root, expiryUnproven } = verdict;
  const range = to === from ? 'none' : `${from} to ${to - 1}`;
  const rows: [string, string][] = [
    ['entries', `${range} (${number(entries)} read, ${number(expired)} expired)`],
    ['covered', coveredText(verdict)],
    ...warningsOf(run).map((warning): [string, string] => ['warning', warning]),
    ['timestamps', timestampsText(verdict, run.trusted)],
    ...(run.anchors === undefined ? [] : [['elsewhere', anchorsText(run.anchors)] as [string, string]]),
    ...(expiryUnproven.length === 0 ? [] : [['expiry', `not proven by what was read: ${expiryUnproven.join(', ')}`] as [string, string]]),
    ['root', hexOf(root)],
    ['speed', `${number(speedOf(run))} entries/s, ${run.seconds.toFixed(1)} s`],
  ];
  const headline = run.cover?.kind === 'unsigned' ? `NOT SIGNED: ${unsignedWhy(run.cover)}` : 'valid';
  return `journal: ${headline}\n${rows.map(([name, text]) => `  ${name.padEnd(10)}  ${printable(text)}\n`).join('')}`;
};

/** Lines for people. */
export const describeVerdict = (run: VerifyRun): string => {
  const { verdict } = run;
  if (verdict.kind === 'valid') return describeValid(verdict, run);
  return `journal: NOT VALID: ${verdict.fault} ${placeOf(verdict)}: ${printable(verdict.why)}\n`;
};

/** As JSON: hashes in hexadecimal. */
export const verdictJson = (run: VerifyRun): Record<string, unknown> => {
  const { verdict, cover, anchors, trusted, seconds } = run;
  if (verdict.kind === 'fault') return { ...verdict };
  const { from, to, entries, expired, checkpoints, unanchored, expiryUnproven } = verdict;
  const timestamped = isBundle(verdict) ? Number(verdict.checkpointTime !== undefined) : verdict.timestamped;
  const lastTimestamp = isBundle(verdict) ? verdict.checkpointTime : verdict.lastTimestamp;
  return {
    ...(cover?.kind === 'unsigned' ? { kind: 'unsigned', why: unsignedWhy(cover) } : { kind: verdict.kind }),
    from,
    to,
    entries,
    expired,
    checkpoints,
    timestamped: trusted ? timestamped : null,
    lastTimestamp: lastTimestamp?.toISOString() ?? null,
    anchors: anchors ?? null,
    unanchored,
    unanchoredSeconds: cover === undefined ? null : Number(cover.seconds.toFixed(3)),
    warnings: warningsOf(run),
    expiryUnproven,
    head: hexOf(verdict.head.hash),
    root: hexOf(verdict.root),
    seconds: Number(seconds.toFixed(3)),
    entriesPerSecond: speedOf(run),
  };
};
