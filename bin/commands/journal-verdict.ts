/** What `sigillo journal verify` says: for people, and as JSON. */
import type { BundleValid } from '../../observability/journal/verify-bundle.ts';
import type { JournalFault } from '../../observability/journal/verify-places.ts';
import type { JournalValid, JournalVerdict } from '../../observability/journal/verify-run.ts';
import { printable } from './printable.ts';

export interface VerifyRun {
  readonly verdict: JournalVerdict;
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

const describeValid = (verdict: JournalValid, run: VerifyRun): string => {
  const { from, to, entries, expired, root, unanchored, expiryUnproven } = verdict;
  const range = to === from ? 'none' : `${from} to ${to - 1}`;
  const rows: [string, string][] = [
    ['entries', `${range} (${number(entries)} read, ${number(expired)} expired)`],
    ['covered', unanchored === 0 ? 'all by signed checkpoints' : `all but the last ${number(unanchored)}, which no checkpoint covers yet`],
    ['timestamps', timestampsText(verdict, run.trusted)],
    ...(run.anchors === undefined ? [] : [['elsewhere', anchorsText(run.anchors)] as [string, string]]),
    ...(expiryUnproven.length === 0 ? [] : [['expiry', `not proven by what was read: ${expiryUnproven.join(', ')}`] as [string, string]]),
    ['root', hexOf(root)],
    ['speed', `${number(speedOf(run))} entries/s, ${run.seconds.toFixed(1)} s`],
  ];
  return `journal: valid\n${rows.map(([name, text]) => `  ${name.padEnd(10)}  ${printable(text)}\n`).join('')}`;
};

/** Lines for people. */
export const describeVerdict = (run: VerifyRun): string => {
  const { verdict } = run;
  if (verdict.kind === 'valid') return describeValid(verdict, run);
  return `journal: NOT VALID: ${verdict.fault} ${placeOf(verdict)}: ${printable(verdict.why)}\n`;
};

/** As JSON: hashes in hexadecimal. */
export const verdictJson = (run: VerifyRun): Record<string, unknown> => {
  const { verdict, anchors, trusted, seconds } = run;
  if (verdict.kind === 'fault') return { ...verdict };
  const { kind, from, to, entries, expired, checkpoints, unanchored, expiryUnproven } = verdict;
  const timestamped = isBundle(verdict) ? Number(verdict.checkpointTime !== undefined) : verdict.timestamped;
  const lastTimestamp = isBundle(verdict) ? verdict.checkpointTime : verdict.lastTimestamp;
  return {
    kind,
    from,
    to,
    entries,
    expired,
    checkpoints,
    timestamped: trusted ? timestamped : null,
    lastTimestamp: lastTimestamp?.toISOString() ?? null,
    anchors: anchors ?? null,
    unanchored,
    expiryUnproven,
    head: hexOf(verdict.head.hash),
    root: hexOf(verdict.root),
    seconds: Number(seconds.toFixed(3)),
    entriesPerSecond: speedOf(run),
  };
};
