/** The archive and the proofs of a whole service, from outside: what a client keeps to be believed in twenty years. */
import assert from 'node:assert/strict';
import { createHash, createPublicKey } from 'node:crypto';
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { verifyCheckpoint } from '../../observability/journal/checkpoint.ts';
import { hashEvent } from '../../observability/journal/event-encoding.ts';
import { verifyConsistency, verifyInclusion } from '../../observability/journal/merkle.ts';
import { readTokenSummary } from '../../pki/token-summary.ts';
import { readTimeStampResp } from '../../pki/tsp-read.ts';
import { opensslMissing, postQuery, RelyingParty } from '../support/openssl-ts.ts';
import { redisServerMissing } from '../support/redis-server.ts';
import { type Service, ServiceFolder, until } from '../support/service.ts';
import { withoutSofthsm } from '../support/token-home.ts';

const skip = withoutSofthsm || redisServerMissing() || (await opensslMissing());
const origin = 'tsa.test.example/journal';

interface Item {
  readonly serial: string;
  readonly token: string;
}
interface Inclusion {
  readonly sequence: number;
  readonly size: number;
  readonly leafHash: string;
  readonly path: readonly string[];
  readonly checkpoint: string;
  readonly entry: string;
}

const octets = (text: string): Buffer => Buffer.from(text, 'base64');

describe('the archive of a whole service', { skip }, () => {
  const folder = new ServiceFolder();
  let service: Service;
  let party: RelyingParty;
  before(async () => {
    service = await folder.start({ settings: { journal: { origin, checkpoint: { seconds: 1 }, block: { ageMs: 100 } } } });
    const path = join(folder.path, 'party');
    mkdirSync(path);
    party = new RelyingParty(path);
    await party.fetchFrom(service.origin);
  });
  after(folder.remove);

  const get = (path: string, headers: Record<string, string> = {}): Promise<Response> => fetch(`${service.origin}${path}`, { headers });
  /** The journal lags behind the answers by a block, and a proof by a checkpoint. */
  const soon = (path: string, headers: Record<string, string> = {}): Promise<Response> =>
    until(`${path} is there`, async () => {
      const response = await get(path, headers);
      return response.status === 200 ? response : undefined;
    });
  const bytesOf = async (response: Response): Promise<Buffer> => Buffer.from(await response.arrayBuffer());

  for (const certReq of [true, false]) {
    test(`what /tsa gave comes back octet for octet, ${certReq ? 'with' : 'without'} certificates, from address and command line`, async () => {
      const name = `note-${certReq}`;
      party.write(name, name);
      await party.openssl('ts', '-query', '-data', name, '-sha256', ...(certReq ? ['-cert'] : []), '-out', `${name}.tsq`);
      const issued = await postQuery(service.origin, readFileSync(join(party.folder, `${name}.tsq`)));
      assert.equal(issued.status, 200);
      const { serial } = readTokenSummary(readTimeStampResp(issued.body).timeStampToken as Uint8Array);
      const again = await bytesOf(await soon(`/v1/timestamps/${serial}`, { Accept: 'application/timestamp-reply' }));
      assert.equal(again.toString('hex'), issued.body.toString('hex'));

      const found = await folder.command(service, 'timestamp', 'find', '--file', join(party.folder, name), '--out', party.folder);
      assert.equal(found.code, 0, found.stderr);
      assert.equal(readFileSync(join(party.folder, `${serial}.tsr`)).toString('hex'), issued.body.toString('hex'));
      const verdict = await party.verify(`${serial}.tsr`, ['-queryfile', `${name}.tsq`], { withChain: !certReq });
      assert.match(verdict.stdout, /Verification: OK/, verdict.stderr);
    });
  }

  test('a proof that a stamp is in the journal, and that the journal only grows', async () => {
    const hash = createHash('sha256').update('proven').digest('base64');
    const body = JSON.stringify({ hashes: [{ algorithm: 'sha256', hash }], certReq: true });
    const post = (): Promise<Response> =>
      fetch(`${service.origin}/v1/timestamps`, {
        method: 'POST',
        headers: { 'Content-Type': 'application/json' },
        body,
      });
    const [item] = ((await (await post()).json()) as { timestamps: [Item] }).timestamps;
    assert.deepEqual(await (await soon(`/v1/timestamps/${item.serial}`)).json(), item);

    const proof = (await (await soon(`/journal/proof/inclusion?serial=${item.serial}`)).json()) as Inclusion;
    const spki = createPublicKey(await (await get('/journal/key')).text()).export({ format: 'der', type: 'spki' });
    const verdict = verifyCheckpoint(proof.checkpoint, { name: origin, spki });
    assert.ok(verdict.kind === 'valid', JSON.stringify(verdict));
    const { checkpoint } = verdict;
    assert.equal(hashEvent(octets(proof.entry)).toString('base64'), proof.leafHash);
    assert.ok(octets(proof.entry).includes(Buffer.from(item.serial)));
    const place = { index: proof.sequence, size: checkpoint.size };
    assert.ok(verifyInclusion(octets(proof.leafHash), place, proof.path.map(octets), checkpoint.root));

    // A journal to which nothing was added needs no new checkpoint.
    await post();
    const later = await until('a later checkpoint', async () => {
      const found = verifyCheckpoint(await (await get('/journal/checkpoint')).text(), { name: origin, spki });
      return found.kind === 'valid' && found.checkpoint.size > checkpoint.size ? found.checkpoint : undefined;
    });
    const consistency = await (await get(`/journal/proof/consistency?from=${checkpoint.size}&to=${later.size}`)).json();
    assert.ok(verifyConsistency(checkpoint, later, (consistency as { path: string[] }).path.map(octets)));
  });

  test('the timestamp of a checkpoint is one that OpenSSL verifies', async () => {
    await until('both of one checkpoint', async () => {
      const [note, tsr] = [await get('/journal/checkpoint'), await get('/journal/checkpoint.tsr')];
      if (note.status !== 200 || tsr.status !== 200) return false;
      party.write('checkpoint', await note.text());
      party.write('checkpoint.tsr', await bytesOf(tsr));
      return (await party.verify('checkpoint.tsr', ['-data', 'checkpoint'], { withChain: true })).stdout.includes('Verification: OK');
    });
  });
});
