/** Watches whether the token does its work: when it has failed for too long, only a new process helps. */
import { SigilloError } from '../config/errors.ts';
import type { Logger } from '../observability/log.ts';
import { monotonicMs } from '../queue/redis-clock.ts';
import type { StampTaskResult } from './stamp-task.ts';

/**
 * How long every stamp may fail in the token before the signer gives up. A module that lost its token does not find it
 * again without C_Finalize (SoftHSM 2.6.1), which would pull it from under all threads: the supervisor starts a new process,
 * and that one does not serve before its key has proved itself.
 */
const tokenPatienceMs = 2_000;
const sayAgainMs = 10_000;

/** Counts what the stamps tell of the token. */
export class TokenWatch {
  readonly failed: Promise<Error>;
  #timer: NodeJS.Timeout | undefined;
  #giveUp: (error: Error) => void = () => undefined;
  readonly #log: Logger;
  #said: string | undefined;
  #saidAtMs = 0;

  constructor(log: Logger) {
    this.#log = log;
    this.failed = new Promise((resolve) => {
      this.#giveUp = resolve;
    });
  }

  get failing(): boolean {
    return this.#timer !== undefined;
  }

  note({ outcomes, failure }: StampTaskResult): void {
    if (failure !== undefined) this.#say(failure);
    if (outcomes.granted > 0) {
      if (this.failing) this.#log.info('stamps are signed again');
      this.close();
    } else if (failure?.code.startsWith('HSM_') === true) {
      this.#timer ??= setTimeout(() => this.#giveUp(new SigilloError('HSM_DEVICE', failure.message)), tokenPatienceMs);
    }
  }

  /** A token that is away fails hundreds of batches a second: one line says as much as all of them. */
  #say(failure: NonNullable<StampTaskResult['failure']>): void {
    const now = monotonicMs();
    if (failure.code === this.#said && now - this.#saidAtMs < sayAgainMs) return;
    this.#said = failure.code;
    this.#saidAtMs = now;
    this.#log.error(failure, 'stamps fail in the signer; their clients get systemFailure');
  }

  close(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }
}
