/** The schema of the store: files in schema/, applied in the order of their numbers, each once, and recorded with its SHA-256. */
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import type { ClickHouseClient } from '@clickhouse/client';
import { SigilloError } from '../../config/errors.ts';

export interface Migration {
  readonly version: number;
  readonly name: string;
  readonly sha256: string;
  readonly statements: readonly string[];
}

/** How the tables are kept: on one server, or on the replicas of a cluster. */
export type Engine = { readonly kind: 'single' } | { readonly kind: 'replicated'; readonly cluster: string };

const folder = new URL('./schema/', import.meta.url);
const namePattern = /^(\d{3})-[a-z0-9-]+\.sql$/;

const readMigration = (name: string): Migration => {
  const text = readFileSync(new URL(name, folder), 'utf8');
  const statements = text
    .replace(/^\s*--.*$/gm, '')
    .split(/;\s*(?:\n|$)/)
    .filter((statement) => statement.trim() !== '');
  return { version: Number(namePattern.exec(name)?.[1]), name, sha256: createHash('sha256').update(text).digest('hex'), statements };
};

/** All migrations of this release, in their order. */
export const knownMigrations = (): Migration[] =>
  readdirSync(folder)
    .filter((name) => namePattern.test(name))
    .toSorted()
    .map(readMigration);

const createRecord = `CREATE TABLE IF NOT EXISTS journal_migrations
  (version UInt32, name String, sha256 String, appliedAt DateTime DEFAULT now()) ENGINE = MergeTree ORDER BY version`;

/** The files are written for one server. With replicas, paths in the coordination service come from the server's own defaults. */
export const statementFor = (statement: string, engine: Engine): string =>
  engine.kind === 'single'
    ? statement
    : statement
        .replace(/(CREATE (?:TABLE|VIEW) IF NOT EXISTS \w+)/, `$1 ON CLUSTER '${engine.cluster}'`)
        .replace(/ENGINE = (Replacing)?MergeTree/, 'ENGINE = Replicated$1MergeTree')
        .replace('non_replicated_deduplication_window', 'replicated_deduplication_window');

/**
 * Brings a store to this release's schema. Only the writer that holds the lease may call it: two at once would both create.
 *
 * @throws JOURNAL_SCHEMA when the store was made by a newer release, or by other files than these
 */
export const migrate = async (
  client: ClickHouseClient,
  options: { readonly engine?: Engine; readonly migrations?: readonly Migration[] } = {},
): Promise<void> => {
  const { engine = { kind: 'single' }, migrations = knownMigrations() } = options;
  await client.command({ query: statementFor(createRecord, engine) });
  const result = await client.query({
    query: 'SELECT version, name, sha256 FROM journal_migrations ORDER BY version',
    format: 'JSONEachRow',
  });
  const applied = await result.json<{ version: number; name: string; sha256: string }>();
  for (const { version, name, sha256 } of applied) {
    const known = migrations.find((migration) => migration.version === version);
    if (known === undefined) throw new SigilloError('JOURNAL_SCHEMA', `the store has ${name}, which this release does not know`);
    if (known.sha256 !== sha256) throw new SigilloError('JOURNAL_SCHEMA', `${known.name} is not the file that the store was made with`);
  }
  for (const { version, name, sha256, statements } of migrations.filter(({ version }) => !applied.some((one) => one.version === version))) {
    for (const statement of statements) await client.command({ query: statementFor(statement, engine) });
    await client.insert({
      table: 'journal_migrations',
      values: [{ version, name, sha256 }],
      columns: ['version', 'name', 'sha256'],
      format: 'JSONEachRow',
    });
  }
};
