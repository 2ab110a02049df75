/** Waiting for a condition instead of for a time. */
import assert from 'node:assert/strict';
import { setTimeout as delay } from 'node:timers/promises';

const pollMs = 5;

/** Resolves with the milliseconds it took until `condition` held. @throws when it does not within `timeoutMs` */
export const until = async (what: string, condition: () => boolean | Promise<boolean>, timeoutMs = 5_000): Promise<number> => {
  const started = performance.now();
  while (!(await condition())) {
    assert.ok(performance.now() - started < timeoutMs, `not within ${timeoutMs} ms: ${what}`);
    await delay(pollMs);
  }
  return performance.now() - started;
};
