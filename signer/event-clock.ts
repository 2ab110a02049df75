/**
 * What the events of a signer say of its clock, and what it tells the other processes of its host (queue/host-clock.ts).
 *
 * A signer has events before it has its own watch over the clock: of a slot that does not open. Until then another signer of the host
 * may vouch. Best effort: while Redis is away nothing is told, and what was told is forgotten.
 */
import { nodeName } from '../observability/journal/recorder.ts';
import { HostClock, type HostClockState, tellClockEveryMs, tellHostClock } from '../queue/host-clock.ts';
import type { RedisClient } from '../queue/redis.ts';
import type { ClockWatch } from './clock-watch.ts';

export interface EventClock {
  /** For events that happen now. */
  state(): HostClockState;
  /** From now on this watch says it, here and to the host. */
  follow(watch: Pick<ClockWatch, 'told'>): void;
  close(): void;
}

/** @param redis of the signer; @param node name of this host */
export const createEventClock = (redis: RedisClient, node: string = nodeName()): EventClock => {
  const others = new HostClock({ redis, node });
  let own: Pick<ClockWatch, 'told'> | undefined;
  let timer: NodeJS.Timeout | undefined;
  const tell = (): void => {
    if (own === undefined || redis.status !== 'ready') return;
    tellHostClock(redis, node, own.told()).catch(() => undefined); // best effort: told again in a second
  };
  return {
    state: () => own?.told().state ?? others.state(),
    follow(watch) {
      own = watch;
      others.close();
      clearInterval(timer);
      timer = setInterval(tell, tellClockEveryMs);
      timer.unref();
      tell();
    },
    close() {
      others.close();
      clearInterval(timer);
    },
  };
};
