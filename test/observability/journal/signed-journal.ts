/** A journal for tests, as a writer makes it: chained, with checkpoints signed by a key in software, timestamped or not, and a store to put it into. */
import { createHash, generateKeyPairSync, type KeyObject, randomBytes, sign } from 'node:crypto';
import type { ClickHouseClient } from '@clickhouse/client';
import { type ChainHead, emptyChain, headBehind, type SealedEvent, sealEvent } from '../../../observability/journal/chain.ts';
import { type CheckpointKey, checkpointText, signedCheckpoint } from '../../../observability/journal/checkpoint.ts';
import { encodeEvent } from '../../../observability/journal/event-encoding.ts';
import type { EventDraft, JournalEvent } from '../../../observability/journal/events.ts';
import { MerkleTree } from '../../../observability/journal/merkle.ts';
import type { StoredPlace } from '../../../observability/journal/reader.ts';
import { JournalStore, partitionOf } from '../../../observability/journal/store.ts';
import { digestAlgorithms } from '../../../pki/algorithms.ts';
import { makeHierarchy, makeSoftwareTsu, makeTemplate, stampWith } from '../../support/software-tsu.ts';
import { TestPki } from '../../support/timestamp-fixtures.ts';
import { messageImprint } from '../../support/tsp-requests.ts';

export const origin = 'tsa.example.com/journal';

export interface JournalKey extends CheckpointKey {
  readonly privateKey: KeyObject;
}
export const journalKey = (name = origin): JournalKey => {
  const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  return { name, spki: publicKey.export({ format: 'der', type: 'spki' }), privateKey };
};
export const noteOf = (key: JournalKey, size: number, root: Uint8Array): string => {
  const checkpoint = { origin: key.name, size, root };
  return signedCheckpoint(checkpoint, key.spki, sign('sha256', Buffer.from(checkpointText(checkpoint)), key.privateKey));
};

/** Stamps octets as a TSU does, with a token that carries no certificates. */
export interface TestTsu {
  readonly roots: readonly Uint8Array[];
  /** DER one behind the other, as `tsu.published` has it. */
  readonly chain: Buffer;
  stamp(octets: Uint8Array, unixMillis: number): Buffer;
}
export const testTsu = (pki: TestPki): TestTsu => {
  const hierarchy = makeHierarchy(pki);
  const tsu = makeSoftwareTsu(pki, hierarchy, 'ec-p256');
  const template = makeTemplate(tsu);
  return {
    roots: [hierarchy.root.certificate.raw],
    chain: Buffer.concat(tsu.chain),
    stamp: (octets, unixMillis) => {
      const imprint = messageImprint(digestAlgorithms.sha256.oid, createHash('sha256').update(octets).digest());
      const serial = Buffer.concat([Buffer.of(0x40), randomBytes(19)]);
      return stampWith(tsu, template, 'sha256', { messageImprint: imprint, nonce: undefined, serial, unixMillis });
    },
  };
};
export { TestPki };

type Told = Partial<Omit<EventDraft, 'kind' | 'detail'>>;
const common = { clock: 'trusted', node: 'node-1', role: 'system', actor: 'journal', subject: 'x', outcome: 'success' } as const;

export class TestJournal {
  readonly key: JournalKey;
  readonly sealed: SealedEvent[] = [];
  readonly tree = new MerkleTree();
  head: ChainHead = emptyChain;
  unixMicros: number;

  constructor(key: JournalKey, start = Date.UTC(2027, 0, 10)) {
    this.key = key;
    this.unixMicros = start * 1_000;
  }

  get size(): number {
    return this.head.size;
  }

  append(event: Pick<EventDraft, 'kind' | 'detail'> & Told): JournalEvent {
    this.unixMicros += 1_000;
    const sealed = sealEvent(this.head, { ...common, unixMicros: this.unixMicros, ...event } as EventDraft);
    this.sealed.push(sealed);
    this.head = headBehind(sealed);
    this.tree.append(sealed.hash);
    return sealed.event;
  }

  stopped(reason: string): JournalEvent {
    return this.append({ kind: 'service.stopped', detail: { reason } });
  }

  stamp(): JournalEvent {
    const detail = {
      tsu: randomBytes(32),
      policy: randomBytes(10),
      messageImprint: randomBytes(51),
      certReq: true,
      token: randomBytes(120),
    };
    return this.append({ kind: 'timestamp.issued', role: 'client', subject: randomBytes(12).toString('hex'), detail });
  }

  /** A checkpoint of all that is there; `append` it later. */
  checkpoint(stamp?: TestTsu['stamp']): Pick<EventDraft, 'kind' | 'detail'> & Told {
    const note = noteOf(this.key, this.size, this.tree.root());
    const token = stamp?.(Buffer.from(note), Math.floor(this.unixMicros / 1_000));
    return { kind: 'journal.checkpoint', subject: String(this.size), detail: { note, ...(token === undefined ? {} : { token }) } } as never;
  }

  entriesOf(partition: string): SealedEvent[] {
    return this.sealed.filter(({ event }) => partitionOf(event) === partition);
  }

  /** The event that tells what goes with a partition. */
  expiry(partition: string): Pick<EventDraft, 'kind' | 'detail'> & Told {
    const gone = this.entriesOf(partition);
    const digest = createHash('sha256');
    for (const { event, hash } of gone) {
      const number = Buffer.alloc(8);
      number.writeBigUInt64BE(BigInt(event.sequence));
      digest.update(number).update(hash);
    }
    const [first, last] = [gone[0] as SealedEvent, gone.at(-1) as SealedEvent];
    return {
      kind: 'journal.expired',
      subject: partition,
      detail: {
        retention: partition.split('-')[0] as string,
        first: first.event.sequence,
        last: last.event.sequence,
        entries: gone.length,
        lastHash: last.hash,
        hashesSha256: digest.digest(),
      },
    } as never;
  }

  /** The places as a reader gives them when these partitions are gone. */
  places(gone: readonly string[] = []): StoredPlace[] {
    return this.sealed.map(({ event, octets, hash }): StoredPlace => {
      const partition = partitionOf(event);
      return gone.includes(partition) ? { kind: 'expired', sequence: event.sequence, hash, partition } : { kind: 'entry', octets };
    });
  }

  /** Seals everything anew from an entry on, as somebody does who can write to the store and has no key. */
  rewriteFrom(sequence: number, change: (event: JournalEvent) => JournalEvent): SealedEvent[] {
    let head = sequence === 0 ? emptyChain : headBehind(this.sealed[sequence - 1] as SealedEvent);
    return this.sealed.slice(sequence).map(({ event }) => {
      const sealed = sealEvent(head, event.sequence === sequence ? change(event) : event);
      head = headBehind(sealed);
      return sealed;
    });
  }
}

export const editedOctets = (event: JournalEvent): Buffer => encodeEvent({ ...event, node: `${event.node}x` });

const rowOf = (sequence: number, { event, octets }: Pick<SealedEvent, 'event' | 'octets'>) => {
  const { kind, subject, unixMicros } = event;
  const [retention] = partitionOf(event).split('-');
  return { sequence, unixMicros, kind, subject, retention, octetsBase64: octets.toString('base64') };
};

const columnsOf = {
  journal_events: 'sequence, unixMicros, clock, node, role, actor, kind, subject, outcome, retention, imprintTail, octets',
  journal_expired: 'sequence, partition, hash',
  journal_tree: 'level, number, hash',
} as const;

/** A store with statements to tamper with it, and to put everything back. */
export class TamperedStore {
  readonly client: ClickHouseClient;
  readonly store: JournalStore;

  private constructor(store: JournalStore) {
    this.client = store.client;
    this.store = store;
  }

  static async open(client: ClickHouseClient): Promise<TamperedStore> {
    return new TamperedStore(await JournalStore.open(client));
  }

  #isChanged = false;

  async run(query: string): Promise<void> {
    this.#isChanged = true;
    await this.client.command({ query, clickhouse_settings: { mutations_sync: '1', insert_deduplicate: 0 } });
  }

  async insert(sealed: readonly SealedEvent[]): Promise<void> {
    await this.#insert(sealed.map((one) => rowOf(one.event.sequence, one)));
  }

  /** A row as somebody writes it who has his own idea of its number. */
  async put(sequence: number, sealed: Pick<SealedEvent, 'event' | 'octets'>): Promise<void> {
    await this.#insert([rowOf(sequence, sealed)]);
  }

  // All partitions in one go: the store's own insert makes one for each run, which takes its time when they alternate.
  async #insert(values: readonly ReturnType<typeof rowOf>[]): Promise<void> {
    this.#isChanged = true;
    const columns = ['sequence', 'unixMicros', 'kind', 'subject', 'retention', 'octetsBase64'] as [string, ...string[]];
    const clickhouse_settings = { insert_deduplicate: 0 } as const;
    await this.client.insert({ table: 'journal_events', values, columns, format: 'JSONEachRow', clickhouse_settings });
  }

  /** What stays is written anew: a mutation waits most of a second for the engine to begin. */
  async delete(where: string, table: keyof typeof columnsOf = 'journal_events'): Promise<void> {
    // Of a row that was written twice the last one counts: which that was would be lost with the parts that the two are in.
    const last = table === 'journal_events' ? table : `${table} FINAL`;
    await this.run(`CREATE TABLE ${table}_rest AS ${table}`);
    await this.run(`INSERT INTO ${table}_rest (${columnsOf[table]}) SELECT ${columnsOf[table]} FROM ${last} WHERE NOT (${where})`);
    await this.run(`TRUNCATE TABLE ${table}`);
    await this.#copy(`${table}_rest`, table);
    await this.run(`DROP TABLE ${table}_rest`);
  }

  async replace(sequence: number, sealed: Pick<SealedEvent, 'event' | 'octets'>): Promise<void> {
    await this.delete(`sequence = ${sequence}`);
    await this.put(sequence, sealed);
  }

  /** What the expiry of a partition does: its hashes stay. */
  async expire(partition: string): Promise<void> {
    const [retention, month] = partition.split('-');
    const where = `retention = '${retention}' AND toYYYYMM(fromUnixTimestamp64Micro(toInt64(unixMicros), 'UTC')) = ${month}`;
    // A FixedString that becomes a String loses the zeros at its end.
    await this.run(
      `INSERT INTO journal_expired (sequence, partition, hash)
       SELECT sequence, '${partition}', unhex(hex(SHA256(concat(char(0), octets)))) FROM journal_events WHERE ${where}`,
    );
    await this.delete(where);
  }

  readonly #tables = Object.keys(columnsOf);

  async save(): Promise<void> {
    for (const table of this.#tables) {
      await this.run(`DROP TABLE IF EXISTS ${table}_kept`);
      await this.run(`CREATE TABLE ${table}_kept AS ${table}`);
      await this.#copy(table, `${table}_kept`);
    }
    this.#isChanged = false;
  }

  async restore(): Promise<void> {
    if (!this.#isChanged) return;
    for (const table of this.#tables) {
      await this.run(`TRUNCATE TABLE ${table}`);
      await this.#copy(`${table}_kept`, table);
    }
    this.#isChanged = false;
  }

  /** Parts are linked, not written again. */
  async #copy(from: string, to: string): Promise<void> {
    await this.run(`ALTER TABLE ${to} ATTACH PARTITION ALL FROM ${from}`);
  }
}
