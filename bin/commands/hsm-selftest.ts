/** `sigillo hsm selftest`: every key of every slot signs, the signature is verified outside the token, and the slot's speed is measured. */
import type { X509Certificate } from 'node:crypto';
import { SigilloError } from '../../config/errors.ts';
import { loadConfig } from '../../config/load.ts';
import type { Config } from '../../config/schema.ts';
import { keyScheme } from '../../pki/algorithms.ts';
import type { TsuRecord } from '../../queue/tsu-register.ts';
import { type OpenHsm, openHsm } from '../../signer/hsm-modules.ts';
import { hsmError } from '../../signer/pkcs11-errors.ts';
import { type HsmSlot, resolveHsm } from '../../signer/pkcs11-module.ts';
import { stampingSessions } from '../../signer/session-count.ts';
import { measureSpeed, type Speed } from '../../signer/slot-speed.ts';
import { findKey, selfTest, type TokenKey } from '../../signer/token-keys.ts';
import { type ListedKey, listKeys } from '../../signer/token-listing.ts';
import { certificateOf, tsuId } from '../../signer/tsu-folder.ts';
import { configuredSlot, type KnownKeys, type OpenedSlot, openSlot, readKnownKeys, redisIfThere } from './hsm-slots.ts';
import { printable } from './printable.ts';
import { table } from './table.ts';

export interface SelftestOptions {
  readonly slot?: string;
}

interface Row {
  readonly key: string;
  readonly type: string;
  readonly ms: number | undefined;
  readonly result: 'ok' | 'skipped' | 'FAILED';
  readonly why: string;
  /** One that signs. */
  readonly usable?: TokenKey;
}

/** A second session that is this much faster shows that the token, or the way to it, does several things at once. */
const gainMin = 1.3;
/** With more of what so many sessions could bring at best, still more may bring more. */
const goodShare = 0.8;
/** A call may take so many times the slowest that was seen before its process is replaced. */
const callMargin = 3;

const print = (text: string): void => void process.stdout.write(text);

const isOf = ({ label, serial }: OpenedSlot, record: TsuRecord): boolean =>
  record.token === label && (record.tokenSerial ?? serial) === serial && record.state !== 'destroyed';

/** The key as its TSU uses it: only the register knows the padding of an RSA key. @throws HSM_KEY_MISMATCH */
const keyOfTsu = (token: OpenedSlot, listed: ListedKey, record: TsuRecord | undefined): TokenKey | undefined => {
  if (record === undefined) return listed.key;
  const key = findKey(token.session, listed.label, keyScheme(record.algorithm));
  if (key !== undefined && tsuId(key.spki) !== record.id)
    throw new SigilloError('HSM_KEY_MISMATCH', `the register has another key under "${listed.label}"`);
  return key;
};

const certificateFor = (known: KnownKeys, key: TokenKey, record: TsuRecord | undefined): X509Certificate | undefined => {
  const other = record ?? known.tsuOf(key.spki);
  return (other === undefined ? undefined : certificateOf(other)) ?? known.chainOf(key.spki);
};

const testKey = (token: OpenedSlot, known: KnownKeys, listed: ListedKey): Row => {
  const { label, type } = listed;
  const row = { key: label || '(none)', type, ms: undefined };
  if (listed.signs === false) return { ...row, result: 'skipped', why: 'it is not for signing' };
  const record = known.tsus.find((one) => one.keyLabel === label && isOf(token, one));
  const began = performance.now();
  try {
    const key = keyOfTsu(token, listed, record);
    if (key === undefined) return { ...row, result: record === undefined ? 'skipped' : 'FAILED', why: listed.fault ?? 'it is not whole' };
    const certificate = certificateFor(known, key, record);
    selfTest(key, certificate);
    const ms = Math.round((performance.now() - began) * 10) / 10;
    return { ...row, ms, result: 'ok', why: certificate === undefined ? 'public key' : 'certificate', usable: key };
  } catch (error) {
    const { code, message } = hsmError(error, `sign with the key "${label}"`);
    return { ...row, result: 'FAILED', why: `${code}: ${message}` };
  }
};

/** TSUs that may stamp, or will, with no key here. */
const missingKeys = (token: OpenedSlot, known: KnownKeys, listed: readonly ListedKey[]): Row[] =>
  known.tsus
    .filter((one) => isOf(token, one) && (one.state === 'active' || one.state === 'certified') && one.compromised === undefined)
    .filter(({ keyLabel }) => !listed.some(({ label }) => label === keyLabel))
    .map(({ keyLabel, algorithm }) => ({
      key: keyLabel,
      type: algorithm,
      ms: undefined,
      result: 'FAILED',
      why: 'HSM_KEY_MISSING: the register has it',
    }));

/** What the speed says of the settings. */
export const adviceOn = ({ one, several, callMsMax }: { one: Speed; several: Speed; callMsMax: number }): string[] => {
  const gain = several.perSecond / one.perSecond;
  const advice: string[] = [];
  if (several.sessions === 1) advice.push('hsm.slots[].sessions, or the token, allows one session: nothing to choose.');
  else if (gain < gainMin)
    advice.push(
      'More sessions bring nothing: the token signs one after the other, or the cores of this machine do the work. Leave hsm.slots[].sessions and signer.workers as they are.',
    );
  else {
    const makesUse =
      gain > several.sessions * goodShare
        ? `all ${several.sessions}, and perhaps more: try hsm.slots[].sessions ${several.sessions * 2}`
        : `about ${Math.ceil(gain)} of ${several.sessions}: hsm.slots[].sessions is enough`;
    advice.push(
      `At once ${gain.toFixed(1)} times as fast as one after the other. The token makes use of ${makesUse}. The signer opens as many as it makes use of by itself.`,
    );
  }
  const slowest = Math.max(one.slowestMs, several.slowestMs);
  if (slowest * callMargin > callMsMax)
    advice.push(
      `The slowest signature took ${slowest} ms: set signer.callMsMax to ${Math.ceil((slowest * callMargin) / 100) * 100} or more (now ${callMsMax}).`,
    );
  return advice;
};

const showSpeed = async (config: Config, module: OpenHsm, slot: HsmSlot, key: TokenKey): Promise<void> => {
  const embedded = config.hsm.mode === 'embedded';
  const speed = await measureSpeed({
    modulePath: slot.modulePath,
    slot: module.findSlot(slot.label).handle,
    key,
    sessions: stampingSessions(config, slot, module.sessionLimit(slot.label)),
    sessionsPerSecond: embedded ? 1_000 : config.signer.sessionsPerSecond,
  });
  const say = ({ sessions, perSecond, slowestMs }: Speed): string =>
    `  ${String(sessions).padStart(3)} ${sessions === 1 ? 'session ' : 'sessions'}  ${perSecond} signatures a second, the slowest ${slowestMs} ms\n`;
  print(`\n${printable(`${slot.label}, key "${key.label}"`)}:\n${say(speed.one)}${say(speed.several)}`);
  // The embedded token has one session for each core, and no slots to configure.
  const advice = embedded ? [] : adviceOn({ ...speed, callMsMax: config.signer.callMsMax });
  for (const line of advice) print(`  ${line}\n`);
};

/** A TSU's key where there is one. */
const keyToMeasure = (known: KnownKeys, rows: readonly Row[]): TokenKey | undefined => {
  const usable = rows.flatMap(({ usable }) => usable ?? []);
  return usable.find(({ spki }) => known.tsuOf(spki)?.state === 'active') ?? usable.find(({ spki }) => known.chainOf(spki)) ?? usable[0];
};

interface Tested {
  readonly slot: HsmSlot;
  readonly rows: readonly Row[];
}

const testSlot = (module: OpenHsm, known: KnownKeys, slot: HsmSlot): Tested => {
  const began = performance.now();
  try {
    const token = openSlot(module, slot, { readWrite: false });
    const keys = listKeys(token.session);
    const opened: Row = {
      key: '-',
      type: '-',
      ms: Math.round(performance.now() - began),
      result: 'ok',
      why: `opened; keys in it: ${keys.length}`,
    };
    return {
      slot,
      rows: [opened, ...keys.map((key) => testKey(token, known, key)), ...missingKeys(token, known, keys)],
    };
  } catch (error) {
    const { code, message } = hsmError(error, `open token "${slot.label}"`);
    return { slot, rows: [{ key: '-', type: '-', ms: undefined, result: 'FAILED', why: `${code}: ${message}` }] };
  }
};

const printTested = (tested: readonly Tested[]): void => {
  const rows = tested.flatMap(({ slot, rows: own }) =>
    own.map(({ key, type, ms, result, why }) => [slot.label, key, type, ms === undefined ? '-' : String(ms), result, why].map(printable)),
  );
  print(table([['SLOT', 'KEY', 'TYPE', 'MS', 'RESULT', ''], ...rows]));
};

/** Tests the slots of the configuration, or one. @returns false when something failed @throws USAGE, HSM_MODULE_MISSING */
export const selftestCommand = async (options: SelftestOptions): Promise<boolean> => {
  const config = loadConfig();
  const hsm = resolveHsm(config);
  const slots = options.slot === undefined ? hsm.slots : [configuredSlot(hsm, options.slot)];
  const redis = await redisIfThere(config);
  const module = openHsm(hsm);
  try {
    if (redis === undefined) process.stderr.write('sigillo: Redis is away: keys are tested without the register of TSUs\n');
    const known = await readKnownKeys(config, redis);
    const tested = slots.map((slot) => testSlot(module, known, slot));
    printTested(tested);
    let failed = tested.some(({ rows }) => rows.some(({ result }) => result === 'FAILED'));
    for (const { slot, rows } of tested) {
      const key = slot.purposes.includes('timestamp') ? keyToMeasure(known, rows) : undefined;
      if (key === undefined) continue;
      try {
        await showSpeed(config, module, slot, key);
      } catch (error) {
        failed = true;
        print(`\n${printable(`${slot.label} was not measured: ${hsmError(error, 'measure').message}`)}\n`);
      }
    }
    return !failed;
  } finally {
    redis?.disconnect();
    try {
      module.close();
    } catch {
      // A token is away, which its row says.
    }
  }
};
