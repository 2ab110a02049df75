/** Makes the keys of a first start, and of operators: proved, on disk, and told to the journal before anything is built upon them. */
import type { Session } from 'graphene-pk11';
import { syncTree } from '../config/atomic-file.ts';
import { homePaths } from '../config/home.ts';
import type { Config } from '../config/schema.ts';
import type { KeyScheme } from '../pki/algorithms.ts';
import { generateKeyPair, selfTest, type TokenKey } from '../signer/token-keys.ts';
import { type By, tellKeyGenerated } from './setup-events.ts';

/** A token by its label, with a session that is read-write and logged in. */
export interface OpenToken {
  readonly label: string;
  readonly session: Session;
}

/** Makes a key pair in the token. @param by who makes it, when it is not the first start */
export const makeKey = (config: Config, token: OpenToken, label: string, scheme: KeyScheme, by?: By): TokenKey => {
  const key = generateKeyPair(token.session, { label, scheme });
  selfTest(key);
  // SoftHSM writes its objects without fsync: a certificate must not survive a power cut that its key does not.
  if (config.hsm.mode === 'embedded') syncTree(homePaths(config.home).tokenFolder);
  tellKeyGenerated(config, token.label, key, by);
  return key;
};
