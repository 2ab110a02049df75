/** How many sessions a slot may have for stamping. */
import { availableParallelism } from 'node:os';
import type { Config } from '../config/schema.ts';
import { type HsmSlot, resolveHsm } from './pkcs11-module.ts';

/** Sessions of a slot whose configuration names none: about 30 operations in flight is what network HSMs make the most of. */
const defaultSessions = 32;

/**
 * Threads that stamp with one slot. The signers of all slots share the cores: with two SoftHSM tokens on two cores and a thread for each
 * core in both signers, stamps were 4 % slower than with one token, with one thread in each as fast.
 */
export const stampingThreads = (config: Config): number => {
  const signers = resolveHsm(config).slots.filter(({ purposes }) => purposes.includes('timestamp')).length;
  return config.signer.workers ?? Math.ceil(availableParallelism() / Math.max(1, signers));
};

/**
 * Signatures that a slot may have in its token at once; each takes a session.
 *
 * A limit of the token is one of sessions. The login has one, the journal's key two when it is in this token. What is left is for two
 * TSUs, because around a change of keys there are two; and each of them has a session in every thread besides those of the signatures
 * that no thread waits for, which the threads share out evenly.
 * @param limit sessions that the token allows; undefined: it sets none
 */
export const stampingSessions = (
  config: Config,
  { sessions, purposes }: Pick<HsmSlot, 'sessions' | 'purposes'>,
  limit: number | undefined,
): number => {
  const threads = stampingThreads(config);
  const wanted = sessions ?? (config.hsm.mode === 'embedded' ? threads : defaultSessions);
  if (limit === undefined) return wanted;
  const others = purposes.includes('journal') ? 3 : 1;
  const each = Math.floor((limit - others) / 2);
  const unattended = Math.floor((each - threads) / threads) * threads;
  return unattended > threads ? Math.min(wanted, unattended) : Math.max(1, Math.min(wanted, threads, each));
};
