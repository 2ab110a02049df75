/** Secrets come from files only: read late, kept short, never logged. */
import { readFileSync } from 'node:fs';
import { SigilloError } from './errors.ts';

/** The first line of a secret file, without its line end. @throws CONFIG_UNREADABLE, CONFIG_INVALID when it is empty */
export const readSecretFile = (file: string): string => {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (cause) {
    throw new SigilloError('CONFIG_UNREADABLE', file, { cause });
  }
  const secret = text.split(/\r?\n/, 1)[0] ?? '';
  if (secret === '') throw new SigilloError('CONFIG_INVALID', `${file}: the secret is empty`);
  return secret;
};
