/** `sigillo approve`: an operator agrees to a step with a key, by a signature with a key of their own. */
import { createPrivateKey, createPublicKey, type KeyObject, sign } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { SigilloError } from '../../config/errors.ts';
import type { Config } from '../../config/schema.ts';
import { readSecretFile } from '../../config/secrets.ts';
import { ceremonyTeller } from '../../observability/journal/ceremony-events.ts';
import { JournalRecorder } from '../../observability/journal/recorder.ts';
import { type Approval, type Ceremony, type CeremonyChange, ceremonyText, changeCeremony, readCeremonies } from '../../queue/ceremonies.ts';
import type { RedisClient } from '../../queue/redis.ts';
import { approvalDigest, approversOf, isApprovedBy, type Operators, readOperators } from '../../signer/dual-control.ts';
import type { CommandOperator } from './command-redis.ts';
import { withRegister } from './tsu.ts';

export interface ApproveOptions {
  readonly list?: true;
  readonly json?: true;
  readonly text?: true;
  readonly operator?: string;
  readonly key?: string;
  readonly passphraseFile?: string;
  readonly signature?: string;
}

const print = (text: string): void => void process.stdout.write(text);

const listCeremonies = (ceremonies: readonly Ceremony[], config: Config, operators: Operators, { json }: ApproveOptions): void => {
  const needed = config.dualControl?.approvals ?? 0;
  const rows = ceremonies.map((ceremony) => ({ ...ceremony, approvedBy: approversOf(operators, ceremony), needed }));
  if (json === true) {
    print(`${JSON.stringify(rows, null, 2)}\n`);
    return;
  }
  for (const { id, action, token, keyLabel, tsu, requestedAt, approvedBy, executedAt } of rows) {
    const standing = executedAt === undefined ? `${approvedBy.length} of ${needed}` : 'executed';
    const key = `${keyLabel}${tsu === undefined ? '' : ` (${tsu.slice(0, 12)})`}`;
    print(`${id}  ${action.padEnd(8)}  ${token}  ${key}  requested ${requestedAt}  ${standing}  ${approvedBy.join(', ')}\n`);
  }
  if (rows.length === 0) print('No ceremony was ever requested.\n');
};

const readPrivateKey = (file: string, passphraseFile: string | undefined): KeyObject => {
  const passphrase = passphraseFile === undefined ? undefined : readSecretFile(passphraseFile);
  let pem: Buffer;
  try {
    pem = readFileSync(file);
  } catch (cause) {
    throw new SigilloError('CONFIG_UNREADABLE', file, { cause });
  }
  try {
    return createPrivateKey({ key: pem, ...(passphrase !== undefined && { passphrase }) });
  } catch (cause) {
    throw new SigilloError('USAGE', `${file}: no private key, or another passphrase (--passphrase-file)`, { cause });
  }
};

/** The signature: made here, or brought by an operator whose key is elsewhere. */
const signatureFor = (ceremony: Ceremony, options: ApproveOptions): Buffer => {
  if (options.signature !== undefined) return readFileSync(options.signature);
  if (options.key === undefined) throw new SigilloError('USAGE', 'give --key, or --signature with a signature over what --text prints');
  const key = readPrivateKey(options.key, options.passphraseFile);
  return sign(approvalDigest(createPublicKey(key)), Buffer.from(ceremonyText(ceremony)), key);
};

/** Why an approval does not count, or undefined. */
const objection = (operators: Operators, ceremony: Ceremony, approval: Approval): string | undefined => {
  if (!operators.has(approval.operator)) return `${approval.operator} is no operator of the configuration`;
  if (ceremony.executedAt !== undefined) return `it was executed at ${ceremony.executedAt}`;
  if (!isApprovedBy(operators, ceremony, approval)) return `this is not the signature of ${approval.operator} for it`;
  if (approversOf(operators, ceremony).includes(approval.operator)) return `${approval.operator} has approved it already`;
  return undefined;
};

/** @throws APPROVAL_REFUSED, after the journal was told */
const refuse = async (redis: RedisClient, id: string, operator: string, reason: string, by: CommandOperator): Promise<never> => {
  const { actor, clock } = by;
  const recorder = new JournalRecorder({ redis, actor, clock });
  const detail = { operator: operator.slice(0, 64), reason: reason.slice(0, 200) };
  await recorder.recordNow({ kind: 'ceremony.refused', subject: id, outcome: 'refused', detail, by });
  throw new SigilloError('APPROVAL_REFUSED', reason);
};

const approve = async (
  redis: RedisClient,
  config: Config,
  operators: Operators,
  ceremony: Ceremony,
  options: ApproveOptions,
  by: CommandOperator,
): Promise<void> => {
  const { operator } = options;
  if (operator === undefined) throw new SigilloError('USAGE', '--operator says who approves');
  const signature = signatureFor(ceremony, options).toString('base64');
  const approval: Approval = { operator, at: new Date().toISOString(), signature };
  const decide = (current: Ceremony): CeremonyChange => {
    const reason = objection(operators, current, approval);
    if (reason !== undefined) throw new SigilloError('APPROVAL_REFUSED', reason);
    return { kind: 'approved', approval, ceremony: { ...current, approvals: [...current.approvals, approval] } };
  };
  const first = objection(operators, ceremony, approval);
  if (first !== undefined) await refuse(redis, ceremony.id, operator, first, by);
  const now = await changeCeremony(redis, ceremony.id, decide, ceremonyTeller({ ...by, actor: operator }));
  const count = approversOf(operators, now).length;
  const needed = config.dualControl?.approvals ?? 0;
  print(
    `${operator} has approved ${now.action} of ${now.keyLabel}: ${count} of ${needed}.${count >= needed ? ' It is done at the next look at the calendar.' : ''}\n`,
  );
};

/**
 * Lists ceremonies, prints what is to be signed, or approves.
 * @throws USAGE, CEREMONY_UNKNOWN, APPROVAL_REFUSED, CONFIG_*, REDIS_UNAVAILABLE
 */
export const approveCommand = (id: string | undefined, options: ApproveOptions): Promise<void> =>
  withRegister(async (redis, config, by) => {
    if (config.dualControl === undefined)
      throw new SigilloError('USAGE', 'the configuration has no dualControl: nothing waits for approvals');
    const operators = readOperators(config);
    const ceremonies = await readCeremonies(redis);
    if (options.list === true) {
      listCeremonies(ceremonies, config, operators, options);
      return;
    }
    if (id === undefined) throw new SigilloError('USAGE', 'name a ceremony; `sigillo approve --list` shows them');
    const ceremony = ceremonies.find((one) => one.id === id);
    if (ceremony === undefined) throw new SigilloError('CEREMONY_UNKNOWN', JSON.stringify(id.slice(0, 80)));
    if (options.text === true) print(ceremonyText(ceremony));
    else await approve(redis, config, operators, ceremony, options, by);
  });
