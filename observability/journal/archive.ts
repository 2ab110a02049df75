/**
 * The archive of timestamps: every stamp of the journal, as it was issued, bit for bit, by serial number, imprint, client or time.
 *
 * The journal keeps tokens without certificates, and the chain of each TSU once; a stamp with certReq is put together again from
 * both. It believes the store: whether an entry is the one that was written is for its proof to show (proofs.ts).
 */
import type { ClickHouseClient } from '@clickhouse/client';
import { SigilloError } from '../../config/errors.ts';
import { digestAlgorithms } from '../../pki/algorithms.ts';
import { DerReader, dottedOid, splitDer, tag } from '../../pki/der.ts';
import { attachCertificates } from '../../pki/token-certificates.ts';
import { octetRows, type QueryParameters } from './clickhouse.ts';
import { decodeEvent } from './event-encoding.ts';
import type { JournalEvent } from './events.ts';
import { lookupConditions, type StampKeys } from './stamp-lookup.ts';
import { imprintTail } from './store.ts';
import { toldEvents } from './told-events.ts';

/** A stamp as it was issued. */
export interface ArchivedStamp {
  /** Number of its entry in the journal. */
  readonly sequence: number;
  /** Lower-case hex. */
  readonly serial: string;
  readonly client: string;
  /** genTime, in microseconds since 1970. */
  readonly unixMicros: number;
  readonly certReq: boolean;
  /** DER of the messageImprint. */
  readonly messageImprint: Uint8Array;
  /** The whole TimeStampToken that the client got. */
  readonly token: Uint8Array;
  /** The entry of the journal. */
  readonly octets: Buffer;
}

export interface Imprint {
  readonly digest: keyof typeof digestAlgorithms;
  readonly hash: Uint8Array;
}

/** What to look for; a stamp must match all that is given. */
export interface StampSearch {
  readonly serial?: string;
  /** One of them must be stamped. */
  readonly imprints?: readonly Imprint[];
  readonly client?: string;
  /** Microseconds since 1970: not before, and before. */
  readonly fromMicros?: number;
  readonly toMicros?: number;
  /** Most stamps to give back. */
  readonly limit: number;
}

type IssuedEvent = Extract<JournalEvent, { kind: 'timestamp.issued' }>;

/** Rows of one answer: about 1 MB. */
const pageRows = 1_000;
/** A chain is recorded once for each TSU, and again when Redis comes back empty: what is cached may lack that for so long. */
const chainFreshMs = 60_000;
/** TSUs that stamp or ever stamped; a new one each quarter makes 80 in 20 years. */
const chainsCachedMax = 256;

/** The chains that were recorded for a TSU, in the order of the journal. */
interface RecordedChains {
  readonly readAt: number;
  readonly chains: readonly { readonly sequence: number; readonly certificates: readonly Uint8Array[] }[];
}

const digestNames = Object.keys(digestAlgorithms) as (keyof typeof digestAlgorithms)[];

const hexOf = (octets: Uint8Array): string => Buffer.from(octets.buffer, octets.byteOffset, octets.byteLength).toString('hex');

/** What a messageImprint is of. @throws DerError, JOURNAL_MALFORMED when it is of no digest that we stamp */
export const imprintOf = (messageImprint: Uint8Array): Imprint => {
  const whole = new DerReader(messageImprint).enter(tag.sequence);
  const algorithm = dottedOid(whole.enter(tag.sequence).oid());
  whole.next(tag.octetString);
  const digest = digestNames.find((name) => digestAlgorithms[name].oid === algorithm);
  if (digest === undefined) throw new SigilloError('JOURNAL_MALFORMED', `a stamp over ${algorithm}`);
  return { digest, hash: messageImprint.subarray(whole.contentStart, whole.contentEnd) };
};

/** Whether a messageImprint is one of these; `imprintTail` alone does not tell. */
const isOneOf = (messageImprint: Uint8Array, imprints: readonly Imprint[]): boolean => {
  const { digest, hash } = imprintOf(messageImprint);
  return imprints.some((one) => one.digest === digest && Buffer.compare(one.hash, hash) === 0);
};

interface Filter {
  readonly where: string;
  readonly parameters: QueryParameters;
}

const filterOf = async (store: ClickHouseClient, { serial, imprints, client, fromMicros, toMicros }: StampSearch): Promise<Filter> => {
  const conditions = ["retention = 'timestamp'", "kind = 'timestamp.issued'"];
  const parameters: Record<string, string | number> = {};
  const add = (condition: string, name: string, value: string | number): void => {
    conditions.push(condition);
    parameters[name] = value;
  };
  if (serial !== undefined) add('subject = {serial:String}', 'serial', serial);
  if (client !== undefined) add('actor = {client:String}', 'client', client);
  if (fromMicros !== undefined) add('unixMicros >= {fromMicros:UInt64}', 'fromMicros', fromMicros);
  if (toMicros !== undefined) add('unixMicros < {toMicros:UInt64}', 'toMicros', toMicros);
  const tails = imprints?.map(({ hash }, i) => {
    // Digits beyond what a number holds: it goes as text.
    parameters[`tail${i}`] = imprintTail(hash);
    return `{tail${i}:UInt64}`;
  });
  if (tails !== undefined) conditions.push(`imprintTail IN (${tails.join(', ')})`);
  const keys: StampKeys = {
    ...(serial === undefined ? {} : { subject: '{serial:String}' }),
    ...(tails === undefined ? {} : { imprintTails: tails }),
    ...(client === undefined ? {} : { client: '{client:String}' }),
  };
  return { where: [...conditions, ...(await lookupConditions(store, keys, parameters))].join(' AND '), parameters };
};

export class TimestampArchive {
  readonly #client: ClickHouseClient;
  readonly #chains = new Map<string, RecordedChains>();

  /** The client is closed by who made it. */
  constructor(client: ClickHouseClient) {
    this.#client = client;
  }

  /** The stamp with this serial number. @param serial lower-case hex @throws JOURNAL_STORE_UNAVAILABLE, JOURNAL_MALFORMED */
  async bySerial(serial: string): Promise<ArchivedStamp | undefined> {
    for await (const stamp of this.find({ serial, limit: 1 })) return stamp;
    return undefined;
  }

  /**
   * Stamps that match, the newest first, page by page.
   * @throws JOURNAL_STORE_UNAVAILABLE, also while the chain of a TSU has not arrived yet; JOURNAL_MALFORMED
   */
  async *find(search: StampSearch): AsyncGenerator<ArchivedStamp> {
    const filter = await filterOf(this.#client, search);
    let left = search.limit;
    let before: number | undefined;
    while (left > 0) {
      const asked = Math.min(left, pageRows);
      const rows = await this.#page(filter, before, asked);
      for (const octets of rows) {
        const event = decodeEvent(octets);
        if (event.kind !== 'timestamp.issued') throw new SigilloError('JOURNAL_MALFORMED', `entry ${event.sequence} is no stamp`);
        before = event.sequence;
        if (search.imprints !== undefined && !isOneOf(event.detail.messageImprint, search.imprints)) continue;
        yield await this.#stampOf(event, octets);
        left -= 1;
      }
      if (rows.length < asked) return;
    }
  }

  async #page({ where, parameters }: Filter, before: number | undefined, rows: number): Promise<Buffer[]> {
    const place = before === undefined ? '' : ' AND sequence < {before:UInt64}';
    const query = `SELECT octets FROM journal_events WHERE ${where}${place} ORDER BY sequence DESC LIMIT ${rows}`;
    const question = {
      what: 'look for timestamps',
      query,
      parameters: before === undefined ? parameters : { ...parameters, before },
    };
    return (await octetRows(this.#client, question, 1)).map(([octets]) => octets as Buffer);
  }

  async #stampOf(event: IssuedEvent, octets: Buffer): Promise<ArchivedStamp> {
    const { sequence, subject, actor, unixMicros, detail } = event;
    const { certReq, messageImprint, token, tsu } = detail;
    const whole = certReq ? attachCertificates(token, await this.#chainOf(hexOf(tsu), sequence)) : token;
    return { sequence, serial: subject, client: actor, unixMicros, certReq, messageImprint, token: whole, octets };
  }

  /** The chain that tokens of the TSU carried at that place of the journal. */
  async #chainOf(tsu: string, sequence: number): Promise<readonly Uint8Array[]> {
    const known = this.#chains.get(tsu);
    const recorded = known !== undefined && performance.now() - known.readAt < chainFreshMs ? known : await this.#readChains(tsu);
    // Events and stamps come to the journal on two ways: the first chain may have been overtaken by the first stamps.
    const chain = recorded.chains.findLast((one) => one.sequence < sequence) ?? recorded.chains[0];
    if (chain === undefined) throw new SigilloError('JOURNAL_STORE_UNAVAILABLE', `It does not have the certificates of TSU ${tsu} yet.`);
    return chain.certificates;
  }

  async #readChains(tsu: string): Promise<RecordedChains> {
    // By the number that it had first: what is told again behind all stamps was there before them.
    const { told } = await toldEvents(this.#client, 'tsu.published', tsu);
    const chains = told.map(({ event: { sequence, detail } }) => ({
      sequence,
      certificates: splitDer(detail.chain),
    }));
    const recorded = { readAt: performance.now(), chains };
    if (chains.length > 0) {
      if (this.#chains.size >= chainsCachedMax) this.#chains.clear();
      this.#chains.set(tsu, recorded);
    }
    return recorded;
  }
}
