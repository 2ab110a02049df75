import assert from 'node:assert/strict';
import { test } from 'node:test';
import { adviceOn } from '../../bin/commands/hsm-selftest.ts';

const advice = (one: number, several: number, { sessions = 32, slowestMs = 2, callMsMax = 1_500 } = {}): string =>
  adviceOn({ one: { sessions: 1, perSecond: one, slowestMs }, several: { sessions, perSecond: several, slowestMs }, callMsMax }).join('\n');

test('what the speed of a slot says of the settings', () => {
  assert.match(advice(2_000, 2_100), /More sessions bring nothing/);
  assert.match(advice(500, 4_000), /about 8 of 32: hsm\.slots\[\]\.sessions is enough/);
  assert.match(advice(500, 15_000), /try hsm\.slots\[\]\.sessions 64/);
  assert.match(advice(500, 510, { sessions: 1 }), /allows one session/);
  assert.doesNotMatch(advice(500, 4_000), /callMsMax/);
  assert.match(advice(500, 4_000, { slowestMs: 800 }), /set signer\.callMsMax to 2400 or more \(now 1500\)/);
});
