/** A start must not fail for one slot of several: its signer takes it up when the token works again. */
import { SigilloError } from '../config/errors.ts';
import type { HsmSlot } from '../signer/pkcs11-module.ts';

/** What is wrong with a token, and not with the configuration. */
const isOfToken = (error: unknown): error is SigilloError =>
  error instanceof SigilloError && ['HSM_DEVICE', 'HSM_TOKEN_MISSING', 'HSM_PIN_REFUSED', 'HSM_SELFTEST_FAILED'].includes(error.code);

/**
 * Runs a step on each slot. One that fails is told, and passed over.
 * @returns what came out of it on the slots where it did
 * @throws what the first one has failed with, when all have, and at once what is no failure of a token
 */
export const onSlots = <T>(slots: readonly HsmSlot[], step: (slot: HsmSlot) => T, report: (line: string) => void): T[] => {
  const results: T[] = [];
  const failures: SigilloError[] = [];
  for (const slot of slots) {
    try {
      results.push(step(slot));
    } catch (error) {
      if (!isOfToken(error)) throw error;
      failures.push(error);
    }
  }
  if (results.length === 0 && failures[0] !== undefined) throw failures[0];
  for (const failure of failures) report(`      passed over: ${failure.code}: ${failure.message}`);
  return results;
};
