/** The embedded store of a process that is the writer, and then is not: another process can open it then, and this one does not. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { after, describe, test } from 'node:test';
import { homePaths } from '../../../config/home.ts';
import type { Config } from '../../../config/schema.ts';
import { emptyChain, sealEvent } from '../../../observability/journal/chain.ts';
import { noOrigin } from '../../../observability/journal/origin.ts';
import { OwnStore } from '../../../observability/journal/own-store.ts';
import { temporaryFolder } from '../../support/token-home.ts';
import { draftOf } from './fixtures.ts';

const clickhouseModule = new URL('../../../observability/journal/clickhouse.ts', import.meta.url).href;
const opensIt = `
  const { embeddedClient } = await import(process.argv[1]);
  const client = await embeddedClient(process.argv[2]);
  const result = await client.query({ query: 'SELECT count() AS n FROM journal_events', format: 'JSONEachRow' });
  console.log(JSON.stringify(await result.json()));
  await client.close();`;

describe('the embedded store of a journal process', () => {
  const folder = temporaryFolder();
  after(folder.remove);
  const config = { home: folder.path, journal: {} } as Config;
  const { journalFolder } = homePaths(folder.path);
  const unreadable: unknown[] = [];
  const ownStore = (releaseMsMax?: number): OwnStore =>
    new OwnStore(config, (error) => unreadable.push(error), ...(releaseMsMax === undefined ? [] : [{ releaseMsMax }]));
  /** What another process finds there. */
  const elsewhere = (): string =>
    spawnSync(process.execPath, ['--input-type=module', '-e', opensIt, clickhouseModule, journalFolder], {
      encoding: 'utf8',
    }).stdout.trim();
  const unavailable = { code: 'JOURNAL_STORE_UNAVAILABLE' };

  test('is opened by the writer alone, and let go of when it is none any more, whatever runs then', async () => {
    const own = ownStore();
    await assert.rejects(own.open(), unavailable);
    own.take();
    const store = await own.open();
    assert.equal(elsewhere(), '', 'it is locked');
    const asked = store.client.query({ query: 'SELECT sleep(2)' }).catch(() => undefined);
    const inserted = store.insert([{ ...sealEvent(emptyChain, draftOf('service.logStarted', { optional: true })), origin: noOrigin }]);
    await own.release();
    assert.deepEqual(JSON.parse(elsewhere()), [{ n: 1 }], 'what had begun is done');
    await assert.rejects(own.open(), unavailable, 'by what runs on');
    await own.release();
    await Promise.all([asked, inserted]);

    own.take();
    assert.equal((await (await own.open()).head()).size, 1);
    await own.release();
    assert.deepEqual(unreadable, []);
  });

  test('an engine that does not let go is told of', async () => {
    const own = ownStore(200);
    own.take();
    const asked = (await own.open()).client.query({ query: 'SELECT sleep(3)' }).catch(() => undefined);
    await assert.rejects(own.release(), { ...unavailable, message: /does not let go of .*clickhouse/ });
    await asked;
  });
});
