/** What the commands of the journal have in common: options that name entries, the key of the journal, and the store they read. */
import { SigilloError } from '../../config/errors.ts';
import { homePaths } from '../../config/home.ts';
import type { Config } from '../../config/schema.ts';
import type { CheckpointKey } from '../../observability/journal/checkpoint.ts';
import { instantForms, readInstant } from '../../observability/journal/instants.ts';
import { readJournalKey } from '../../observability/journal/kept-checkpoint.ts';

export const usage = (detail: string): SigilloError => new SigilloError('USAGE', detail);

/** Microseconds since 1970. @throws USAGE */
export const readTime = (option: string, text: string): number => {
  const micros = readInstant(text);
  if (micros === undefined) throw usage(`${option}: ${instantForms}`);
  return micros;
};

/** @throws USAGE */
export const readNumber = (option: string, text: string, { min, max }: { readonly min: number; readonly max: number }): number => {
  const number = /^\d{1,15}$/.test(text) ? Number(text) : Number.NaN;
  if (!(number >= min && number <= max)) throw usage(`${option}: a number from ${min} to ${max}`);
  return number;
};

/** A sequence number. @throws USAGE */
export const readSequence = (option: string, text: string): number => readNumber(option, text, { min: 0, max: 999_999_999_999_999 });

/** Options and their values as the journal keeps them of a reading. */
export const queryText = (options: Readonly<Record<string, unknown>>): string =>
  Object.entries(options)
    .flatMap(([name, value]) => (value === undefined ? [] : [`${name}=${String(value)}`]))
    .join(' ');

/**
 * The keys that checkpoints of the journal are signed with.
 * @param options files of public keys, and the name of the journal; those of the configuration otherwise
 * @throws CONFIG_UNREADABLE, CERTIFICATE_INVALID with the name of the file
 */
export const journalKeysOf = (
  { home, journal }: Config,
  options: { readonly key?: readonly string[] | undefined; readonly origin?: string | undefined },
): CheckpointKey[] => {
  const files = options.key ?? [homePaths(home).journalKey];
  return files.map((file) => {
    const spki = readJournalKey(file);
    if (spki === undefined) throw new SigilloError('CONFIG_UNREADABLE', `${file}: the public key of the journal; --key names another`);
    return { name: options.origin ?? journal.origin, spki };
  });
};
