/** Tells a token that fails from a request that it will not do: the one takes the whole batch elsewhere, the other refuses one request. */
import { SigilloError } from '../config/errors.ts';
import { ckrCode, ckrName, classifyPkcs11Error } from './pkcs11-errors.ts';
import type { SlotFailure } from './stamp-task.ts';

/** A slot that has failed, as operators are told; it keeps the class that its thread has found. */
export class SlotError extends SigilloError {
  readonly errorClass: SlotFailure['errorClass'];

  constructor({ errorClass, message }: SlotFailure) {
    super(errorClass === 'credential' ? 'HSM_PIN_REFUSED' : 'HSM_DEVICE', message);
    this.errorClass = errorClass;
  }
}

/** Thrown through a batch when the token fails. */
export class SlotFailed extends Error {}

/** Whether an error is the token's: whoever asks it next meets the same. */
const isOfSlot = (error: unknown): boolean => {
  // A key that was there at the start and cannot be found on a new session has gone with its token.
  if (error instanceof SigilloError) return error.code === 'HSM_KEY_MISSING' || error.code === 'HSM_SELFTEST_FAILED';
  return ckrCode(error) !== undefined && !['request', 'bug'].includes(classifyPkcs11Error(error));
};

/** What an error says, for operators. */
export const describeError = (error: unknown): string => {
  const code = ckrCode(error);
  return code === undefined ? (error as Error).message : ckrName(code);
};

/** The error to throw on: SlotFailed when it is the token's, else as it is. */
export const asSlotFailed = (error: unknown): unknown => (isOfSlot(error) ? new SlotFailed(describeError(error), { cause: error }) : error);

/** What went wrong in the token. @throws what was no failure of the token */
export const slotFailureOf = (error: unknown): SlotFailure => {
  if (!(error instanceof SlotFailed)) throw error;
  const errorClass = classifyPkcs11Error(error);
  return {
    kind: 'slotFailed',
    errorClass: errorClass === 'session' || errorClass === 'credential' ? errorClass : 'device',
    message: error.message,
  };
};
