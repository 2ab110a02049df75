/**
 * A fingerprint of the configuration in force, for the journal: SHA-256 of its one text, the JSON Canonicalization Scheme (RFC 8785) of
 * the configuration with its defaults. No key of the schema looks like a number, which JavaScript would put before the others.
 */
import { hash } from 'node:crypto';
import type { Config } from './schema.ts';

const compare = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);

/** Keys in the order of their UTF-16 units (RFC 8785, 3.2.3), so that one configuration has one text. */
const sorted = (_key: string, value: unknown): unknown =>
  typeof value === 'object' && value !== null && !Array.isArray(value)
    ? Object.fromEntries(Object.entries(value).toSorted(([a], [b]) => compare(a, b)))
    : value;

/** The configuration with its defaults as JSON without blanks, keys sorted. Nothing is masked: a URL in it may hold a password. */
export const canonicalConfig = (config: Config): string => JSON.stringify(config, sorted);

/** SHA-256 of `canonicalConfig`. */
export const configDigest = (config: Config): Buffer => hash('sha256', canonicalConfig(config), 'buffer');
