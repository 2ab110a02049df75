/**
 * The slot with the keys of the embedded timestamp CA, as the lifecycle process has it: looked at now and then, and told of in Redis.
 */
import type { JournalRecorder } from '../observability/journal/recorder.ts';
import type { Logger } from '../observability/log.ts';
import type { RedisClient } from '../queue/redis.ts';
import { monotonicMs } from '../queue/redis-clock.ts';
import type { OpenHsm } from './hsm-modules.ts';
import { hsmError } from './pkcs11-errors.ts';
import { type Hsm, slotForPurpose } from './pkcs11-module.ts';
import { SlotTeller } from './slot-status.ts';
import type { CertifyTsu } from './tsu-lifecycle.ts';

export interface EmbeddedAuthority {
  /** Made by this process. */
  readonly signatures: number;
  /** Looks whether the token shows the CA's key. @throws HSM_* */
  look(): void;
  readonly certify: CertifyTsu;
  /** Work of the CA's own, at every tick: its CRL. @returns the times of the one that is published; undefined while another process does it */
  readonly keep: (
    redis: RedisClient,
    recorder: JournalRecorder,
  ) => Promise<{ readonly thisUpdate: Date; readonly nextUpdate: Date } | undefined>;
}

/** How often it is looked whether the CA's token is there, which is asked for a signature a few times a day. */
const lookEveryMs = 30_000;

/** Opens the CA. @throws HSM_*, CERTIFICATE_INVALID, SETUP_INCOMPLETE */
export type OpenAuthority = (module: OpenHsm, hsm: Hsm) => Promise<EmbeddedAuthority>;

export interface AuthoritySlotOptions {
  readonly redis: RedisClient;
  readonly module: OpenHsm;
  readonly hsm: Hsm;
  readonly log: Logger;
  /** @defaultValue 30 s */
  readonly lookEveryMs?: number;
}

/** Tells how the slot with the CA's key is doing. */
class AuthoritySlot {
  readonly #authority: EmbeddedAuthority;
  readonly #teller: SlotTeller;
  readonly #lookEveryMs: number;
  #nextLookMs = Number.NEGATIVE_INFINITY;

  constructor(authority: EmbeddedAuthority, teller: SlotTeller, every: number) {
    this.#authority = authority;
    this.#teller = teller;
    this.#lookEveryMs = every;
  }

  get authority(): EmbeddedAuthority {
    return this.#authority;
  }

  /** Looks when it is time to. */
  look(): void {
    const now = monotonicMs();
    if (now < this.#nextLookMs) return;
    this.#nextLookMs = now + this.#lookEveryMs;
    try {
      this.#authority.look();
      // A session is opened for each signature.
      this.#teller.serving(() => ({
        sessions: { busy: 0, open: 0, max: 1 },
        threads: 1,
        tsus: [],
        signatures: this.#authority.signatures,
      }));
    } catch (error) {
      this.#teller.failed(hsmError(error, "the CA's key"));
    }
  }

  end(): Promise<void> {
    return this.#teller.end();
  }
}

/** Opens the authority, where there is one, and tells when that fails. @throws what `open` throws */
export const openAuthoritySlot = async (
  open: OpenAuthority | undefined,
  options: AuthoritySlotOptions,
): Promise<AuthoritySlot | undefined> => {
  if (open === undefined) return undefined;
  const { redis, module, hsm, log, lookEveryMs: every = lookEveryMs } = options;
  const slot = slotForPurpose(hsm, 'authority');
  const teller = await SlotTeller.start({ redis, slot, purpose: 'authority', process: 'lifecycle', log });
  try {
    const opened = new AuthoritySlot(await open(module, hsm), teller, every);
    opened.look();
    return opened;
  } catch (error) {
    await teller.end(error);
    throw error;
  }
};
