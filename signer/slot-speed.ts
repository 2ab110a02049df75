/** Measures how fast a key signs, in one session and in several at once. */
import { randomBytes } from 'node:crypto';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { defaultDigest, digestAlgorithms, type KeyScheme } from '../pki/algorithms.ts';
import { monotonicMs } from '../queue/redis-clock.ts';
import { type KeySession, openKeySession } from './key-session.ts';
import { hsmError } from './pkcs11-errors.ts';
import { awaitTurn, createPaceMemory } from './session-pace.ts';

export interface SpeedOptions {
  readonly modulePath: string;
  /** Slot handle, logged in. */
  readonly slot: Uint8Array;
  readonly key: { readonly label: string; readonly scheme: KeyScheme };
  /** The most to open. */
  readonly sessions: number;
  readonly sessionsPerSecond: number;
  /** Of each measurement. @defaultValue one second */
  readonly forMs?: number;
}

export interface Speed {
  readonly sessions: number;
  readonly perSecond: number;
  /** The slowest signature. */
  readonly slowestMs: number;
}

const measure = async (sessions: readonly KeySession[], hash: Buffer, forMs: number): Promise<Speed> => {
  let signatures = 0;
  let slowestMs = 0;
  const began = monotonicMs();
  const work = async (session: KeySession): Promise<void> => {
    for (let before = monotonicMs(); before - began < forMs; ) {
      await session.signLater(hash);
      const after = monotonicMs();
      signatures += 1;
      slowestMs = Math.max(slowestMs, after - before);
      before = after;
    }
  };
  await Promise.all(sessions.map(work));
  const seconds = (monotonicMs() - began) / 1_000;
  return { sessions: sessions.length, perSecond: Math.round((signatures / seconds) * 10) / 10, slowestMs: Math.round(slowestMs * 10) / 10 };
};

/** Signs random hashes for a second in one session, and for another in as many as are asked for. @throws HSM_* */
export const measureSpeed = async (options: SpeedOptions): Promise<{ readonly one: Speed; readonly several: Speed }> => {
  const { modulePath, slot, key, forMs = 1_000 } = options;
  const digest = defaultDigest(key.scheme);
  const hash = randomBytes(digestAlgorithms[digest].octets);
  const pace = createPaceMemory(Math.ceil(1_000 / options.sessionsPerSecond));
  const sessions: KeySession[] = [];
  const open = (): void => {
    awaitTurn(pace, monotonicMs());
    sessions.push(openKeySession({ modulePath, slot, keyLabel: key.label, purpose: 'timestamp', scheme: key.scheme, digest }));
  };
  try {
    open();
    const one = await measure(sessions, hash, forMs);
    while (sessions.length < options.sessions) {
      open();
      await nextTurn();
    }
    return { one, several: await measure(sessions, hash, forMs) };
  } catch (error) {
    throw hsmError(error, `sign with the key "${key.label}" in ${Math.max(1, sessions.length)} sessions`);
  } finally {
    for (const session of sessions) session.close();
  }
};
