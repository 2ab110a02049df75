/**
 * Follows what the signers say that their tokens hold, so that what a gateway has in flight fits them: as they come and go, and while they
 * find out how much a token makes use of. Nothing waits for it: until the first look, and while Redis is away, the last sizes stay.
 */
import type { RedisClient } from '../queue/redis.ts';
import { believedState, readSlots, type ToldSlot, tellEveryMs } from '../queue/slot-status.ts';
import type { SlotCapacity } from './entry-sizes.ts';

export interface SlotCapacitiesOptions {
  readonly redis: RedisClient;
  /** Of the slots that stamp, at each look. */
  readonly use: (slots: readonly SlotCapacity[]) => void;
  /** @defaultValue as often as signers tell */
  readonly pollMs?: number;
}

/** What those that stamp now hold at once. */
export const slotCapacities = (told: readonly ToldSlot[]): SlotCapacity[] =>
  told
    .filter((slot) => slot.status.purpose === 'timestamp' && believedState(slot) === 'serving')
    .map(({ status: { sessions, threads, signMs } }) => ({ atOnce: sessions.open, threads, signMs }));

/** Starts to look. @returns what ends it */
export const followSlotCapacities = ({ redis, use, pollMs = tellEveryMs }: SlotCapacitiesOptions): { close(): void } => {
  let closed = false;
  let timer: NodeJS.Timeout | undefined;
  const look = async (): Promise<void> => {
    const told = await readSlots(redis).catch(() => undefined); // Redis is away, which its own health item says
    if (closed) return;
    if (told !== undefined) use(slotCapacities(told));
    timer = setTimeout(look, pollMs);
  };
  void look();
  return {
    close() {
      closed = true;
      clearTimeout(timer);
    },
  };
};
