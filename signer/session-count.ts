/** How many sessions a slot may have for stamping. */
import { availableParallelism } from 'node:os';
import type { Config } from '../config/schema.ts';
import type { HsmSlot } from './pkcs11-module.ts';

/** Sessions of a slot whose configuration names none: about 30 operations in flight is what network HSMs make the most of. */
const defaultSessions = 32;

/** Threads that stamp. */
export const stampingThreads = ({ signer }: Config): number => signer.workers ?? availableParallelism();

/**
 * One TSU has a session in each thread, and around a change of keys there are two; one is the login's.
 * @param limit what the token allows; undefined: it sets none
 */
export const stampingSessions = (config: Config, { sessions }: Pick<HsmSlot, 'sessions'>, limit: number | undefined): number => {
  const wanted = sessions ?? (config.hsm.mode === 'embedded' ? stampingThreads(config) : defaultSessions);
  return limit === undefined ? wanted : Math.max(1, Math.min(wanted, Math.floor((limit - 1) / 2)));
};
