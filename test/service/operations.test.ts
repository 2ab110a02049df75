/** What the operations address says of the whole service. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, afterEach, describe, test } from 'node:test';
import { metricsInRules, rulesFile } from '../support/alert-rules.ts';
import { opensslMissing, postQuery } from '../support/openssl-ts.ts';
import { redisServerMissing } from '../support/redis-server.ts';
import { programMissing, runProgram, ServiceFolder, until } from '../support/service.ts';
import { serviceChecks } from '../support/service-checks.ts';
import { startLoad } from '../support/stamp-load.ts';
import { withoutSofthsm } from '../support/token-home.ts';

const skip = withoutSofthsm || redisServerMissing() || (await opensslMissing());
const skipPromtool = skip || (await programMissing('promtool', 'prometheus'));

/** One home for the tests of this file: its keys are made once. */
const folder = new ServiceFolder();
after(folder.remove);
// A test that fails must not take the next one with it.
afterEach(folder.killAll);

const { withService, assertStamps } = serviceChecks(folder);

describe('operations', { skip }, () => {
  let metricsText = '';
  test('/healthz, /readyz and /metrics, when all is well and when something is not', async (context) => {
    await withService({}, async (service) => {
      const get = async (path: string): Promise<{ status: number; type: string | null; text: string }> => {
        const response = await fetch(service.opsOrigin + path);
        return { status: response.status, type: response.headers.get('content-type'), text: await response.text() };
      };
      assert.equal((await get('/healthz')).status, 200);
      const ready = await service.readiness();
      assert.equal(ready?.status, 200);
      for (const name of ['redis', 'signer', 'gateway'])
        assert.ok(
          ready.dependencies.some((one) => one.name === name && one.ok),
          name,
        );
      assert.equal((await get('/nothing')).status, 404);
      assert.equal((await fetch(`${service.opsOrigin}/metrics`, { method: 'POST' })).status, 405);
      assert.equal((await fetch(`${service.origin}/metrics`)).status, 404, 'the public address tells nothing');

      for (const [name, dependency] of [
        ['redis', 'redis'],
        ['signer', 'signer'],
        ['gateway', 'gateway'],
      ] as const) {
        const pid = service.requirePid(name);
        process.kill(pid, 'SIGSTOP');
        try {
          const sick = await until(`not ready because of ${name}`, async () => {
            const answer = await service.readiness();
            return answer?.status === 503 && answer.dependencies.some((one) => one.name === dependency && !one.ok) ? answer : undefined;
          });
          context.diagnostic(
            `${name} stands still: ${sick.dependencies
              .filter(({ ok }) => !ok)
              .map((one) => `${one.name}: ${one.detail}`)
              .join('; ')}`,
          );
          assert.equal((await get('/healthz')).status, 200);
          const metrics = await get('/metrics');
          assert.equal(metrics.status, 200);
          assert.match(metrics.text, /^supervised_up\{process="gateway"\} 1$/m);
        } finally {
          process.kill(pid, 'SIGCONT');
        }
        await service.untilReady(10_000);
      }
      await assertStamps(service);
    });
  });

  test('/metrics has everything that docs/operations.md names', async () => {
    const settings = { timestamp: { inFlightMax: 20, imprintsMax: 20 } };
    await withService({ settings }, async (service) => {
      const overload = await startLoad({ port: service.port, connections: 200, requestsMax: 2_000 });
      const { counts } = await overload.done;
      await postQuery(service.origin, Buffer.from('no query'));
      await fetch(`${service.origin}/tsa`, { method: 'POST', headers: { 'content-type': 'text/plain' }, body: 'x' });
      const text = await service.metrics();
      const sample = (name: string): number => {
        const line = text.split('\n').find((one) => one.startsWith(`${name} `)) ?? assert.fail(`there is no ${name}\n${text}`);
        return Number(line.slice(name.length));
      };
      // Counts by outcome, refused for load among them.
      assert.equal(sample('tsp_requests_total{outcome="granted"}'), counts['granted']);
      assert.equal(sample('tsp_requests_total{outcome="overloaded"}'), counts['busy']);
      assert.equal(sample('tsp_requests_total{outcome="badDataFormat"}'), 1);
      assert.equal(sample('tsp_signer_answers_total{outcome="granted"}'), counts['granted']);
      // Latency per stage.
      for (const stage of ['gateway', 'queue', 'sign', 'reply']) {
        assert.ok(sample(`tsp_stage_seconds_count{stage="${stage}"}`) > 0, stage);
        assert.match(text, new RegExp(`^tsp_stage_seconds_bucket\\{.*stage="${stage}".*\\} \\d+$`, 'm'));
      }
      // In flight, batches, sessions, and what the token did.
      assert.equal(sample('tsp_in_flight'), 0);
      assert.ok(sample('lane_batch_requests_sum{lane="timestamp"}') >= (counts['granted'] ?? 0));
      assert.equal(sample('hsm_sessions{slot="sigillo-timestamp",state="busy"}'), 0);
      assert.ok(sample('hsm_sessions{slot="sigillo-timestamp",state="idle"}') >= 1);
      assert.equal(sample('hsm_signatures_total{slot="sigillo-timestamp"}'), counts['granted']);
      assert.ok(sample('hsm_sign_seconds_total{slot="sigillo-timestamp"}') > 0);
      assert.equal(sample('journal_events_lost_total'), 0);
      assert.equal(sample('supervised_up{process="signer"}'), 1);
      assert.equal(sample('supervised_restarts_total{process="signer"}'), 0);
      assert.match(text, /^process_resident_memory_bytes\{.*process="gateway".*\} \d+/m);
      // The lifecycle process is not waited for at a start.
      const asked = metricsInRules(readFileSync(rulesFile, 'utf8'));
      let missing = asked;
      await until(
        () => `an alert rule asks for ${missing.join()}`,
        async () => {
          const served = new Set(Array.from((await service.metrics()).matchAll(/^# TYPE (\S+) /gm), ([, name]) => name));
          missing = asked.filter((name) => !served.has(name));
          return missing.length === 0;
        },
      );
      metricsText = text;
    });
  });

  test('promtool reads /metrics', { skip: skipPromtool }, async () => {
    const verdict = await runProgram('promtool', ['check', 'metrics'], { input: metricsText });
    const complaints = `${verdict.stdout}${verdict.stderr}`.split('\n').filter((line) => line !== '' && !/^(nodejs|process)_/.test(line));
    assert.deepEqual(complaints, [], 'what prom-client names by itself aside');
    assert.ok([0, 3].includes(verdict.code ?? -1), verdict.stderr); // 3: read, with complaints about names
  });
});
