/** `sigillo hsm keygen`: a key pair made in a token, by an operator. */
import { createPublicKey } from 'node:crypto';
import { SigilloError } from '../../config/errors.ts';
import { loadConfig } from '../../config/load.ts';
import { type Config, type KeyPurpose, tsuAlgorithms } from '../../config/schema.ts';
import { createLogger } from '../../observability/log.ts';
import { keyScheme } from '../../pki/algorithms.ts';
import { parseTsuFileName } from '../../pki/tsu-files.ts';
import type { RedisClient } from '../../queue/redis.ts';
import { journalKeyAlgorithm, journalKeyLabel } from '../../signer/checkpoint-key.ts';
import { createApprovals } from '../../signer/dual-control.ts';
import { openHsm } from '../../signer/hsm-modules.ts';
import { type HsmSlot, resolveHsm } from '../../signer/pkcs11-module.ts';
import { keyState, type TokenKey } from '../../signer/token-keys.ts';
import { tsuId } from '../../signer/tsu-folder.ts';
import { caKeyLabels } from '../demonstration-pki.ts';
import { makeKey } from '../make-key.ts';
import { commandOperator, commandRedis } from './command-redis.ts';
import { configuredSlot, deliverEvents, type OpenedSlot, openSlot, redisIfThere } from './hsm-slots.ts';
import { operatorName } from './operator.ts';
import { holdToken } from './token-lease.ts';

export interface KeygenOptions {
  readonly slot: string;
  readonly label: string;
  readonly algorithm: string;
}

type Algorithm = (typeof tsuAlgorithms)[number];

const readAlgorithm = (name: string): Algorithm => {
  const algorithm = tsuAlgorithms.find((one) => one === name);
  if (algorithm === undefined) throw new SigilloError('USAGE', `--algorithm is one of ${tsuAlgorithms.join(', ')}`);
  return algorithm;
};

/** What a label is reserved for, and with which algorithm; other labels may be of any. */
const reservation = (label: string): { readonly purpose: KeyPurpose; readonly algorithm: string } | undefined => {
  if (label === journalKeyLabel) return { purpose: 'journal', algorithm: journalKeyAlgorithm };
  if (Object.values<string>(caKeyLabels).includes(label)) return { purpose: 'authority', algorithm: 'ec-p384' };
  const tsu = parseTsuFileName(`${label}.pem`);
  return tsu === undefined ? undefined : { purpose: 'timestamp', algorithm: tsu.algorithm };
};

/** @throws USAGE, HSM_KEY_PURPOSE */
const checkLabel = (slot: HsmSlot, label: string, algorithm: Algorithm): void => {
  if (!/^[^\p{Cc}]{1,128}$/u.test(label)) throw new SigilloError('USAGE', '--label is 1 to 128 characters without control characters');
  const reserved = reservation(label);
  if (reserved === undefined) return;
  const { purpose, algorithm: wanted } = reserved;
  if (!slot.purposes.includes(purpose))
    throw new SigilloError(
      'HSM_KEY_PURPOSE',
      `"${label}" is a key for ${purpose}, and slot "${slot.label}" is for ${slot.purposes.join(', ')}`,
    );
  if (algorithm !== wanted) throw new SigilloError('HSM_KEY_PURPOSE', `"${label}" is the name of a key of ${wanted}`);
};

/** Makes the key when operators agree. @throws HSM_KEY_EXISTS, APPROVAL_NEEDED, HSM_* */
const generate = async (
  config: Config,
  redis: RedisClient | undefined,
  token: OpenedSlot,
  { label, algorithm }: { label: string; algorithm: Algorithm },
): Promise<TokenKey> => {
  const state = keyState(token.session, label);
  if (state === 'unfinished') throw new SigilloError('HSM_KEY_EXISTS', `There is a part of "${label}": sigillo hsm destroy takes it away.`);
  if (state === 'whole') throw new SigilloError('HSM_KEY_EXISTS', `"${label}" in token ${token.label}.`);
  if (redis === undefined) return makeKey(config, token, label, keyScheme(algorithm), { role: 'operator', actor: operatorName() });
  const operator = await commandOperator(redis);
  const log = createLogger(config.log, 'hsm-keygen');
  const approvals = createApprovals({ config, redis, log, now: () => new Date(), by: operator });
  const step = { action: 'generate', token: token.label, keyLabel: label, id: undefined } as const;
  if (!(await approvals.permit(step)))
    throw new SigilloError(
      'APPROVAL_NEEDED',
      '`sigillo approve --list` shows the ceremony; a label that had one before needs another name.',
    );
  const key = makeKey(config, token, label, keyScheme(algorithm), operator);
  await approvals.executed(step);
  return key;
};

/** Makes a key, and prints its fingerprint and public half. @throws USAGE, HSM_*, APPROVAL_NEEDED; with dual control REDIS_UNAVAILABLE */
export const keygenCommand = async ({ slot: slotLabel, label, algorithm: name }: KeygenOptions): Promise<void> => {
  const config = loadConfig();
  const algorithm = readAlgorithm(name);
  const hsm = resolveHsm(config);
  const slot = configuredSlot(hsm, slotLabel);
  checkLabel(slot, label, algorithm);
  // A first key may well be made before anything runs: then the journal hears of it at the first start.
  const redis = config.dualControl === undefined ? await redisIfThere(config) : await commandRedis(config);
  const module = openHsm(hsm);
  try {
    const token = openSlot(module, slot, { readWrite: true });
    const lease = redis === undefined ? undefined : await holdToken(redis, token.label, token.serial);
    let key: TokenKey;
    try {
      key = await generate(config, redis, token, { label, algorithm });
    } finally {
      await lease?.release().catch(() => undefined); // best effort: it ends by itself
    }
    const told = await deliverEvents(config, redis);
    const pem = createPublicKey({ key: Buffer.from(key.spki), format: 'der', type: 'spki' }).export({ format: 'pem', type: 'spki' });
    process.stdout.write(
      `Key "${label}" (${algorithm}) is made in token ${slot.label}.\n  SHA-256 of SubjectPublicKeyInfo  ${tsuId(key.spki)}\n${pem}`,
    );
    if (!told) process.stdout.write('The journal hears of it when a signer starts on this home folder.\n');
  } finally {
    module.close();
    redis?.disconnect();
  }
};
