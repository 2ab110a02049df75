/** Keys change under full load, and no client notices: on two slots, each with keys of its own, every two seconds. */
import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { homePaths } from '../../config/home.ts';
import { type ChainHead, emptyChain, followChain, headBehind } from '../../observability/journal/chain.ts';
import { embeddedClient } from '../../observability/journal/clickhouse.ts';
import { JournalReader } from '../../observability/journal/reader.ts';
import { readTimeStampResp, readTimeStampToken } from '../../pki/tsp-read.ts';
import { privateKeyUsagePeriod } from '../../pki/tsu-usage.ts';
import { assertVerify, spreadOver } from '../support/judged-stamps.ts';
import { opensslMissing, RelyingParty } from '../support/openssl-ts.ts';
import { OperatorTokens } from '../support/operator-tokens.ts';
import { redisServerMissing } from '../support/redis-server.ts';
import { ServiceFolder, until } from '../support/service.ts';
import { describeLoad, startLoad } from '../support/stamp-load.ts';
import { softhsmPath, withoutSofthsm } from '../support/token-home.ts';

const skip = withoutSofthsm || redisServerMissing() || (await opensslMissing());
const long = process.env['TEST_LONG'] !== undefined;
const dayMs = 86_400_000;
/** Of all that are kept, so many are shown to OpenSSL. */
const judgedMax = long ? 3_000 : 200;

describe('rotation', { skip }, () => {
  const folder = new ServiceFolder();
  after(folder.remove);

  test(`every two seconds for ${long ? 60 : 15} seconds on two slots: nothing is refused, every token is of a key in its window`, async (context) => {
    const tokens = new OperatorTokens(join(folder.path, 'hsm'));
    for (const label of ['slot one', 'slot two', 'authority']) await tokens.addToken(label);
    const slot = (label: string, ...purposes: string[]) => ({ label, purposes, pinFile: tokens.pinFile });
    const settings = {
      hsm: {
        mode: 'module',
        module: softhsmPath,
        environment: tokens.environment,
        slots: [slot('slot one', 'timestamp'), slot('slot two', 'timestamp'), slot('authority', 'authority', 'journal')],
      },
      // A key is used for six seconds, and followed after two: the four that are left are for a lifecycle that is late.
      tsu: { usageMsMax: 6_000, leadDays: 1_500 / dayMs, switchDays: 4_000 / dayMs, graceDays: 2_000 / dayMs, tickMs: 200 },
    };
    const service = await folder.start({ settings });
    const certificates = async (): Promise<Map<string, X509Certificate>> => {
      const pem = await fetch(`${service.origin}/repository/tsa-chain.pem`).then((response) => response.text());
      const all = (pem.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? []).map((one) => new X509Certificate(one));
      return new Map(all.filter((one) => !one.ca).map((one) => [one.serialNumber, one]));
    };
    // Those of the start are used for six seconds too, of which a slow machine takes some until the calendar is looked at.
    await until(
      () => `keys that follow${service.lastOutput}`,
      async () => (await certificates()).size >= 3,
      60_000,
    );
    const load = await startLoad({ port: service.port, connections: 32, keep: true, certReq: true });
    context.after(load.abort);
    try {
      const wanted = (await certificates()).size + 2 * (long ? 28 : 6);
      await until(
        () => `${wanted} keys${service.lastOutput}`,
        async () => (await certificates()).size >= wanted,
        long ? 180_000 : 60_000,
      );
    } finally {
      context.diagnostic(`keys: ${(await certificates()).size}`);
    }
    const result = await load.stop();
    context.diagnostic(describeLoad(result));
    assert.deepEqual(Object.keys(result.counts), ['granted'], describeLoad(result) + service.lastOutput);

    const published = await certificates();
    const used = new Map<string, number>();
    for (const { response } of result.kept) {
      const { timeStampToken } = readTimeStampResp(response);
      const { tstInfo, signedData } = readTimeStampToken(timeStampToken as Uint8Array);
      const certificate = signedData.certificates.map((der) => new X509Certificate(der)).find((one) => !one.ca) as X509Certificate;
      assert.ok(published.has(certificate.serialNumber), 'every key is published, and stays so');
      const { notBefore, notAfter } = privateKeyUsagePeriod(certificate.raw) ?? {};
      const at = tstInfo.genTime.getTime();
      assert.ok(notBefore !== undefined && notAfter !== undefined);
      assert.ok(
        at >= notBefore.getTime() && at <= notAfter.getTime(),
        `${tstInfo.genTime.toISOString()} in ${notBefore.toISOString()} to ${notAfter.toISOString()}`,
      );
      used.set(certificate.serialNumber, (used.get(certificate.serialNumber) ?? 0) + 1);
    }
    assert.ok(used.size >= (long ? 40 : 8), `${used.size} keys have stamped`);

    const party = new RelyingParty(folder.path);
    await party.fetchFrom(service.origin);
    await assertVerify(party, spreadOver(result.kept, judgedMax), { withChain: false });
    assert.equal(await service.stop(), 0, service.lastOutput);

    // The journal tells the life of every key that has stamped: made, certified, activated, and, but for the last, retired.
    const events = new Map<string, Set<string>>();
    const client = await embeddedClient(homePaths(folder.home).journalFolder);
    try {
      const reader = new JournalReader(client);
      let head: ChainHead = emptyChain;
      for await (const place of reader.read(0, await reader.size())) {
        assert.ok(place.kind === 'entry');
        const next = followChain(head, place.octets);
        assert.ok(next.kind === 'follows', JSON.stringify(next));
        head = headBehind(next.sealed);
        const { event } = next.sealed;
        if (!event.kind.startsWith('key.')) continue;
        const name = 'spkiSha256' in event.detail ? Buffer.from(event.detail.spkiSha256 as Uint8Array).toString('hex') : event.subject;
        events.set(name, (events.get(name) ?? new Set()).add(event.kind));
      }
    } finally {
      await client.close();
    }
    const lives = [...events.values()].filter((kinds) => kinds.has('key.activated'));
    assert.ok(lives.length >= used.size, `${lives.length} activations for ${used.size} keys`);
    assert.ok(lives.every((kinds) => kinds.has('key.generated')));
    assert.ok(lives.filter((kinds) => kinds.has('key.retired')).length >= used.size - 6);
    assert.ok(lives.some((kinds) => kinds.has('key.destroyed')));
  });
});
