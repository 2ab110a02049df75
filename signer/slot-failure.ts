/**
 * Tells a token that fails from a request that it will not do: the one takes the whole batch elsewhere, the other refuses one request,
 * unless it is one of many.
 */
import { type ErrorCode, SigilloError } from '../config/errors.ts';
import { ckrCode, ckrName, classifyPkcs11Error } from './pkcs11-errors.ts';
import type { SlotFailure } from './stamp-task.ts';
import type { TokenRefusals } from './token-refusals.ts';

const codeByClass = {
  session: 'HSM_DEVICE',
  device: 'HSM_DEVICE',
  credential: 'HSM_PIN_REFUSED',
  request: 'HSM_REQUEST',
  bug: 'HSM_REQUEST',
} as const satisfies Record<SlotFailure['errorClass'], ErrorCode>;

/** A slot that has failed, as operators are told; it keeps the class that its thread has found. */
export class SlotError extends SigilloError {
  readonly errorClass: SlotFailure['errorClass'];

  constructor({ errorClass, message }: SlotFailure) {
    super(codeByClass[errorClass], message);
    this.errorClass = errorClass;
  }
}

/** Thrown through a batch when the token fails. */
export class SlotFailed extends Error {}

/** Whether an error is the token's: whoever asks it next meets the same. */
const isOfSlot = (error: unknown): boolean => {
  // A key that was there at the start and cannot be found on a new session has gone with its token.
  if (error instanceof SigilloError) return ['HSM_KEY_MISSING', 'HSM_KEY_MISMATCH', 'HSM_SELFTEST_FAILED'].includes(error.code);
  return ckrCode(error) !== undefined && !isRefusal(error);
};

/** Whether the token works and would not do what it was asked to. */
export const isRefusal = (error: unknown): boolean =>
  ckrCode(error) !== undefined && ['request', 'bug'].includes(classifyPkcs11Error(error));

/** What an error says, for operators. */
export const describeError = (error: unknown): string => {
  const code = ckrCode(error);
  return code === undefined ? (error as Error).message : ckrName(code);
};

/** For what stands before any stamp, such as opening the session of the only TSU: whatever it was, there is nothing to stamp with. */
export const slotFailed = (error: unknown): SlotFailed =>
  error instanceof SlotFailed ? error : new SlotFailed(describeError(error), { cause: error });

/**
 * The error to throw on for a signature that was not made: SlotFailed when it is the token's, else as it is. Nothing that a client
 * chooses has a part in it, so what returns no signature at all counts as a refusal too.
 */
export const asSlotFailed = (error: unknown, refusals: TokenRefusals): unknown => {
  if (isOfSlot(error)) return slotFailed(error);
  if (!refusals.refused()) return error;
  return new SlotFailed(`${describeError(error)}, again and again`, { cause: error });
};

/** What went wrong in the token. @throws what was no failure of the token */
export const slotFailureOf = (error: unknown): SlotFailure => {
  if (!(error instanceof SlotFailed)) throw error;
  // A key that is not there any more is no return value of the token's, but as bad.
  return { kind: 'slotFailed', errorClass: ckrCode(error) === undefined ? 'device' : classifyPkcs11Error(error), message: error.message };
};
