/** POST /tsa with certReq: certificates that have to be read first, within the deadline of the request. */
import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { describe, test } from 'node:test';
import { createPublishedCertificates } from '../../gateway/published-certificates.ts';
import { readTimeStampResp } from '../../pki/tsp-read.ts';
import { refusalResponse } from '../../pki/tsp-refusal.ts';
import type { RedisClient } from '../../queue/redis.ts';
import { hex, tsaWorld } from '../support/tsa-world.ts';
import { makeRequest } from '../support/tsp-requests.ts';

const world = tsaWorld();
const { send, serve } = world;

/** A Redis that keeps its commands until it is told to answer. */
const silentRedis = () => {
  const published = Promise.withResolvers<Record<string, string>>();
  const client = { hgetall: () => published.promise, hgetallBuffer: async () => ({}) } as unknown as RedisClient;
  return { client, answer: published.resolve };
};

describe('POST /tsa: certificates of a TSU that is new to the gateway', () => {
  test('are not waited for beyond the deadline: 503 with systemFailure; they serve the next request', async () => {
    const redis = silentRedis();
    const root = new X509Certificate(world.tsu.chain[1] as Uint8Array);
    const certificates = createPublishedCertificates(redis.client, [root]);
    await serve({ timestamp: { deadlineMs: 100 }, certificates });
    const late = await send(makeRequest({ certReq: true }));
    assert.equal(late.status, 503);
    assert.equal(late.headers['retry-after'], '1');
    assert.equal(hex(late.body), hex(refusalResponse('systemFailure')));
    assert.deepEqual(await world.bench.outcomes(), { unavailable: 1 });
    assert.equal((await send(makeRequest())).status, 200, 'who asks for no certificates waits for none');
    redis.answer({ tsu: world.tsu.identity.certificate.toString() });
    const served = await send(makeRequest({ certReq: true }));
    assert.equal(served.status, 200);
    assert.equal(readTimeStampResp(served.body).status, 'granted');
  });
});
