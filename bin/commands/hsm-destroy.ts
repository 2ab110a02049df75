/** `sigillo hsm destroy`: destroys a key pair in a token, for good; never one that is needed. */
import { createInterface } from 'node:readline';
import { syncTree } from '../../config/atomic-file.ts';
import { SigilloError } from '../../config/errors.ts';
import { homePaths } from '../../config/home.ts';
import type { Config } from '../../config/schema.ts';
import { tsuChangeTeller } from '../../observability/journal/tsu-events.ts';
import { createLogger } from '../../observability/log.ts';
import { samePublicKey } from '../../pki/public-key.ts';
import type { RedisClient } from '../../queue/redis.ts';
import { changeTsu, type TsuChange, type TsuRecord } from '../../queue/tsu-register.ts';
import { createApprovals } from '../../signer/dual-control.ts';
import { openHsm } from '../../signer/hsm-modules.ts';
import { destroyKeyPair, destroyRemains } from '../../signer/key-destruction.ts';
import { resolveHsm } from '../../signer/pkcs11-module.ts';
import { keyState, type TokenKey } from '../../signer/token-keys.ts';
import { listKeys } from '../../signer/token-listing.ts';
import { requireLogin } from '../../signer/token-login.ts';
import { tsuId } from '../../signer/tsu-folder.ts';
import { tellKeyDestroyed } from '../setup-events.ts';
import type { CommandOperator } from './command-redis.ts';
import { configuredSlot, deliverEvents, type KnownKeys, type OpenedSlot, openSlot, readKnownKeys } from './hsm-slots.ts';
import { holdToken } from './token-lease.ts';
import { withRegister } from './tsu.ts';

export interface DestroyOptions {
  readonly slot: string;
  readonly label: string;
  readonly yes?: true;
  readonly force?: true;
}

/** What is destroyed. A part that an interrupted generation has left behind has no key. */
interface Target {
  readonly token: OpenedSlot;
  readonly label: string;
  readonly key: TokenKey | undefined;
  /** The TSU that it is, in this token. */
  readonly tsu: TsuRecord | undefined;
}

const print = (text: string): void => void process.stdout.write(text);

/** @throws HSM_KEY_IN_USE */
const checkNeed = (known: KnownKeys, { label, key }: Pick<Target, 'label' | 'key'>, { force }: DestroyOptions): void => {
  const refuse = (why: string): never => {
    throw new SigilloError('HSM_KEY_IN_USE', why);
  };
  const use = known.useOf(label, key?.spki);
  if (use !== undefined && force !== true) refuse(`"${label}" is the key of the ${use} (--force).`);
  if (key === undefined) return;
  // A key that is in several tokens is one key: what is said of it holds for each of its places.
  const tsu = known.tsuOf(key.spki);
  if (tsu?.state === 'active' || tsu?.state === 'certified')
    refuse(`"${label}" is the key of the TSU ${tsu.id.slice(0, 12)}, which is ${tsu.state}.`);
  if (tsu === undefined && known.chainOf(key.spki) !== undefined)
    refuse(`"${label}" has the certificate of a TSU that the register does not know yet: start the lifecycle process first.`);
};

/** @throws HSM_KEY_MISSING, HSM_KEY_MISMATCH, HSM_KEY_IN_USE */
const findTarget = (token: OpenedSlot, known: KnownKeys, options: DestroyOptions): Target => {
  const { label } = options;
  requireLogin(token.session);
  const state = keyState(token.session, label);
  if (state === 'absent') throw new SigilloError('HSM_KEY_MISSING', `"${label}" in token ${token.label}`);
  const listed = listKeys(token.session).find((one) => one.label === label);
  const key = state === 'whole' ? listed?.key : undefined;
  if (state === 'whole' && key === undefined)
    throw new SigilloError(
      'HSM_KEY_MISMATCH',
      `"${label}" is ${listed?.type ?? 'no private key'}: ${listed?.fault ?? 'it cannot be read'}. It is not ours to destroy.`,
    );
  checkNeed(known, { label, key }, options);
  const tsu = key === undefined ? undefined : known.tsuOf(key.spki);
  const here = tsu?.token === token.label && (tsu.tokenSerial ?? token.serial) === token.serial && tsu.state !== 'destroyed';
  return { token, label, key, tsu: here ? tsu : undefined };
};

const firstLine = async (): Promise<string> => {
  for await (const line of createInterface({ input: process.stdin })) return line;
  return '';
};

/** @throws USAGE when the label is not typed again */
const confirm = async ({ token, label, key }: Target): Promise<void> => {
  const fingerprint = key === undefined ? 'a part of a pair' : tsuId(key.spki);
  process.stderr.write(`Key "${label}" in token ${token.label} (${fingerprint}) is destroyed for good.\nType its label again: `);
  if ((await firstLine()).trim() !== label)
    throw new SigilloError('USAGE', 'The label was not typed again (--yes asks nothing). Nothing was destroyed.');
};

/** If this is interrupted, who comes next knows that the key was there, and who has destroyed it. */
const noteBegun = async (redis: RedisClient, { id }: TsuRecord, operator: CommandOperator): Promise<void> => {
  const destructionBegunAt = new Date().toISOString();
  const decide = (current: TsuRecord): TsuChange[] => [{ kind: 'destructionBegun', record: { ...current, destructionBegunAt } }];
  await changeTsu(redis, id, decide, tsuChangeTeller(operator));
};

/** Takes the key out of the register, which tells the journal. @throws HSM_KEY_IN_USE when somebody has put it to use meanwhile */
const noteDestroyed = async (redis: RedisClient, { id }: TsuRecord, operator: CommandOperator): Promise<void> => {
  const decide = (current: TsuRecord): TsuChange[] =>
    current.state === 'destroyed'
      ? []
      : [{ kind: 'destroyed', record: { ...current, state: 'destroyed', destroyedAt: new Date().toISOString() } }];
  await changeTsu(redis, id, decide, tsuChangeTeller(operator));
};

const destroy = async (
  config: Config,
  redis: RedisClient,
  { token, label, key, tsu }: Target,
  operator: CommandOperator,
): Promise<void> => {
  if (tsu !== undefined) await noteBegun(redis, tsu, operator);
  if (key === undefined) destroyRemains(token.session, label);
  else destroyKeyPair(token.session, { label, scheme: key.scheme, spki: key.spki });
  if (config.hsm.mode === 'embedded') syncTree(homePaths(config.home).tokenFolder);
  if (tsu !== undefined) await noteDestroyed(redis, tsu, operator);
  else if (key !== undefined) {
    tellKeyDestroyed(config, token.label, key, operator);
    await deliverEvents(config, redis);
  }
};

/** Asks who must agree, and destroys. @throws APPROVAL_NEEDED, HSM_* */
const carryOut = async (config: Config, redis: RedisClient, target: Target, operator: CommandOperator): Promise<void> => {
  const { token, label, key } = target;
  const log = createLogger(config.log, 'hsm-destroy');
  const approvals = createApprovals({ config, redis, log, now: () => new Date(), by: operator });
  const step = { action: 'destroy', token: token.label, keyLabel: label, id: key === undefined ? undefined : tsuId(key.spki) } as const;
  if (!(await approvals.permit(step))) throw new SigilloError('APPROVAL_NEEDED', '`sigillo approve --list` shows the ceremony.');
  await destroy(config, redis, target, operator);
  await approvals.executed(step);
};

const isSameKey = (one: Target, other: Target): boolean =>
  one.key === undefined || other.key === undefined ? one.key === other.key : samePublicKey(one.key.spki, other.key.spki);

/** Destroys a key pair. @throws HSM_KEY_IN_USE, HSM_KEY_MISSING, APPROVAL_NEEDED, USAGE, HSM_*, REDIS_UNAVAILABLE */
export const destroyCommand = (options: DestroyOptions): Promise<void> =>
  withRegister(async (redis, config, operator) => {
    const hsm = resolveHsm(config);
    const slot = configuredSlot(hsm, options.slot);
    const module = openHsm(hsm);
    try {
      const token = openSlot(module, slot, { readWrite: true });
      const find = async (): Promise<Target> => findTarget(token, await readKnownKeys(config, redis), options);
      const asked = await find();
      if (config.dualControl === undefined && options.yes !== true) await confirm(asked);
      // Whoever types takes their time, which the calendar must not wait for; so what was asked is looked at again.
      const lease = await holdToken(redis, token.label, token.serial);
      try {
        const target = await find();
        if (!isSameKey(asked, target)) throw new SigilloError('HSM_KEY_MISMATCH', `"${options.label}" is another key by now`);
        await carryOut(config, redis, target, operator);
      } finally {
        await lease.release().catch(() => undefined); // best effort: it ends by itself
      }
      print(`Key "${options.label}" in token ${slot.label} is destroyed.\n`);
    } finally {
      module.close();
    }
  });
