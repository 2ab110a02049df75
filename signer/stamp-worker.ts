/** Worker thread of the signer: Piscina's entry around the stamper. Loading it opens the session and proves the key. */
import { move, transferableSymbol, valueSymbol, workerData } from 'piscina';
import type { StampTask, StampWorkerData } from './stamp-task.ts';
import { createStamper } from './stamper.ts';

const stamp = createStamper(workerData as StampWorkerData);

/** Stamps a batch; `undefined` is the warm-up by which the main thread waits until this thread has proved its key. */
export default (task: StampTask | undefined): unknown => {
  if (task === undefined) return undefined;
  const result = stamp(task);
  const transferred = [result.replies.buffer, result.journal.buffer];
  return move({ [transferableSymbol]: transferred, [valueSymbol]: result } as never);
};
