/**
 * Says when the spool runs out of room, before it does: past four fifths of its bound, or when the disk below it has less left than the
 * last fifth would take. Neither stops anything; a spool that is full has new work refused.
 */
import { statfs } from 'node:fs/promises';
import type { Logger } from '../log.ts';
import type { Spool } from './spool.ts';

const lookMs = 5_000;
/** With the default bound the last fifth is a quarter of an hour at 13,000 stamps a second. */
const filledPart = 0.8;
/** Back below it the warning is over, so that a spool at the edge does not fill the log. */
const relievedPart = 0.75;

const megabytes = (octets: number): string => `${Math.floor(octets / 1_000_000)} MB`;

/** What is said of so much in the spool, and so much free on its disk; undefined when there is room. @param wasSaid it was said before */
export const spoolWarning = (
  { octets, octetsMax, free }: { readonly octets: number; readonly octetsMax: number; readonly free: number | undefined },
  wasSaid = false,
): string | undefined => {
  const filled = wasSaid ? relievedPart : filledPart;
  if (octets > filled * octetsMax) return `${megabytes(octets)} of ${megabytes(octetsMax)} (journal.spool.megabytesMax) are full`;
  if (free !== undefined && free < (1 - filled) * octetsMax) return `its disk has ${megabytes(free)} left`;
  return undefined;
};

export interface SpoolWatchOptions {
  readonly log: Pick<Logger, 'warn' | 'info'>;
  /** undefined: this process has none open. */
  readonly spool: () => Pick<Spool, 'folder' | 'octets' | 'octetsMax'> | undefined;
  /** For tests. @defaultValue what the file system says; @throws when it says nothing */
  readonly freeOctets?: (folder: string) => Promise<number>;
}

const freeOctetsOf = async (folder: string): Promise<number> => {
  const { bavail, bsize } = await statfs(folder);
  return bavail * bsize;
};

/** Looks every few seconds while the process lives. */
export class SpoolWatch {
  readonly #options: SpoolWatchOptions;
  readonly #timer: NodeJS.Timeout;
  #free: number | undefined;
  #warning: string | undefined;

  constructor(options: SpoolWatchOptions) {
    this.#options = options;
    this.#timer = setInterval(() => void this.look(), lookMs);
    this.#timer.unref();
  }

  /** What people must know now; undefined when there is room. */
  get warning(): string | undefined {
    return this.#warning;
  }

  /** Free on the disk of the spool, in octets; undefined while it is not known. */
  get free(): number | undefined {
    return this.#free;
  }

  /** Looks now; it is done every few seconds anyway. It never fails. */
  async look(): Promise<void> {
    const { log, spool: open, freeOctets = freeOctetsOf } = this.#options;
    const spool = open();
    if (spool === undefined) return;
    const { folder, octets, octetsMax } = spool;
    this.#free = await freeOctets(folder).catch(() => undefined); // not every file system tells; the bound holds anyway
    const before = this.#warning;
    this.#warning = spoolWarning({ octets, octetsMax, free: this.#free }, before !== undefined);
    if (this.#warning !== undefined && before === undefined)
      log.warn({ folder, octets, octetsMax, free: this.#free }, `journal: the spool runs out of room: ${this.#warning}`);
    if (this.#warning === undefined && before !== undefined) log.info({ folder, octets }, 'journal: the spool has room again');
  }

  close(): void {
    clearInterval(this.#timer);
  }
}
