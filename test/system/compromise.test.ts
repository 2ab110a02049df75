/** A key that is compromised stops at once, under load and unseen by clients: another TSU of its slot goes on. */
import assert from 'node:assert/strict';
import { after, describe, test } from 'node:test';
import { stampReader } from '../support/judged-stamps.ts';
import type { ListedTsu } from '../support/key-lives.ts';
import { opensslMissing, RelyingParty } from '../support/openssl-ts.ts';
import { redisServerMissing } from '../support/redis-server.ts';
import { type Service, ServiceFolder, until } from '../support/service.ts';
import { describeLoad, startLoad } from '../support/stamp-load.ts';
import { withoutSofthsm } from '../support/token-home.ts';

const skip = withoutSofthsm || redisServerMissing() || (await opensslMissing());
/** A signer looks at the register every 250 ms (signer/tsu-follower.ts), and finishes the batch that it is at. */
const stopMsMax = 1_000;
const reason = 'the HSM was opened';

describe('a compromised key', { skip }, () => {
  const folder = new ServiceFolder();
  after(folder.remove);

  const run = async (service: Service, ...parameters: string[]): Promise<string> => {
    const { code, stdout, stderr } = await folder.command(service, ...parameters);
    assert.equal(code, 0, stdout + stderr + service.lastOutput);
    return stdout;
  };
  const listed = async (service: Service): Promise<ListedTsu[]> => JSON.parse(await run(service, 'tsu', 'list', '--json')) as ListedTsu[];

  test('stops at once under load: no request is refused, and the CRL says why', async (context) => {
    const service = await folder.start({ settings: { tsu: { tickMs: 200 } } });
    await until('the first TSU is registered', async () => (await listed(service)).length === 1, 60_000);
    await run(service, 'tsu', 'rotate');
    const [first, second, ...others] = await listed(service);
    assert.ok(first?.stampsNow && second?.stampsNow && others.length === 0, 'the last one stands by');

    const load = await startLoad({ port: service.port, connections: 4, keep: true, certReq: true });
    context.after(load.abort);
    await load.untilGranted(200, 60_000);
    await run(service, 'tsu', 'compromise', second.id, '--reason', reason);
    await load.untilGranted(load.granted() + 200, 60_000);
    const result = await load.stop();
    context.diagnostic(describeLoad(result));
    assert.deepEqual(Object.keys(result.counts), ['granted'], describeLoad(result) + service.lastOutput);

    const record = (await listed(service)).find(({ id }) => id === second.id);
    assert.ok(record?.compromised !== undefined && record.certificate !== null && !record.stampsNow);
    assert.equal(record.compromised.reason, reason);
    const at = Date.parse(record.compromised.at);
    const stamps = result.kept.map(stampReader());
    const timesOf = (serialNumber: string | undefined): number[] =>
      stamps
        .filter(({ certificate }) => certificate.serialNumber.toLowerCase() === serialNumber)
        .map(({ genTime }) => genTime.getTime() - at);
    const bad = timesOf(record.certificate.serialNumber);
    const last = Math.max(...bad);
    context.diagnostic(`its last stamp: ${last} ms after it was said to be compromised`);
    assert.ok(
      bad.some((ms) => ms < 0),
      'it stamped before',
    );
    assert.ok(
      last <= stopMsMax,
      `${bad.filter((ms) => ms > stopMsMax).length} stamps later than ${stopMsMax} ms, the last after ${last} ms`,
    );
    assert.ok(stamps.length - bad.length >= 100, 'another one has taken over');

    const party = new RelyingParty(folder.path);
    await party.fetchFrom(service.origin);
    const crl = await fetch(`${service.origin}/repository/timestamp-ca.crl`);
    party.write('timestamp-ca.crl', Buffer.from(await crl.arrayBuffer()));
    const text = await party.openssl('crl', '-inform', 'DER', '-in', 'timestamp-ca.crl', '-noout', '-text');
    const revoked = text.split('Revoked Certificates:')[1] ?? '';
    const entries = revoked.split('Serial Number: ').slice(1);
    assert.deepEqual(
      entries.map((entry) => /^[0-9A-F]+/.exec(entry)?.[0].toLowerCase()),
      [record.certificate.serialNumber],
      'and no other',
    );
    assert.match(entries[0] ?? '', /X509v3 CRL Reason Code:\s+Key Compromise/);
    assert.equal(await service.stop(), 0, service.lastOutput);
  });
});
