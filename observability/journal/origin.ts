/** Where an event came from: kept beside each entry, so that whoever takes over knows what is in the journal already. */

/** Entry `millis`-`number` of a stream in Redis, and the event's place in it. */
export interface Origin {
  readonly source: string;
  readonly millis: number;
  readonly number: number;
  readonly index: number;
}

/** In the place of an event: stands for all of its entry that did not fit, which is in quarantine. */
export const unfitIndex = 0xffff_ffff;

/** For what the writer makes itself: nothing in Redis stands behind it. */
export const noOrigin: Origin = { source: '', millis: 0, number: 0, index: 0 };

/** The id of the last entry that was taken from each source, such as a stream in Redis. */
export type SourcePositions = Readonly<Record<string, string>>;
