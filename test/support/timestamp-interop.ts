/** A relying party of a whole service and the stamps that it gets, for tests that let programs judge that are not ours. */
import assert from 'node:assert/strict';
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { opensslMissing, postQuery, RelyingParty } from './openssl-ts.ts';
import { redisServerMissing } from './redis-server.ts';
import type { Service, ServiceFolder } from './service.ts';
import { withoutSofthsm } from './token-home.ts';

/** Reason to skip these tests, or false. */
export const withoutInterop: string | false = withoutSofthsm || redisServerMissing() || (await opensslMissing());
/** Programs at once; the machine has the service to run beside them. */
export const atOnce = 2;

export const count = (text: string, pattern: RegExp): number => text.match(pattern)?.length ?? 0;

/** In a folder of its name below the home folder. */
export const newParty = async (home: ServiceFolder, name: string, service: Service): Promise<RelyingParty> => {
  const folder = join(home.path, name);
  mkdirSync(folder);
  const party = new RelyingParty(folder);
  await party.fetchFrom(service.origin);
  return party;
};

/** Gets one stamp as a client does. @returns names of query and response */
export const stamp = async (
  service: Service,
  party: RelyingParty,
  name: string,
  query: readonly string[],
): Promise<{ tsq: string; tsr: string }> => {
  const [tsq, tsr] = [`${name}.tsq`, `${name}.tsr`];
  await party.openssl('ts', '-query', ...query, '-out', tsq);
  const answer = await postQuery(service.origin, readFileSync(join(party.folder, tsq)));
  assert.equal(answer.status, 200, `${name}: ${answer.body.toString('latin1')}`);
  assert.equal(answer.headers.get('content-type'), 'application/timestamp-reply');
  party.write(tsr, answer.body);
  return { tsq, tsr };
};
