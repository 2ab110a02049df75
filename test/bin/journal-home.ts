/** The home folder of a stopped service with a journal, and the commands that read it: children, because one process alone can have the engine's folder open. */
import { createPublicKey } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before } from 'node:test';
import type { Redis } from 'ioredis';
import { operatorName } from '../../bin/commands/operator.ts';
import { homePaths } from '../../config/home.ts';
import { embeddedClient } from '../../observability/journal/clickhouse.ts';
import { decodeDrafts } from '../../observability/journal/draft-block.ts';
import { noOrigin } from '../../observability/journal/origin.ts';
import { journalKeys } from '../../queue/keys.ts';
import { journalKey, origin, TamperedStore, TestJournal, TestPki, testTsu } from '../observability/journal/signed-journal.ts';
import { startTestRedis, type TestRedis } from '../support/redis-server.ts';
import { type CommandResult, runSigillo } from '../support/run-sigillo.ts';
import { temporaryFolder } from '../support/token-home.ts';

const begin = Date.UTC(2027, 0, 10);

/** A public key as `sigillo journal verify --key` takes it. */
export const pemOf = (spki: Uint8Array): string | Buffer =>
  createPublicKey({ key: Buffer.from(spki), format: 'der', type: 'spki' }).export({ format: 'pem', type: 'spki' });

export class JournalHome {
  readonly folder = temporaryFolder();
  readonly home = join(this.folder.path, 'home');
  readonly paths = homePaths(this.home);
  readonly pki = new TestPki();
  readonly key = journalKey();
  readonly journal = new TestJournal(this.key, begin);
  /** Size of the last checkpoint. */
  covered = 0;
  redis!: Redis;
  #server: TestRedis | undefined;

  /** Some 200 entries, with four checkpoints that are stamped. */
  async open(): Promise<void> {
    const { journal, paths, pki } = this;
    this.#server = await startTestRedis();
    this.redis = this.#server.connect();
    const tsu = testTsu(pki);
    journal.append({ kind: 'tsu.published', detail: { chain: tsu.chain }, subject: 'tsu' });
    for (let i = 0; i < 200; i += 1) {
      if (i % 50 === 49) {
        const checkpoint = journal.checkpoint(tsu.stamp);
        this.covered = journal.size;
        journal.append(checkpoint);
      }
      if (i % 20 === 0)
        journal.append({ kind: 'time.state', detail: { from: 'good', to: 'unknown' }, subject: 'node-1', outcome: 'failure' });
      else journal.stamp();
    }
    mkdirSync(paths.journalFolder, { recursive: true });
    mkdirSync(paths.pkiFolder, { recursive: true });
    const store = await TamperedStore.open(await embeddedClient(paths.journalFolder));
    await store.store.insert(journal.sealed.map((sealed) => ({ ...sealed, origin: noOrigin })));
    await store.store.close();
    writeFileSync(paths.journalKey, pemOf(this.key.spki));
    writeFileSync(paths.rootCertificate, readFileSync(join(pki.folder, 'root.pem')));
  }

  async close(): Promise<void> {
    await this.#server?.close();
    this.pki.close();
    this.folder.remove();
  }

  readonly environment = (more: Record<string, string> = {}): Record<string, string> => ({
    SIGILLO_HOME: this.home,
    SIGILLO__REDIS: JSON.stringify({ mode: 'url', url: `unix://${this.#server?.socket}` }),
    SIGILLO__JOURNAL__ORIGIN: origin,
    ...more,
  });
  readonly run = (...parameters: string[]): Promise<CommandResult> => runSigillo(['journal', ...parameters], this.environment());
  /** Without the home of the service: what an auditor has. */
  readonly runElsewhere = (...parameters: string[]): Promise<CommandResult> =>
    runSigillo(['journal', ...parameters], { SIGILLO_HOME: join(this.folder.path, 'elsewhere') });

  /** Readings that were recorded since the last call. */
  readonly readings = async (): Promise<unknown[]> => {
    const entries = await this.redis.xrangeBuffer(journalKeys.events, '-', '+');
    await this.redis.del(journalKeys.events);
    return entries.flatMap(([, fields]) =>
      decodeDrafts(fields[1] as Buffer).map(({ kind, subject, role, actor, detail }) => ({ kind, subject, role, actor, detail })),
    );
  };
  readonly reading = (subject: string, query: string, entries: number): unknown => ({
    kind: 'journal.read',
    subject,
    role: 'operator',
    actor: operatorName(),
    detail: { query, entries },
  });
}

/** One home for the tests of a suite. */
export const journalHome = (): JournalHome => {
  const world = new JournalHome();
  before(() => world.open());
  after(() => world.close());
  return world;
};
