import assert from 'node:assert/strict';
import { generateKeyPairSync, hash } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { Redis } from 'ioredis';
import { parseConfig } from '../../../config/load.ts';
import { decodeDrafts } from '../../../observability/journal/draft-block.ts';
import { recordOperators } from '../../../observability/journal/operator-events.ts';
import { JournalRecorder, nodeName } from '../../../observability/journal/recorder.ts';
import { journalKeys } from '../../../queue/keys.ts';
import { operatorFingerprints, readOperators } from '../../../signer/dual-control.ts';
import { redisServerMissing, startTestRedis, type TestRedis } from '../../support/redis-server.ts';
import { temporaryFolder } from '../../support/token-home.ts';

describe('operators of the configuration', { skip: redisServerMissing() }, () => {
  const folder = temporaryFolder();
  let server: TestRedis;
  let redis: Redis;
  before(async () => {
    server = await startTestRedis();
    redis = server.connect();
  });
  after(async () => {
    await server.close();
    folder.remove();
  });

  /** Gives the operator a new key. @returns its fingerprint */
  const newKey = (name: string): string => {
    const { publicKey } = generateKeyPairSync('ed25519');
    writeFileSync(join(folder.path, `${name}.pub`), publicKey.export({ format: 'pem', type: 'spki' }));
    return hash('sha256', publicKey.export({ format: 'der', type: 'spki' }), 'hex');
  };
  /** A start with these operators. @returns what the journal is told */
  const start = async (...names: string[]): Promise<unknown[]> => {
    const operators = names.map((name) => ({ name, publicKeyFile: join(folder.path, `${name}.pub`) }));
    const config = parseConfig(names.length === 0 ? {} : { dualControl: { approvals: 1, operators } });
    const recorder = new JournalRecorder({ redis, actor: 'lifecycle' });
    await recordOperators(recorder, redis, operatorFingerprints(readOperators(config)));
    const entries = (await redis.xrangeBuffer(journalKeys.events, '-', '+')) as [Buffer, Buffer[]][];
    await redis.del(journalKeys.events);
    return entries
      .flatMap(([, fields]) => decodeDrafts(fields[1] as Buffer))
      .map((event) => {
        assert.ok(event.kind === 'operator.added' || event.kind === 'operator.removed');
        assert.deepEqual([event.role, event.actor, event.detail.name], ['system', 'lifecycle', event.subject]);
        if (event.kind === 'operator.added') assert.equal(event.detail.permissions, 'approve');
        return [event.kind, event.subject, Buffer.from(event.detail.spkiSha256 ?? []).toString('hex')];
      });
  };

  test('each difference to the start before is told, once', async () => {
    const [anna, bruno, carla] = ['anna', 'bruno', 'carla'].map(newKey);
    assert.deepEqual(await start(), [], 'without dual control there is nobody');
    assert.deepEqual(await start('bruno', 'anna'), [
      ['operator.added', 'anna', anna],
      ['operator.added', 'bruno', bruno],
    ]);
    assert.deepEqual(await start('anna', 'bruno'), []);
    assert.deepEqual(await start('anna', 'carla'), [
      ['operator.removed', 'bruno', bruno],
      ['operator.added', 'carla', carla],
    ]);
    const another = newKey('anna');
    assert.deepEqual(await start('anna', 'carla'), [
      ['operator.removed', 'anna', anna],
      ['operator.added', 'anna', another],
    ]);
    assert.deepEqual(await redis.hgetall(journalKeys.operators(nodeName())), { anna: another, carla });
    assert.deepEqual(await start(), [
      ['operator.removed', 'anna', another],
      ['operator.removed', 'carla', carla],
    ]);
    assert.deepEqual(await start(), []);
  });

  test('what the journal did not take is told by the next start', async () => {
    newKey('dora');
    const failing = { recordNow: () => Promise.reject(new Error('OOM')) };
    const operators = operatorFingerprints(
      readOperators(
        parseConfig({ dualControl: { approvals: 1, operators: [{ name: 'dora', publicKeyFile: join(folder.path, 'dora.pub') }] } }),
      ),
    );
    await assert.rejects(recordOperators(failing, redis, operators), /OOM/);
    assert.equal((await start('dora')).length, 1);
  });
});
