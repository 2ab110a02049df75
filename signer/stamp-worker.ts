/** Worker thread of the signer: Piscina's entry around the stamper. Loading it opens the sessions and proves the keys. */
import { move, transferableSymbol, valueSymbol, workerData } from 'piscina';
import type { StampTask, StampWorkerData } from './stamp-task.ts';
import { Stamper } from './stamper.ts';

const stamper = new Stamper(workerData as StampWorkerData);

/** Stamps a batch; without one it looks after its sessions, which is also how the main thread waits until all threads have proved their keys. */
export default (task: StampTask | undefined): unknown => {
  if (task === undefined) return stamper.look();
  const result = stamper.stamp(task);
  if (result.kind === 'slotFailed') return result;
  return move({ [transferableSymbol]: [result.block.buffer], [valueSymbol]: result } as never);
};
