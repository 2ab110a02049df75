/** Says a fault once, and again only when it changes or stays: what fails twice a second must not fill the log. */
import type { Logger } from '../log.ts';

const sayAgainMs = 30_000;

export interface Complaints {
  say(error: unknown, what: string): void;
  /** All is well: the next fault is a new one. */
  over(): void;
}

export const createComplaints = (log: Logger): Complaints => {
  const saidAtMs = new Map<string, number>();
  return {
    say(error, what) {
      const text = `${what}: ${error instanceof Error ? error.message : String(error)}`;
      const now = performance.now();
      if (now - (saidAtMs.get(text) ?? Number.NEGATIVE_INFINITY) < sayAgainMs) return;
      for (const [old, atMs] of saidAtMs) if (now - atMs >= sayAgainMs) saidAtMs.delete(old);
      saidAtMs.set(text, now);
      log.error({ err: error }, what);
    },
    over: () => saidAtMs.clear(),
  };
};
