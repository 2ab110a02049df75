/**
 * The TSUs that a signer stamps with, in memory that its threads share: the main thread writes them, rarely, and each thread looks at
 * one number before each batch. Messages would not do: a thread that waits for work reads none.
 */
import { invariant } from '../config/errors.ts';
import type { Tsu } from './stamp-task.ts';

/** A hundred chains of three certificates with 1.5 KB each, in base64. */
const octetsMax = 1024 * 1024;
const versionAt = 0;
const lengthAt = 1;
const headOctets = 2 * Int32Array.BYTES_PER_ELEMENT;

const encode = (tsus: readonly Tsu[]): Buffer =>
  Buffer.from(JSON.stringify(tsus.map((tsu) => ({ ...tsu, chain: tsu.chain.map((der) => Buffer.from(der).toString('base64')) }))));

const decode = (octets: Buffer): Tsu[] =>
  (JSON.parse(octets.toString('utf8')) as (Omit<Tsu, 'chain'> & { chain: string[] })[]).map((tsu) => ({
    ...tsu,
    chain: tsu.chain.map((der) => new Uint8Array(Buffer.from(der, 'base64'))),
  }));

/** Replaces all TSUs. Only one thread may do so. */
export const writeTsus = (memory: SharedArrayBuffer, tsus: readonly Tsu[]): void => {
  const octets = encode(tsus);
  invariant(octets.length <= octetsMax, `${tsus.length} TSUs take ${octets.length} octets`);
  const head = new Int32Array(memory, 0, 2);
  // An odd version says that the octets are being replaced: who reads meanwhile reads again.
  Atomics.add(head, versionAt, 1);
  new Uint8Array(memory, headOctets).set(octets);
  Atomics.store(head, lengthAt, octets.length);
  Atomics.add(head, versionAt, 1);
};

/** Memory that holds these TSUs. */
export const createTsuMemory = (tsus: readonly Tsu[]): SharedArrayBuffer => {
  const memory = new SharedArrayBuffer(headOctets + octetsMax);
  writeTsus(memory, tsus);
  return memory;
};

/** A number that changes with every `writeTsus`. */
export const tsuVersion = (memory: SharedArrayBuffer): number => Atomics.load(new Int32Array(memory, 0, 2), versionAt);

/** The TSUs, and the version they have. */
export const readTsus = (memory: SharedArrayBuffer): { readonly version: number; readonly tsus: Tsu[] } => {
  const head = new Int32Array(memory, 0, 2);
  for (;;) {
    const version = Atomics.load(head, versionAt);
    const octets = Buffer.from(new Uint8Array(memory, headOctets, Atomics.load(head, lengthAt)));
    if (version % 2 === 0 && Atomics.load(head, versionAt) === version) return { version, tsus: decode(octets) };
  }
};
