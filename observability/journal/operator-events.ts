/**
 * Who became an operator of dual control, or ceased to be one: compared with who was one when this host's configuration was looked at
 * last. Operators live in the configuration, so a change shows at the next start of the process that asks for their approvals.
 *
 * Each host has a list of its own: two whose configurations differ would otherwise tell the difference at each start of either. When
 * Redis was emptied, everybody is told anew.
 */
import { journalKeys } from '../../queue/keys.ts';
import type { RedisClient } from '../../queue/redis.ts';
import { type JournalRecorder, nodeName } from './recorder.ts';

/** What an operator of dual control may do. */
const permissions = 'approve';

/** @throws what Redis says: what was not told is told at the next start */
export const recordOperators = async (
  recorder: Pick<JournalRecorder, 'recordNow'>,
  redis: RedisClient,
  /** Name to the SHA-256 of the key's SubjectPublicKeyInfo, in hex. */
  operators: ReadonlyMap<string, string>,
): Promise<void> => {
  const list = journalKeys.operators(nodeName());
  const known = await redis.hgetall(list);
  const names = [...new Set([...Object.keys(known), ...operators.keys()])].toSorted();
  for (const name of names) {
    const [before, now] = [known[name], operators.get(name)];
    if (before === now) continue;
    const common = { subject: name, outcome: 'success' } as const;
    // First the events: told twice does no harm, not told would.
    if (before !== undefined)
      await recorder.recordNow({ ...common, kind: 'operator.removed', detail: { name, spkiSha256: Buffer.from(before, 'hex') } });
    if (now !== undefined)
      await recorder.recordNow({ ...common, kind: 'operator.added', detail: { name, permissions, spkiSha256: Buffer.from(now, 'hex') } });
    if (now === undefined) await redis.hdel(list, name);
    else await redis.hset(list, name, now);
  }
};
