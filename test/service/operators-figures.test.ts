/** The figures that operators see of a service that stamps: how many stamps each TSU has made, and how many signatures a slot makes a second. */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { stampReader } from '../support/judged-stamps.ts';
import type { ListedTsu } from '../support/key-lives.ts';
import { redisServerMissing } from '../support/redis-server.ts';
import { type Service, ServiceFolder, until } from '../support/service.ts';
import { describeLoad, startLoad } from '../support/stamp-load.ts';
import { withoutSofthsm } from '../support/token-home.ts';

interface ListedSlot {
  readonly slot: string;
  readonly signers: readonly { readonly purpose: string; readonly signatures: { readonly total: number; readonly perSecond: number } }[];
}

describe('figures for operators', { skip: withoutSofthsm || redisServerMissing() }, () => {
  const folder = new ServiceFolder();
  let service: Service;
  before(async () => {
    // The journal has its checkpoints stamped too, and those count: here it makes none.
    service = await folder.start({ settings: { tsu: { tickMs: 200 }, journal: { checkpoint: { seconds: 86_400 } } } });
    await until('the first TSU is registered', async () => (await listed()).length === 1, 60_000);
  });
  after(folder.remove);

  const json = async (...parameters: string[]): Promise<unknown> => {
    const { code, stdout, stderr } = await folder.command(service, ...parameters, '--json');
    assert.equal(code, 0, stderr + service.lastOutput);
    return JSON.parse(stdout);
  };
  const listed = async (): Promise<ListedTsu[]> => (await json('tsu', 'list')) as ListedTsu[];
  const stampsListed = async (): Promise<Record<string, number | undefined>> =>
    Object.fromEntries(
      ((await json('tsu', 'list', '--stamps')) as ListedTsu[]).map(({ certificate, stamps }) => [certificate?.sha256, stamps]),
    );

  test('tsu list --stamps: as many for each TSU as clients have of it', async () => {
    const made: Record<string, number> = {};
    const stamp = async (requestsMax: number): Promise<void> => {
      const load = await startLoad({ port: service.port, connections: 3, requestsMax, keep: true, certReq: true });
      const result = await load.done;
      assert.deepEqual(result.counts, { granted: requestsMax }, describeLoad(result));
      for (const { certificate } of result.kept.map(stampReader())) {
        const sha256 = certificate.fingerprint256.replaceAll(':', '').toLowerCase();
        made[sha256] = (made[sha256] ?? 0) + 1;
      }
    };
    await stamp(37);
    const { code, stderr } = await folder.command(service, 'tsu', 'rotate');
    assert.equal(code, 0, stderr + service.lastOutput);
    // A signer has the next key a look after the register has it.
    await until('the next key stamps', async () => {
      await stamp(1);
      return Object.keys(made).length === 2;
    });
    await stamp(11);
    const total = (counts: Record<string, number | undefined>): number =>
      Object.values(counts).reduce<number>((sum, n) => sum + (n ?? 0), 0);
    let counted: Record<string, number | undefined> = {};
    await until(
      () => `the journal has ${JSON.stringify(made)}; it has ${JSON.stringify(counted)}`,
      async () => {
        counted = await stampsListed();
        return total(counted) >= total(made);
      },
      60_000,
    );
    assert.deepEqual(counted, made);
    assert.ok(
      (await listed()).every((record) => !('stamps' in record)),
      'the journal is read only when it is asked for',
    );
  });

  test('hsm list: the slot that stamps makes signatures, some a second', async () => {
    const load = await startLoad({ port: service.port, connections: 2 });
    try {
      const find = async () => {
        const slots = (await json('hsm', 'list', '--no-login')) as ListedSlot[];
        return slots
          .flatMap(({ signers }) => signers)
          .find(({ purpose, signatures }) => purpose === 'timestamp' && signatures.perSecond > 0);
      };
      const before = load.granted();
      const told = await until('the slot tells of signatures', find, 60_000);
      // Each stamp is a signature, and the slot cannot have made more of them a second than there were in all.
      assert.ok(told.signatures.total > before, JSON.stringify(told.signatures));
      assert.ok(told.signatures.perSecond <= told.signatures.total, JSON.stringify(told.signatures));
      const { stdout } = await folder.command(service, 'hsm', 'list', '--no-login');
      const [header = '', ...rows] = stdout.split('\n');
      const at = header.indexOf('SIGN/S');
      assert.ok(
        rows.some((row) => row.includes('serving') && Number.parseFloat(row.slice(at)) > 0),
        stdout,
      );
    } finally {
      load.abort();
    }
  });
});
