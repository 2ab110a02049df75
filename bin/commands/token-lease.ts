/** A command that changes what is in a token keeps the calendar, and other commands, out of it meanwhile. */
import { SigilloError } from '../../config/errors.ts';
import { Lease } from '../../queue/lease.ts';
import type { RedisClient } from '../../queue/redis.ts';
import { tokenName, tsuRegisterKeys } from '../../queue/tsu-register.ts';
import { awaitThat } from './tsu.ts';

const leaseMs = 120_000;

/** Takes the lease of a token, when whoever has it is done; the caller releases it. @throws TSU_STATE when that does not happen */
export const holdToken = async (redis: RedisClient, label: string, serial: string): Promise<Lease> => {
  const lease = new Lease(redis, { key: tsuRegisterKeys.lease(tokenName(label, serial)), lengthMs: leaseMs });
  const got = await awaitThat(leaseMs / 1_000, async () => ((await lease.acquire()) ? true : undefined));
  if (got === undefined) throw new SigilloError('TSU_STATE', 'Another process works on this token all the time.');
  return lease;
};
