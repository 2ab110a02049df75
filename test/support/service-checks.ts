/** What tests of the whole service do again and again: run one, and see that its stamps verify and its load is granted. */
import assert from 'node:assert/strict';
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { postQuery, RelyingParty } from './openssl-ts.ts';
import type { Service, ServiceFolder, StartOptions } from './service.ts';
import { describeLoad, startLoad } from './stamp-load.ts';

export interface ServiceChecks {
  /** Starts a service, uses it, and stops it in order. */
  withService(options: StartOptions, use: (service: Service) => Promise<void>, home?: ServiceFolder): Promise<Service>;
  /** One stamp with certificates and one without, verified by OpenSSL with what the repository publishes. */
  assertStamps(service: Service): Promise<void>;
  /** All of a load is granted. @param requests 500 unless told */
  assertLoad(service: Service, requests?: number): Promise<void>;
}

/** @param folder home of services that are started without another, and of the files of relying parties */
export const serviceChecks = (folder: ServiceFolder): ServiceChecks => {
  const withService = async (options: StartOptions, use: (service: Service) => Promise<void>, home = folder): Promise<Service> => {
    const service = await home.start(options);
    try {
      await use(service);
    } catch (error) {
      (error as Error).message += service.lastOutput;
      throw error;
    } finally {
      assert.equal(await service.stop(), 0, service.lastOutput);
    }
    return service;
  };

  let parties = 0;
  const assertStamps = async (service: Service): Promise<void> => {
    parties += 1;
    const path = join(folder.path, `party-${parties}`);
    mkdirSync(path);
    const party = new RelyingParty(path);
    await party.fetchFrom(service.origin);
    party.write('note', `note ${parties}`);
    for (const [name, flags] of [
      ['with', ['-cert']],
      ['without', []],
    ] as const) {
      await party.openssl('ts', '-query', '-data', 'note', '-sha256', ...flags, '-out', `${name}.tsq`);
      const answer = await postQuery(service.origin, readFileSync(join(path, `${name}.tsq`)));
      assert.equal(answer.status, 200);
      party.write(`${name}.tsr`, answer.body);
      const verdict = await party.verify(`${name}.tsr`, ['-queryfile', `${name}.tsq`], { withChain: name === 'without' });
      assert.match(verdict.stdout, /Verification: OK/, `${name} certificates: ${verdict.stderr}${await party.text(`${name}.tsr`)}`);
    }
  };

  const assertLoad = async (service: Service, requests = 500): Promise<void> => {
    const load = await startLoad({ port: service.port, connections: 16, requestsMax: requests });
    const result = await load.done;
    assert.deepEqual(result.counts, { granted: requests }, describeLoad(result));
  };

  return { withService, assertStamps, assertLoad };
};
