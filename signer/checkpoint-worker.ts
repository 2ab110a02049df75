/** Worker thread of the journal's key: Piscina's entry around CheckpointKey. What it asks of the token holds up nobody but itself. */
import { workerData } from 'piscina';
import { SigilloError } from '../config/errors.ts';
import { monotonicMs } from '../queue/redis-clock.ts';
import { takeCallMark } from './call-watch.ts';
import { CheckpointKey } from './checkpoint-key.ts';
import type { CheckpointTask, CheckpointTaskResult, CheckpointThreadData, ToldError } from './checkpoint-thread.ts';
import { openHsm } from './hsm-modules.ts';

const { slot, refusedPinFolder, origin, shared, callMemory, askAgainMs } = workerData as CheckpointThreadData;
const call = takeCallMark(callMemory);
const hsm = openHsm({ slots: [slot], refusedPinFolder });
// A second C_Login would ask the token for what the main thread has got from it.
const module = shared === 'token' ? { ...hsm, login: () => undefined } : hsm;
let key: CheckpointKey | undefined;
let failed: ToldError | undefined;
let loginLost = false;

/** A code does not survive the way between threads, nor does a cause. */
const told = (error: unknown): ToldError =>
  error instanceof SigilloError
    ? { code: error.code, detail: error.message.slice(error.entry.meaning.length).trim() }
    : { code: 'INTERNAL', detail: String(error) };

const load = (): CheckpointKey =>
  new CheckpointKey({
    module,
    slot,
    origin,
    ...(askAgainMs === undefined ? {} : { askAgainMs }),
    onFailed: (error) => {
      failed = told(error);
    },
    onLoginLost: () => {
      loginLost = true;
    },
  });

const close = (): void => {
  key?.close();
  // With C_Finalize the module would be gone for the main thread too.
  if (shared === 'nothing') hsm.close();
};

const work = (task: CheckpointTask): Pick<CheckpointTaskResult, 'signed' | 'thrown'> => {
  try {
    if (task.kind === 'close') close();
    else key ??= load();
    return task.kind === 'sign' && key !== undefined ? { signed: key.sign(task.text) } : {};
  } catch (error) {
    return { thrown: told(error) };
  }
};

export default (task: CheckpointTask): CheckpointTaskResult => {
  failed = undefined;
  call.begin(monotonicMs());
  try {
    return { ...work(task), up: key?.up ?? false, signatures: key?.signatures ?? 0, failed, loginLost };
  } finally {
    call.end();
  }
};
