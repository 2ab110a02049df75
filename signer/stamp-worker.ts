/** Worker thread of the signer: Piscina's entry around the stamper. Loading it opens the session and proves the key. */
import { move, transferableSymbol, valueSymbol, workerData } from 'piscina';
import type { StampTask, StampWorkerData } from './stamp-task.ts';
import { Stamper } from './stamper.ts';

const stamper = new Stamper(workerData as StampWorkerData);

/** Stamps a batch; `undefined` is the warm-up by which the main thread waits until this thread has proved its key. */
export default (task: StampTask | undefined): unknown => {
  if (task === undefined) return undefined;
  const result = stamper.stamp(task);
  return move({ [transferableSymbol]: [result.block.buffer], [valueSymbol]: result } as never);
};
