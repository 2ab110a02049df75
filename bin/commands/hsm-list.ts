/** `sigillo hsm list`: the slots of the configuration as their processes tell of them, and the keys that are in them. */
import type { SigilloError } from '../../config/errors.ts';
import { loadConfig } from '../../config/load.ts';
import type { Config } from '../../config/schema.ts';
import type { RedisClient } from '../../queue/redis.ts';
import { believedState, readSlots, type ToldSlot } from '../../queue/slot-status.ts';
import { openHsm } from '../../signer/hsm-modules.ts';
import { hsmError } from '../../signer/pkcs11-errors.ts';
import { type Hsm, type HsmSlot, resolveHsm } from '../../signer/pkcs11-module.ts';
import { algorithmOf, type ListedKey, listKeys } from '../../signer/token-listing.ts';
import { tsuId } from '../../signer/tsu-folder.ts';
import { endWithReader } from './closed-pipe.ts';
import { commandRedis } from './command-redis.ts';
import { type KnownKeys, openSlot, readKnownKeys, redisIfThere } from './hsm-slots.ts';
import { printable, shorten } from './printable.ts';
import { table } from './table.ts';

export interface HsmListOptions {
  readonly json?: true;
  /** False with --no-login. */
  readonly login: boolean;
}

/** What is in a slot, as it shows itself here. */
type Look = { readonly keys: readonly ListedKey[] } | { readonly error: SigilloError };

const errorCharacters = 60;
const print = (text: string): void => void process.stdout.write(text);

const look = (hsm: Hsm): ReadonlyMap<string, Look> => {
  const module = openHsm(hsm);
  try {
    return new Map(
      hsm.slots.map((slot): [string, Look] => {
        try {
          return [slot.label, { keys: listKeys(openSlot(module, slot, { readWrite: false }).session) }];
        } catch (error) {
          return [slot.label, { error: hsmError(error, `look into token "${slot.label}"`) }];
        }
      }),
    );
  } finally {
    try {
      module.close();
    } catch {
      // A token is away, and the command ends anyway.
    }
  }
};

/** What is told of a slot, for programs. */
const describeTold = (told: ToldSlot): Record<string, unknown> => {
  const { version: _version, slot: _slot, ...status } = told.status;
  return { ...status, state: believedState(told), toldSecondsAgo: Math.round(told.ageMs / 100) / 10 };
};

const describeTsu = (known: KnownKeys, key: ListedKey): { id: string; state: string } | null => {
  const record = key.key === undefined ? undefined : known.tsuOf(key.key.spki);
  return record === undefined ? null : { id: record.id, state: record.state };
};

const useOf = (known: KnownKeys, { label, key }: ListedKey): string | null => known.useOf(label, key?.spki) ?? null;

const describeKey = (known: KnownKeys, one: ListedKey): Record<string, unknown> => ({
  label: one.label,
  type: one.type,
  algorithm: algorithmOf(one) ?? null,
  nonExtractable: one.nonExtractable ?? null,
  sensitive: one.sensitive ?? null,
  local: one.local ?? null,
  spkiSha256: one.key === undefined ? null : tsuId(one.key.spki),
  tsu: describeTsu(known, one),
  use: useOf(known, one),
  fault: one.fault ?? null,
});

interface Picture {
  readonly slots: readonly HsmSlot[];
  readonly told: readonly ToldSlot[];
  /** Undefined with --no-login. */
  readonly looks: ReadonlyMap<string, Look> | undefined;
  readonly known: KnownKeys;
}

const printJson = ({ slots, told, looks, known }: Picture): void => {
  const here = (label: string): Record<string, unknown> => {
    const found = looks?.get(label);
    if (found === undefined) return {};
    if ('error' in found) return { error: { code: found.error.code, message: found.error.message } };
    return { keys: found.keys.map((key) => describeKey(known, key)) };
  };
  const listed = slots.map(({ label, purposes, modulePath }) => ({
    slot: label,
    purposes,
    module: modulePath,
    signers: told.filter(({ status }) => status.slot === label).map(describeTold),
    ...here(label),
  }));
  const elsewhere = told
    .filter(({ status }) => !slots.some(({ label }) => label === status.slot))
    .map((one) => ({ slot: one.status.slot, purposes: [], module: one.status.module, signers: [describeTold(one)] }));
  print(`${JSON.stringify([...listed, ...elsewhere], null, 2)}\n`);
};

const errorText = (at: string, code: string, message: string): string =>
  shorten(printable(`${at.slice(0, 19).replace('T', ' ')} ${code}: ${message}`), errorCharacters);

const toldCells = (told: ToldSlot): string[] => {
  const { node, purpose, process: name, since, sessions, signatures, lastError } = told.status;
  const state = believedState(told);
  const serves = state === 'serving';
  return [
    purpose,
    name,
    state,
    since.slice(0, 19).replace('T', ' '),
    node,
    serves ? `${sessions.open} of ${sessions.max}` : '-',
    serves ? String(signatures.perSecond) : '-',
    lastError === undefined ? '-' : errorText(lastError.at, lastError.code, lastError.message),
  ];
};
const nothingTold = ['-', '-', '-', '-', '-', '-', '-', '-'];

const slotRows = ({ slots, told, looks }: Picture): string[][] => {
  const hereCell = (label: string): string => {
    const found = looks?.get(label);
    if (found === undefined) return '-';
    return 'error' in found ? found.error.code : 'open';
  };
  const rows = slots.flatMap(({ label, purposes, modulePath }) => {
    const own = told.filter(({ status }) => status.slot === label);
    const cells = own.length === 0 ? [nothingTold] : own.map(toldCells);
    return cells.map((one) => [label, purposes.join(','), ...one, hereCell(label), modulePath]);
  });
  const elsewhere = told
    .filter(({ status }) => !slots.some(({ label }) => label === status.slot))
    .map((one) => [one.status.slot, '-', ...toldCells(one), '-', one.status.module]);
  return [...rows, ...elsewhere].map((row) => row.map(printable));
};

const yesNo = (value: boolean | undefined): string => (value === undefined ? '?' : value ? 'yes' : 'no');

const keyRows = ({ looks, known }: Picture): string[][] =>
  [...(looks ?? [])].flatMap(([label, found]) =>
    'error' in found
      ? []
      : found.keys.map((one) => {
          const tsu = describeTsu(known, one);
          const use = tsu === null ? (useOf(known, one) ?? '-') : `TSU ${tsu.id.slice(0, 12)} ${tsu.state}`;
          const cells = [one.label || '(none)', one.type, yesNo(one.nonExtractable), yesNo(one.sensitive), yesNo(one.local)];
          return [label, ...cells, one.fault === undefined ? use : `not usable: ${one.fault}`].map(printable);
        }),
  );

const printTables = (picture: Picture): void => {
  const titles = [
    'SLOT',
    'PURPOSES',
    'FOR',
    'BY',
    'STATE',
    'SINCE (UTC)',
    'HOST',
    'SESSIONS',
    'SIGN/S',
    'LAST ERROR (UTC)',
    'HERE',
    'MODULE',
  ];
  print(table([titles, ...slotRows(picture)]));
  const keys = keyRows(picture);
  if (keys.length > 0) print(`\n${table([['SLOT', 'KEY', 'TYPE', 'NON-EXTRACTABLE', 'SENSITIVE', 'LOCAL', 'BELONGS TO'], ...keys])}`);
  for (const [label, found] of picture.looks ?? [])
    if ('error' in found) print(`\n${printable(`${label} cannot be opened here: ${found.error.code}: ${found.error.message}`)}\n`);
};

const connect = (config: Config, { login }: HsmListOptions): Promise<RedisClient | undefined> =>
  login ? redisIfThere(config) : commandRedis(config);

/** Lists the slots; one that cannot be opened here does not end the list. @throws REDIS_UNAVAILABLE with --no-login, HSM_MODULE_MISSING */
export const listSlotsCommand = async (options: HsmListOptions): Promise<void> => {
  endWithReader();
  const config = loadConfig();
  const hsm = resolveHsm(config);
  const redis = await connect(config, options);
  try {
    if (redis === undefined) process.stderr.write('sigillo: Redis is away: what signers tell, and the register of TSUs, are not shown\n');
    const told = redis === undefined ? [] : await readSlots(redis);
    const known = await readKnownKeys(config, redis);
    const picture: Picture = { slots: hsm.slots, told, looks: options.login ? look(hsm) : undefined, known };
    if (options.json === true) printJson(picture);
    else printTables(picture);
  } finally {
    redis?.disconnect();
  }
};
