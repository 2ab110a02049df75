/** Worker thread of the signer: Piscina's entry around the stampers. Loading it opens a session and proves the keys. */
import { move, transferableSymbol, valueSymbol, workerData } from 'piscina';
import { ConcurrentStamper } from './concurrent-stamper.ts';
import type { LookResult, StampTask, StampTaskResult, StampWorkerData } from './stamp-task.ts';
import { Stamper } from './stamper.ts';

const data = workerData as StampWorkerData;
const stamper = new Stamper(data);
/** Made when the token turns out to be slow. */
let concurrent: ConcurrentStamper | undefined;

const moved = (result: StampTaskResult): unknown =>
  result.kind !== 'stamped' ? result : move({ [transferableSymbol]: [result.block.buffer], [valueSymbol]: result } as never);

const lookAll = async (): Promise<LookResult> => {
  const found = stamper.look();
  return found?.kind === 'slotFailed' ? found : ((await concurrent?.look()) ?? found);
};

/** Stamps a batch; without one it looks after its sessions, which is also how the main thread waits until all threads have proved their keys. */
export default (task: StampTask | undefined): unknown => {
  if (task === undefined) return lookAll();
  if (task.atOnce <= 1) return moved(stamper.stamp(task));
  concurrent ??= new ConcurrentStamper(data, stamper);
  return concurrent.stamp(task).then(moved);
};
