/**
 * Makes of the requests that the journal sends to ClickHouse what Debian's release of 2018 understands. Nothing else changes: the
 * same rows come in the same inserts, and partition key, order and answers are those of the schema.
 *
 * What that release lacks: codecs, skipping indices, LowCardinality, EPHEMERAL columns with base64Decode, parameters of queries,
 * DateTime64, tokens of deduplication, checks of single parts, and every setting that is younger.
 */

/** The body, and what is asked for by the URL. */
export interface ClickHouseRequest {
  readonly search: URLSearchParams;
  readonly body: Buffer;
}

/** Settings of the journal's inserts and queries that were there in 2018. */
const knownSettings = new Set([
  'query',
  'database',
  'wait_end_of_query',
  'max_insert_block_size',
  'min_insert_block_size_rows',
  'min_insert_block_size_bytes',
]);

const quoted = (text: string): string => `'${text.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`;

/** Values travel escaped as in TabSeparated. */
const unescaped = (text: string): string =>
  text.replace(/\\(.)/gs, (_, letter: string) => ({ t: '\t', n: '\n', r: '\r', '0': '\0', b: '\b', f: '\f' })[letter] ?? letter);

const withParameters = (sql: string, search: URLSearchParams): string =>
  sql.replace(/\{(\w+):(\w+)\}/g, (_, name: string, type: string) => {
    const value = unescaped(search.get(`param_${name}`) ?? '');
    return type === 'String' ? quoted(value) : String(BigInt(value));
  });

const translateTable = (sql: string): string =>
  sql
    .replace(/ CODEC\((?:[^()]|\([^()]*\))*\)/g, '')
    .replace(/^\s*INDEX .*$/gm, '')
    .replace(/^.* EPHEMERAL,\n/gm, '')
    .replace(/ DEFAULT base64Decode\(\w+\)/g, '')
    .replace(/LowCardinality\(String\)/g, 'String')
    .replace(/\nSETTINGS [^;]*$/, '')
    .replace(/,\s*\n\)/, '\n)');

const translateQuery = (sql: string): string =>
  sql
    // It can neither tell of parts that it moved aside, nor check one: nothing is found.
    .replace(/^(?:SELECT name FROM system\.detached_parts .*|CHECK TABLE .*)$/m, "SELECT '' AS name FROM system.one WHERE 0")
    .replace(' AND current_database = currentDatabase()', '')
    .replaceAll("fromUnixTimestamp64Micro(toInt64(unixMicros), 'UTC')", "toDateTime(intDiv(unixMicros, 1000000), 'UTC')")
    // It reads and sorts the whole table for its end; today's releases read the last rows.
    .replace(
      /FROM journal_events ORDER BY sequence DESC LIMIT (\d+)/,
      (end, rows: string) =>
        `FROM journal_events WHERE sequence + ${rows} > (SELECT max(sequence) FROM journal_events)${end.slice('FROM journal_events'.length)}`,
    );

/** Octets as TabSeparated has them, one character for each. A carriage return at the end of a line is taken for a file from Windows. */
const tsvOctets = (base64: string): string =>
  Buffer.from(base64, 'base64')
    .toString('latin1')
    .replace(/[\\\t\n\r]/g, (character) => ({ '\\': '\\\\', '\t': '\\t', '\n': '\\n', '\r': '\\r' })[character] as string);

/** Rows of JSON with a column of base64, as TabSeparated. */
const jsonToTsv = (body: Buffer, columns: readonly string[]): Buffer => {
  const lines = body.toString('utf8').split('\n');
  const rows = lines
    .filter((line) => line !== '')
    .map((line) => {
      const row = JSON.parse(line) as Record<string, string | number>;
      return `${columns.map((name) => (name.endsWith('Base64') ? tsvOctets(String(row[name])) : String(row[name]))).join('\t')}\n`;
    });
  return Buffer.from(rows.join(''), 'latin1');
};

const insertPattern = /^INSERT INTO (\w+) \(([^)]*)\)(?: SELECT .* FROM input\('.*'\) WHERE \((SELECT .*)\) = 0)? FORMAT (\w+)$/;

/** What a release of today asks itself before it takes the rows of such an insert; that of 2018 has to be asked by somebody else. */
export const conditionOf = ({ search }: ClickHouseRequest): string | undefined => insertPattern.exec(search.get('query') ?? '')?.[3];

const translateInsert = (sql: string, body: Buffer): { readonly sql: string; readonly body: Buffer } => {
  const [, table, list = '', , format = ''] = insertPattern.exec(sql) ?? [];
  if (table === undefined) return { sql, body };
  const columns = list.split(', ');
  if (format !== 'JSONEachRow' || !columns.some((name) => name.endsWith('Base64')))
    return { sql: `INSERT INTO ${table} (${list}) FORMAT ${format}`, body };
  return {
    sql: `INSERT INTO ${table} (${columns.map((name) => name.replace(/Base64$/, '')).join(', ')}) FORMAT TabSeparated`,
    body: jsonToTsv(body, columns),
  };
};

/** True for a request that brings rows. */
const isInsert = ({ search }: ClickHouseRequest): boolean => search.get('query')?.startsWith('INSERT ') === true;

/** @returns what the server of 2018 is to be asked */
export const translateRequest = ({ search, body }: ClickHouseRequest): ClickHouseRequest => {
  const translated = new URLSearchParams([...search].filter(([name]) => knownSettings.has(name)));
  if (isInsert({ search, body })) {
    const insert = translateInsert(search.get('query') as string, body);
    translated.set('query', insert.sql);
    return { search: translated, body: insert.body };
  }
  const sql = withParameters(body.toString('utf8'), search);
  return {
    search: translated,
    body: Buffer.from(sql.startsWith('CREATE TABLE') ? translateQuery(translateTable(sql)) : translateQuery(sql)),
  };
};
