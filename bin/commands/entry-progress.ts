/** How far a long pass over the journal is: a bar at a terminal, a line every few seconds otherwise. */

export interface EntryProgress {
  update(count: number, total: number): void;
  /** Gives the terminal back; may be called more than once. */
  close(): void;
}

const lineEveryMs = 5_000;

const plainLines = (what: string): EntryProgress => {
  let saidAt = performance.now();
  return {
    update(count, total) {
      if (performance.now() - saidAt < lineEveryMs) return;
      saidAt = performance.now();
      process.stderr.write(`sigillo: ${what} ${count.toLocaleString('en')} of ${total.toLocaleString('en')} entries\n`);
    },
    close: () => undefined,
  };
};

/** @param what is being done, such as `verified` */
export const createEntryProgress = async (what: string): Promise<EntryProgress> => {
  if (!process.stderr.isTTY) return plainLines(what);
  const { SingleBar } = (await import('cli-progress')).default;
  const bar = new SingleBar({
    format: '{bar} {percentage}%  {value}/{total} entries  {eta_formatted} left',
    barCompleteChar: '█',
    barIncompleteChar: '░',
    hideCursor: true,
    clearOnComplete: true,
    // Pages of 10,000 entries come some ten times a second: an estimate over the last ten seconds.
    etaBuffer: 100,
    stream: process.stderr,
  });
  let isOpen = false;
  return {
    update(count, total) {
      if (!isOpen) bar.start(total, 0);
      isOpen = true;
      bar.setTotal(total);
      bar.update(count);
    },
    close() {
      if (isOpen) bar.stop();
      isOpen = false;
    },
  };
};
