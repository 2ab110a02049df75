/**
 * Makes and checks the journal's key: the pair in the token, and its public half as a file for whoever verifies checkpoints.
 *
 * The file is written last and at once; an interruption before leaves a key without a file, and the next run writes it. A file is
 * never overwritten: one that does not match the key in the token stops the start and is named, because the checkpoints that were
 * signed so far can only be verified with the key that signed them.
 */
import { createPublicKey, type KeyObject } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import { writeFileAtomic } from '../config/atomic-file.ts';
import { SigilloError } from '../config/errors.ts';
import { homePaths } from '../config/home.ts';
import type { Config } from '../config/schema.ts';
import { keyScheme } from '../pki/algorithms.ts';
import { journalKeyAlgorithm, journalKeyLabel } from '../signer/checkpoint-key.ts';
import { findKey, selfTest } from '../signer/token-keys.ts';
import { makeKey, type OpenToken } from './make-key.ts';
import { tellKeyGenerated } from './setup-events.ts';

const restore =
  'Put back what belongs together from a backup. To go on with a new key, keep the file elsewhere, for whoever verifies what was signed so far, and start again.';

const readPublicKey = (file: string): KeyObject => {
  try {
    return createPublicKey(readFileSync(file));
  } catch (cause) {
    throw new SigilloError('CERTIFICATE_INVALID', `${file}: no public key in it. ${restore}`, { cause });
  }
};

const isThatOf = (publicKey: KeyObject, spki: Uint8Array): boolean => publicKey.export({ format: 'der', type: 'spki' }).equals(spki);

/**
 * Sees to it that the key exists, signs, and has its file.
 * @param token the one with the purpose `journal`
 * @throws HSM_KEY_MISSING, HSM_KEY_MISMATCH, CERTIFICATE_INVALID with the name of the file
 */
export const ensureJournalKey = (config: Config, token: OpenToken, made: (what: string) => void): void => {
  const file = homePaths(config.home).journalKey;
  const scheme = keyScheme(journalKeyAlgorithm);
  const found = findKey(token.session, journalKeyLabel, scheme);
  if (existsSync(file)) {
    const publicKey = readPublicKey(file);
    if (found === undefined) throw new SigilloError('HSM_KEY_MISSING', `"${journalKeyLabel}", which ${file} belongs to. ${restore}`);
    if (!isThatOf(publicKey, found.spki)) throw new SigilloError('HSM_KEY_MISMATCH', `${file}, key "${journalKeyLabel}". ${restore}`);
    selfTest(found);
    return;
  }
  const key = found ?? makeKey(config, token, journalKeyLabel, scheme);
  if (found !== undefined) {
    selfTest(found);
    // An interruption may have come before it was told. A token that is not ours alone may have its key from another host.
    if (config.hsm.mode === 'embedded') tellKeyGenerated(config, token.label, found);
  }
  const pem = createPublicKey({ key: Buffer.from(key.spki), format: 'der', type: 'spki' }).export({ format: 'pem', type: 'spki' });
  mkdirSync(dirname(file), { recursive: true, mode: 0o700 });
  writeFileAtomic(file, pem, { mode: 0o644 });
  made(basename(file));
};
