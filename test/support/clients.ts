/** Changes of the register of clients, as an operator called `tester` makes them. */
import { clientChangeTeller } from '../../observability/journal/client-events.ts';
import { decodeDrafts } from '../../observability/journal/draft-block.ts';
import type { EventDraft } from '../../observability/journal/events.ts';
import * as register from '../../queue/client-register.ts';
import type { RedisClient } from '../../queue/redis.ts';

const tell = clientChangeTeller('tester');
const createdAt = new Date('2026-11-22T10:00:00.000Z');

export const addClient = (redis: RedisClient, name: string, role: register.ClientRole = 'client'): Promise<{ readonly secret: string }> =>
  register.addClient(redis, { name, role, now: createdAt }, tell);
export const setClientState = (redis: RedisClient, name: string, state: register.ClientRecord['state']): Promise<void> =>
  register.setClientState(redis, name, state, tell);
export const setClientRole = (redis: RedisClient, name: string, role: register.ClientRole): Promise<void> =>
  register.setClientRole(redis, name, role, tell);
export const renewClientSecret = (redis: RedisClient, name: string): Promise<{ readonly secret: string }> =>
  register.renewClientSecret(redis, name, tell);
export const removeClient = (redis: RedisClient, name: string): Promise<void> => register.removeClient(redis, name, tell);

/** Authorization header of HTTP Basic. */
export const basic = (name: string, secret: string): string => `Basic ${Buffer.from(`${name}:${secret}`).toString('base64')}`;

/** The events that wait in a stream for the journal. */
export const waitingEvents = async (redis: RedisClient, stream: string): Promise<EventDraft[]> => {
  const entries = await redis.xrangeBuffer(stream, '-', '+');
  return entries.flatMap(([, fields]) => decodeDrafts(fields[1] as Buffer));
};
