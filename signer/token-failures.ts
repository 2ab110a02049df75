/**
 * Tells when the tokens of a process have failed for so long that their module must be loaded anew, which takes a new process: each
 * token is counted by itself, so that one that works does not hide one that does not.
 */
import { SigilloError } from '../config/errors.ts';
import { isLoginLost } from './token-login.ts';

/** A token that fails so many times in a row may need its module loaded anew. */
const failuresMax = 6;

/** Whether another process may fare better: a key that is not there, or a request that is refused, stays so. */
export const isTokenFailure = (error: unknown): error is SigilloError =>
  isLoginLost(error) || (error instanceof SigilloError && ['HSM_DEVICE', 'HSM_TOKEN_MISSING', 'HSM_SELFTEST_FAILED'].includes(error.code));

export class TokenFailures {
  readonly #inRow = new Map<string, number>();

  /** Whether no token fails for long. */
  get ok(): boolean {
    return [...this.#inRow.values()].every((count) => count < failuresMax);
  }

  /** It has done what was asked. */
  worked(token: string): void {
    this.#inRow.delete(token);
  }

  /**
   * It has failed.
   * @returns true when it is time for a new process: at once for a login that is lost, which a process gets only once
   */
  failed(token: string, error: unknown): boolean {
    if (!isTokenFailure(error)) return false;
    const count = (this.#inRow.get(token) ?? 0) + 1;
    this.#inRow.set(token, isLoginLost(error) ? failuresMax : count);
    return isLoginLost(error) || count >= failuresMax;
  }
}
