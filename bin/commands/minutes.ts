/**
 * `sigillo minutes`: what happened in key ceremonies (who, when, what, which key, the operators' signatures), as a document that is
 * signed with the key of the journal. It is run where that key is: what comes through Redis could be signed by nobody who believes it.
 *
 * The first line keeps the document apart from all else that this key signs: an origin, with which a checkpoint begins, has no blanks.
 */
import { createPublicKey, hash, verify } from 'node:crypto';
import { existsSync } from 'node:fs';
import { hostname } from 'node:os';
import { writeFileAtomic } from '../../config/atomic-file.ts';
import { SigilloError } from '../../config/errors.ts';
import type { Config } from '../../config/schema.ts';
import { keyScheme } from '../../pki/algorithms.ts';
import { type Ceremony, ceremonyText, readCeremonies } from '../../queue/ceremonies.ts';
import { readTsus, type TsuRecord } from '../../queue/tsu-register.ts';
import { journalKeyAlgorithm, journalKeyLabel } from '../../signer/checkpoint-key.ts';
import { isApprovedBy, type Operators, readOperators } from '../../signer/dual-control.ts';
import { openHsm } from '../../signer/hsm-modules.ts';
import { resolveHsm, slotForPurpose } from '../../signer/pkcs11-module.ts';
import { findKey } from '../../signer/token-keys.ts';
import { operatorName } from './operator.ts';
import { withRegister } from './tsu.ts';

export interface MinutesOptions {
  readonly all?: true;
  readonly force?: true;
}

const fingerprint = (operators: Operators, name: string): string => {
  const key = operators.get(name);
  return key === undefined ? 'unknown' : hash('sha256', key.export({ format: 'der', type: 'spki' }), 'hex');
};

/** The key that a ceremony has made: operators could not sign its fingerprint, so the minutes say it by the register. */
const madeIn = ({ action, token, keyLabel, executedAt }: Ceremony, tsus: readonly TsuRecord[]): string[] => {
  if (action !== 'generate' || executedAt === undefined) return [];
  const made = tsus.find((record) => record.token === token && record.keyLabel === keyLabel);
  return [`  Key made     ${made?.id ?? 'not in the register of TSUs: see key.generated in the journal'}`];
};

const describe = (ceremony: Ceremony, operators: Operators, tsus: readonly TsuRecord[]): string =>
  [
    `Ceremony ${ceremony.id}`,
    `  What         ${ceremony.action} of the key ${ceremony.keyLabel} in the token ${ceremony.token}`,
    `  Fingerprint  ${ceremony.tsu ?? 'none: there was no key yet'}`,
    `  Requested    ${ceremony.requestedAt}`,
    ...ceremony.approvals.flatMap((approval) => [
      `  Approved     ${approval.at} by ${approval.operator}${isApprovedBy(operators, ceremony, approval) ? '' : ' - THE SIGNATURE DOES NOT HOLD'}`,
      `    key        ${fingerprint(operators, approval.operator)}`,
      `    signature  ${approval.signature}`,
    ]),
    `  Executed     ${ceremony.executedAt ?? 'not yet'}`,
    ...madeIn(ceremony, tsus),
    '  Text that was signed:',
    ...ceremonyText(ceremony)
      .split('\n')
      .slice(0, -1)
      .map((line) => `  | ${line}`),
    '',
  ].join('\n');

const minutesOf = (config: Config, ceremonies: readonly Ceremony[], tsus: readonly TsuRecord[], now: Date): string => {
  const operators = readOperators(config);
  return [
    'Minutes of key ceremonies, version 1',
    `Journal ${config.journal.origin}`,
    `Written ${now.toISOString()} on ${hostname()} by ${operatorName()}`,
    `Dual control: ${config.dualControl?.approvals ?? 0} of ${operators.size} operators`,
    '',
    ...ceremonies.map((ceremony) => describe(ceremony, operators, tsus)),
  ].join('\n');
};

/** ECDSA with SHA-256, DER. @throws HSM_* */
const signWithJournalKey = (config: Config, text: string): Uint8Array => {
  const hsm = resolveHsm(config);
  const module = openHsm(hsm);
  try {
    const slot = slotForPurpose(hsm, 'journal');
    module.login(slot);
    const key = findKey(module.openSession(slot.label, { readWrite: false }), journalKeyLabel, keyScheme(journalKeyAlgorithm));
    if (key === undefined) throw new SigilloError('HSM_KEY_MISSING', `"${journalKeyLabel}" in token ${slot.label}`);
    const signature = key.sign(Buffer.from(text), 'sha256');
    const publicKey = createPublicKey({ key: Buffer.from(key.spki), format: 'der', type: 'spki' });
    if (!verify('sha256', Buffer.from(text), publicKey, signature)) throw new SigilloError('HSM_SELFTEST_FAILED', journalKeyLabel);
    return signature;
  } finally {
    module.close();
  }
};

/**
 * Writes minutes to a file, and the signature beside it as FILE.sig.
 * @throws USAGE, CEREMONY_UNKNOWN, HSM_*, CONFIG_*, REDIS_UNAVAILABLE
 */
export const minutesCommand = (target: readonly string[], options: MinutesOptions): Promise<void> =>
  withRegister(async (redis, config) => {
    const [id, file] = options.all === true ? [undefined, target[0]] : target;
    if (file === undefined || target.length !== (options.all === true ? 1 : 2))
      throw new SigilloError('USAGE', 'give a ceremony and a file, or --all and a file');
    if (options.force !== true && [file, `${file}.sig`].some(existsSync))
      throw new SigilloError('USAGE', `${file} or its signature exists (--force replaces it)`);
    const ceremonies = (await readCeremonies(redis)).filter((ceremony) => id === undefined || ceremony.id === id);
    if (id !== undefined && ceremonies.length === 0) throw new SigilloError('CEREMONY_UNKNOWN', JSON.stringify(id.slice(0, 80)));
    const text = minutesOf(config, ceremonies, (await readTsus(redis)).tsus, new Date());
    const signature = signWithJournalKey(config, text);
    writeFileAtomic(file, text, { mode: 0o644 });
    writeFileAtomic(`${file}.sig`, signature, { mode: 0o644 });
    process.stdout.write(
      `${file}: ${ceremonies.length} ceremonies, signed. To verify, with the key of /journal/key:\n` +
        `  openssl dgst -sha256 -verify journal.pem -signature ${file}.sig ${file}\n`,
    );
  });
