/**
 * Makes the checkpoints of the journal: the root of what is durable, signed by a signer with the journal's key, timestamped by our own
 * TSA, put into the journal as an event, and published.
 *
 * A checkpoint that cannot be signed is made later, over more entries; one that cannot be stamped is published without a stamp. Neither
 * holds up the writer.
 */
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import { writeFileAtomic } from '../../config/atomic-file.ts';
import { journalKeys } from '../../queue/keys.ts';
import type { RedisClient } from '../../queue/redis.ts';
import { monotonicMs } from '../../queue/redis-clock.ts';
import { type Checkpoint, checkpointText, signedCheckpoint } from './checkpoint.ts';
import type { EventDraft } from './events.ts';
import { draftOf, type TellClock } from './recorder.ts';
import type { JournalSnapshot } from './writer-options.ts';

/** A checkpoint as it is published: in Redis for the gateways, and in a file beside the store for who verifies. */
export interface PublishedCheckpoint {
  readonly size: number;
  /** Signed note (checkpoint.ts). */
  readonly note: string;
  /** TimeStampToken over the SHA-256 of the note's octets, without certificates, base64; null: none could be had. */
  readonly token: string | null;
}

export interface CheckpointerOptions {
  readonly redis: RedisClient;
  readonly origin: string;
  readonly seconds: number;
  readonly events: number;
  /** Where the newest checkpoint is kept as a file. */
  readonly file: string;
  readonly sign: (text: string, signal: AbortSignal) => Promise<{ readonly signature: Uint8Array; readonly spki: Uint8Array }>;
  /** A TimeStampToken over this SHA-256, without certificates. */
  readonly stamp: (digest: Uint8Array) => Promise<Uint8Array>;
  /** What is known about the clock of this host. @defaultValue nothing */
  readonly clock?: TellClock;
  readonly on: {
    made(outcome: 'made' | 'unstamped' | 'failed', error?: unknown): void;
    /** The file beside the store could not be written. */
    notKept(error: unknown): void;
  };
}

export interface CheckpointedWriter {
  readonly snapshot: JournalSnapshot | undefined;
  append(draft: EventDraft): Promise<unknown>;
}

const lookMs = 200;
/** After a failure the next attempt waits, so that a journal without signers does not ask for signatures all the time. */
const failedPauseMs = 2_000;
/** Who takes over a journal makes its first one then, when signers are there as well: writers that die again and again make theirs too. */
const firstMsMax = 3_000;

export class Checkpointer {
  readonly #options: CheckpointerOptions;
  #lastAtMs: number | undefined;
  #lastForeign = -1;
  #startedAtMs: number | undefined;
  /** The journal was there before this process wrote it. */
  #tookOver = false;

  constructor(options: CheckpointerOptions) {
    this.#options = options;
  }

  /** Seconds since the newest checkpoint that this process made, or since it began to write; undefined while it does not. */
  get ageSeconds(): number | undefined {
    const since = this.#lastAtMs ?? this.#startedAtMs;
    return since === undefined ? undefined : (monotonicMs() - since) / 1_000;
  }

  /** Makes checkpoints until the signal; it never fails. */
  async run(writer: CheckpointedWriter, signal: AbortSignal): Promise<void> {
    const startedAtMs = monotonicMs();
    this.#startedAtMs = startedAtMs;
    this.#tookOver = (writer.snapshot?.size ?? 0) > 0;
    while (!signal.aborted) {
      const snapshot = writer.snapshot;
      if (snapshot !== undefined && this.#isDue(snapshot, startedAtMs)) {
        const outcome = await this.#make(writer, snapshot, signal);
        if (outcome === 'failed') await delay(failedPauseMs, undefined, { signal }).catch(() => undefined); // its end by the abort
      }
      await delay(lookMs, undefined, { signal }).catch(() => undefined); // its end by the abort
    }
  }

  /** A journal at rest makes none: its last checkpoint and that one's own stamp are no reason for another. */
  #isDue({ foreign, size }: JournalSnapshot, startedAtMs: number): boolean {
    if (size === 0 || foreign === this.#lastForeign) return false;
    if (foreign - Math.max(0, this.#lastForeign) >= this.#options.events) return true;
    const everyMs = this.#options.seconds * 1_000;
    if (this.#lastAtMs === undefined && this.#tookOver) return monotonicMs() - startedAtMs >= Math.min(firstMsMax, everyMs);
    return monotonicMs() - (this.#lastAtMs ?? startedAtMs) >= everyMs;
  }

  async #make(writer: CheckpointedWriter, snapshot: JournalSnapshot, signal: AbortSignal): Promise<'made' | 'unstamped' | 'failed'> {
    const { origin, sign, on } = this.#options;
    const checkpoint: Checkpoint = { origin, size: snapshot.size, root: snapshot.root };
    try {
      const { signature, spki } = await sign(checkpointText(checkpoint), signal);
      const note = signedCheckpoint(checkpoint, spki, signature);
      const token = await this.#stamp(note, signal);
      await this.#keep(writer, { size: snapshot.size, note, token: token instanceof Error ? undefined : token });
      this.#lastAtMs = monotonicMs();
      this.#lastForeign = snapshot.foreign;
      const outcome = token instanceof Error ? 'unstamped' : 'made';
      on.made(outcome, token instanceof Error ? token : undefined);
      return outcome;
    } catch (error) {
      if (!signal.aborted) on.made('failed', error);
      return 'failed';
    }
  }

  async #stamp(note: string, signal: AbortSignal): Promise<Uint8Array | Error> {
    // At a stop the signers have gone before: nobody would answer.
    const over = new AbortController();
    const stopped = once(signal, 'abort', { signal: over.signal }).then(() => {
      throw new Error('the journal is stopping');
    });
    stopped.catch(() => undefined); // nobody waits for it when the stamp was there first
    try {
      return await Promise.race([this.#options.stamp(createHash('sha256').update(note).digest()), stopped]);
    } catch (error) {
      return error as Error;
    } finally {
      // One listener for each checkpoint, kept with its stamp, was 25 MB a day.
      over.abort();
    }
  }

  /** In the journal first: what is published is durable. */
  async #keep(writer: CheckpointedWriter, made: { size: number; note: string; token: Uint8Array | undefined }): Promise<void> {
    const { size, note, token } = made;
    const detail = { note, token };
    const event = { kind: 'journal.checkpoint', subject: String(size), outcome: 'success', detail } as const;
    await writer.append(draftOf(event, 'journal', this.#options.clock));
    const published: PublishedCheckpoint = { size, note, token: token === undefined ? null : Buffer.from(token).toString('base64') };
    const json = JSON.stringify(published);
    await this.#options.redis.set(journalKeys.checkpoint, json);
    try {
      writeFileAtomic(this.#options.file, json, { mode: 0o600 });
    } catch (error) {
      // The copy in Redis is published; making the checkpoint again and again would not make room on the disk.
      this.#options.on.notKept(error);
    }
  }
}
