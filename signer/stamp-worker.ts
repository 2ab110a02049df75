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

/** While the plain stamper looks after its session beside stamps of the other one. */
let looking: Promise<LookResult> | undefined;

const lookLater = async (): Promise<LookResult> => {
  looking ??= stamper.lookLater();
  try {
    return await looking;
  } finally {
    looking = undefined;
  }
};

const lookAll = async (): Promise<LookResult> => {
  // Where stamps wait for nothing, a look must not hold up the thread.
  const found = concurrent === undefined ? stamper.look() : await lookLater();
  return found?.kind === 'slotFailed' ? found : ((await concurrent?.look()) ?? found);
};

const plain = {
  stamp: (task: StampTask): StampTaskResult | Promise<StampTaskResult> =>
    looking === undefined ? stamper.stamp(task) : looking.then(() => stamper.stamp(task)),
};

/** Stamps a batch; without one it looks after its sessions, which is also how the main thread waits until all threads have proved their keys. */
export default async (task: StampTask | undefined): Promise<unknown> => {
  if (task === undefined) return lookAll();
  if (task.atOnce <= 1) return moved(await plain.stamp(task));
  concurrent ??= new ConcurrentStamper(data, plain);
  return moved(await concurrent.stamp(task));
};
