/**
 * Dual control: a step with a key waits until enough different operators have signed its text, and the signatures are verified here,
 * against the keys of the configuration, at the moment when they count.
 */
import { createPublicKey, hash, type KeyObject, verify } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { SigilloError } from '../config/errors.ts';
import type { Config } from '../config/schema.ts';
import { ceremonyTeller } from '../observability/journal/ceremony-events.ts';
import type { Logger } from '../observability/log.ts';
import {
  type Approval,
  type Ceremony,
  type CeremonySubject,
  ceremonyText,
  changeCeremony,
  ensureCeremony,
  findCeremony,
} from '../queue/ceremonies.ts';
import type { RedisClient } from '../queue/redis.ts';
import { type Approvals, type ApprovedStep, withoutApprovals } from './approvals.ts';

/** Operators by name. */
export type Operators = ReadonlyMap<string, KeyObject>;

const readKey = (file: string): KeyObject => {
  let pem: string;
  try {
    pem = readFileSync(file, 'utf8');
  } catch (cause) {
    throw new SigilloError('CONFIG_UNREADABLE', file, { cause });
  }
  let key: KeyObject;
  try {
    // createPublicKey would derive the public half from a private key: that belongs to its operator alone.
    if (pem.includes('PRIVATE KEY')) throw new Error('it is a private key');
    key = createPublicKey(pem);
  } catch (cause) {
    throw new SigilloError('CONFIG_INVALID', `dualControl.operators: ${file}: no public key: ${(cause as Error).message}`, { cause });
  }
  const { asymmetricKeyType, asymmetricKeyDetails } = key;
  if (asymmetricKeyType === 'ed25519') return key;
  if (asymmetricKeyType === 'ec' && ['prime256v1', 'secp384r1'].includes(asymmetricKeyDetails?.namedCurve ?? '')) return key;
  throw new SigilloError('CONFIG_INVALID', `dualControl.operators: ${file}: must be Ed25519, or EC P-256 or P-384`);
};

const spkiOf = (key: KeyObject): Buffer => key.export({ format: 'der', type: 'spki' });

/** The operators of a configuration. @throws CONFIG_UNREADABLE, CONFIG_INVALID, also when two have one key */
export const readOperators = (config: Config): Operators => {
  const operators = new Map<string, KeyObject>();
  for (const { name, publicKeyFile } of config.dualControl?.operators ?? []) {
    const key = readKey(publicKeyFile);
    // KeyObject.equals leaves OpenSSL's "different key types" behind for keys of two types, and the next key that is read fails of it.
    const twin = [...operators].find(([, other]) => spkiOf(other).equals(spkiOf(key)));
    if (twin !== undefined) throw new SigilloError('CONFIG_INVALID', `dualControl.operators: ${name} and ${twin[0]} have the same key`);
    operators.set(name, key);
  }
  return operators;
};

/** SHA-256 of each operator's SubjectPublicKeyInfo, hex: what tells keys of one name apart. */
export const operatorFingerprints = (operators: Operators): ReadonlyMap<string, string> =>
  new Map([...operators].map(([name, key]) => [name, hash('sha256', spkiOf(key), 'hex')]));

/** Digest of a signature by an operator's key: Ed25519 has its own. */
export const approvalDigest = (key: KeyObject): 'sha256' | null => (key.asymmetricKeyType === 'ed25519' ? null : 'sha256');

/** True when this operator has signed this ceremony's text. */
export const isApprovedBy = (operators: Operators, ceremony: Ceremony, { operator, signature }: Approval): boolean => {
  const key = operators.get(operator);
  if (key === undefined) return false;
  try {
    return verify(approvalDigest(key), Buffer.from(ceremonyText(ceremony)), key, Buffer.from(signature, 'base64'));
  } catch {
    return false; // no signature of this form
  }
};

/** The different operators whose approvals hold. */
export const approversOf = (operators: Operators, ceremony: Ceremony): readonly string[] => [
  ...new Set(ceremony.approvals.filter((approval) => isApprovedBy(operators, ceremony, approval)).map(({ operator }) => operator)),
];

const subjectOf = ({ action, token, keyLabel, id }: ApprovedStep): CeremonySubject => ({
  action,
  token,
  keyLabel,
  ...(id !== undefined && { tsu: id }),
});

export interface DualControlOptions {
  readonly config: Config;
  readonly redis: RedisClient;
  readonly log: Pick<Logger, 'warn' | 'error'>;
  readonly now: () => Date;
  /** Who asks and executes, for the journal. @defaultValue the process `lifecycle` */
  readonly by?: Parameters<typeof ceremonyTeller>[0];
}

/** What the configuration says about approvals; without dual control everything is permitted. @throws CONFIG_UNREADABLE, CONFIG_INVALID */
export const createApprovals = ({
  config,
  redis,
  log,
  now,
  by = { role: 'system', actor: 'lifecycle' },
}: DualControlOptions): Approvals => {
  const { dualControl } = config;
  if (dualControl === undefined) return withoutApprovals;
  const operators = readOperators(config);
  const tell = ceremonyTeller(by);
  /** What was said last of each ceremony: it may wait for weeks. */
  const said = new Map<string, number>();
  return {
    async permit(step) {
      const ceremony = await ensureCeremony(redis, subjectOf(step), now(), tell);
      if (ceremony.executedAt !== undefined) {
        // One step, once: a record that fell back behind it is not a reason to do it again.
        log.error({ ceremony: ceremony.id, ...step }, 'ceremony: it was executed before, and does not count again');
        return false;
      }
      const missing = dualControl.approvals - approversOf(operators, ceremony).length;
      if (missing > 0 && said.get(ceremony.id) !== missing)
        log.warn({ ceremony: ceremony.id, missing, ...step }, 'ceremony: waits for operators (sigillo approve)');
      said.set(ceremony.id, missing);
      return missing <= 0;
    },
    async executed(step) {
      const { id } = await ensureCeremony(redis, subjectOf(step), now(), tell);
      const decide = (ceremony: Ceremony) =>
        ceremony.executedAt === undefined
          ? ({ kind: 'executed', ceremony: { ...ceremony, executedAt: now().toISOString() } } as const)
          : undefined;
      await changeCeremony(redis, id, decide, tell);
    },
    async agreed(step) {
      // Not whether it was executed: that is a word in Redis, which nobody has signed, and an interruption may have left it out.
      const ceremony = await findCeremony(redis, subjectOf(step));
      return ceremony !== undefined && approversOf(operators, ceremony).length >= dualControl.approvals;
    },
  };
};
