/**
 * Brings into the register what the home folder has and the register has not: the TSU that the first start made, those of an earlier
 * release, and all of them when Redis has come back empty. Idempotent; what the register has is never changed by a file.
 */
import type { Session } from 'graphene-pk11';
import type { Config } from '../config/schema.ts';
import type { Logger } from '../observability/log.ts';
import { keyScheme } from '../pki/algorithms.ts';
import { samePublicKey } from '../pki/public-key.ts';
import type { RedisClient } from '../queue/redis.ts';
import { addTsu, changeTsu, readTokens, readTsus, type TellTsuChanges, type TsuRecord, tokenName } from '../queue/tsu-register.ts';
import { findKey } from './token-keys.ts';
import { type ChainOnly, isUnreadable, type OnUnreadable, recordOfChain, type TsuFolder, tsuId } from './tsu-folder.ts';

export interface FillRegisterOptions {
  readonly config: Config;
  readonly redis: RedisClient;
  readonly log: Logger;
  readonly token: { readonly label: string; readonly serial: string; readonly session: Session };
  readonly folder: TsuFolder;
  readonly tell: TellTsuChanges;
  readonly now: () => Date;
}

const spkiOf = ({ chain: [certificate] }: ChainOnly): Buffer => certificate.publicKey.export({ format: 'der', type: 'spki' });

/** The record that a chain without one gets, when its key is in this token; or when it is over, and its key in no token. */
const recordFor = (one: ChainOnly, { token, now, log }: FillRegisterOptions): TsuRecord | undefined => {
  const scheme = keyScheme(one.algorithm);
  const key = findKey(token.session, one.keyLabel, scheme);
  if (key !== undefined && !samePublicKey(key.spki, spkiOf(one))) return undefined; // of another token
  try {
    const record = recordOfChain(one, { label: token.label, serial: token.serial, hasKey: key !== undefined, scheme }, now());
    // A key that is not here may be in another token: only what nobody can use any more is taken without it.
    return key !== undefined || Date.parse(record.usableUntil ?? '') < now().getTime() ? record : undefined;
  } catch (error) {
    if (!isUnreadable(error)) throw error;
    log.warn({ file: one.file, err: error }, 'tsu: a file that is no certificate of a TSU is passed over');
    return undefined;
  }
};

/** A token that nobody has worked on for so long is taken for gone. */
const goneMs = 600_000;

/**
 * A token that was restored from a backup, or replaced, has another serial number and the same keys. Two tokens that both live and
 * have the same keys, as copies of one another, stay apart: the records are those of the first.
 */
const adopt = async ({ redis, token, tell, log, now }: FillRegisterOptions, records: readonly TsuRecord[]): Promise<void> => {
  const seen = await readTokens(redis);
  const isGone = ({ token: label, tokenSerial = '' }: TsuRecord): boolean =>
    now().getTime() - (seen.get(tokenName(label, tokenSerial))?.getTime() ?? 0) > goneMs;
  const strange = records.filter(
    (record) => record.token === token.label && record.tokenSerial !== undefined && record.tokenSerial !== token.serial,
  );
  for (const record of strange.filter((one) => one.state !== 'destroyed' && isGone(one))) {
    const key = findKey(token.session, record.keyLabel, keyScheme(record.algorithm));
    if (key === undefined || tsuId(key.spki) !== record.id) continue;
    const moved = (current: TsuRecord): TsuRecord => ({ ...current, tokenSerial: token.serial });
    await changeTsu(redis, record.id, (current) => [{ kind: 'registered', record: moved(current) }], tell);
    log.warn({ token: token.label, key: record.keyLabel }, 'tsu: the token has another serial number than before, and this key');
  }
};

/**
 * Fills the register from the files of the home folder.
 * @returns the ids that are in it now
 * @throws what Redis or the token says
 */
export const fillRegister = async (options: FillRegisterOptions): Promise<ReadonlySet<string>> => {
  const { redis, token, folder, tell, log } = options;
  const { tsus } = await readTsus(redis);
  await adopt(options, tsus);
  const known = new Set(tsus.map(({ id }) => id));
  const add = async (record: TsuRecord): Promise<void> => {
    if (known.has(record.id)) return;
    known.add(record.id);
    if (!(await addTsu(redis, { kind: 'registered', record }, tell))) return;
    log.info({ token: record.token, key: record.keyLabel, state: record.state }, 'tsu: registered from the home folder');
  };
  const isOurs = (record: TsuRecord): boolean => record.token === token.label && (record.tokenSerial ?? token.serial) === token.serial;
  const records = folder.records();
  for (const record of records.filter(isOurs)) await add(record);
  // What another token's record tells of is that token's business.
  const told = new Set(records.map(({ id }) => id));
  const onUnreadable: OnUnreadable = (file, err) => log.error({ file, err }, 'tsu: a file that cannot be read is passed over');
  for (const one of folder.chains(onUnreadable)) {
    const id = tsuId(spkiOf(one));
    if (known.has(id) || told.has(id)) continue;
    const record = recordFor(one, options);
    if (record !== undefined) await add(record);
  }
  return known;
};
