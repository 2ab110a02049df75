/** A token that takes back its leave to sign in the midst of stamping: the slot stops, and nobody logs in again. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { describe, test } from 'node:test';
import pkcs11 from 'pkcs11js';
import { oid } from '../../pki/der.ts';
import { monotonicMs } from '../../queue/redis-clock.ts';
import { encodeStampRequests } from '../../queue/stamp-messages.ts';
import { StampingPool } from '../../signer/stamping-pool.ts';
import { withoutFaultyModule } from '../support/faulty-module/build.ts';
import { faultyTsuWorld } from '../support/faulty-module/tsu-world.ts';
import { testPolicy } from '../support/software-tsu.ts';
import { messageImprint } from '../support/tsp-requests.ts';

const request = {
  id: 0,
  certReq: false,
  policy: oid(testPolicy),
  messageImprint: messageImprint('2.16.840.1.101.3.4.2.1', createHash('sha256').update('document').digest()),
  client: 'anonymous',
  nonce: undefined,
};
const batch = (): Buffer => Buffer.from(encodeStampRequests([request], () => 60_000));

describe('a PIN that a token declares expired at C_Sign', { skip: withoutFaultyModule }, () => {
  const hsm = faultyTsuWorld();
  for (const [name, sessionsMax] of [
    ['a thread that waits for its signature', 1],
    ['a thread with several at once', 8],
  ] as const) {
    test(`ends the slot, with one failure and no login: ${name}`, async () => {
      const { token } = hsm;
      const options = { data: hsm.data, threads: 1, sessionsMax, inline: false, callMsMax: 60_000, keepAliveMs: 60_000 };
      const pool = await StampingPool.start(options);
      const stamp = () => pool.stamp(batch(), monotonicMs());
      try {
        assert.equal((await stamp()).outcomes.granted, 1);
        const { loginCalls, signatures } = token.counters;
        const rule = token.fail('C_Sign', pkcs11.CKR_PIN_EXPIRED, { times: 1 });
        await assert.rejects(stamp(), { code: 'HSM_PIN_REFUSED', message: /CKR_PIN_EXPIRED/ });
        assert.equal(rule.struck, 1);
        assert.equal((await pool.failed).code, 'HSM_PIN_REFUSED');
        // It would sign again, but this process does not ask it.
        await assert.rejects(stamp(), { code: 'HSM_PIN_REFUSED' });
        assert.deepEqual([token.counters.loginCalls, token.counters.signatures], [loginCalls, signatures]);
      } finally {
        await pool.close();
      }
    });
  }
});
