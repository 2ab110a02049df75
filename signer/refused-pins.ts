/**
 * Remembers PINs that a token has refused, on disk: a few wrong tries lock a token for ever, and a service that is started again, by
 * its supervisor or by a worried operator, must not be what tries. A PIN file that was changed since counts as another PIN.
 */
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { writeFileAtomic } from '../config/atomic-file.ts';
import { SigilloError } from '../config/errors.ts';

const recordSchema = z.strictObject({
  label: z.string(),
  pinFile: z.string(),
  /** Of the PIN file when its PIN was refused: what tells another PIN, without a trace of the PIN itself. */
  changedAtMs: z.number(),
  refusedAt: z.iso.datetime(),
  reason: z.string(),
});

export interface RefusedPins {
  /** @throws HSM_PIN_REFUSED when the PIN of this file was refused before */
  check(label: string, pinFile: string): void;
  refuse(label: string, pinFile: string, reason: string): void;
  /** The token has taken the PIN. */
  forget(label: string): void;
}

const changedAtMs = (pinFile: string): number => {
  try {
    return statSync(pinFile).mtimeMs;
  } catch (cause) {
    throw new SigilloError('CONFIG_UNREADABLE', pinFile, { cause });
  }
};

/** @param folder where to remember them; undefined remembers nothing, for modules that are opened for a moment only */
export const createRefusedPins = (folder: string | undefined): RefusedPins => {
  if (folder === undefined) return { check: () => undefined, refuse: () => undefined, forget: () => undefined };
  // A label may hold anything; its digest is a file name.
  const fileOf = (label: string): string => join(folder, `${createHash('sha256').update(label).digest('hex').slice(0, 32)}.json`);
  const read = (label: string): z.output<typeof recordSchema> | undefined => {
    let text: string;
    try {
      text = readFileSync(fileOf(label), 'utf8');
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
      throw new SigilloError('CONFIG_UNREADABLE', fileOf(label), { cause: error });
    }
    try {
      return recordSchema.parse(JSON.parse(text));
    } catch (cause) {
      throw new SigilloError('CONFIG_UNREADABLE', fileOf(label), { cause });
    }
  };
  return {
    check(label, pinFile) {
      const record = read(label);
      if (record === undefined || record.pinFile !== pinFile || record.changedAtMs !== changedAtMs(pinFile)) return;
      const when = `token "${label}" refused the PIN of ${pinFile} at ${record.refusedAt} (${record.reason})`;
      throw new SigilloError('HSM_PIN_REFUSED', `${when}; it is not tried again before that file is changed, or ${fileOf(label)} removed`);
    },
    refuse(label, pinFile, reason) {
      mkdirSync(folder, { recursive: true, mode: 0o700 });
      const record = { label, pinFile, changedAtMs: changedAtMs(pinFile), refusedAt: new Date().toISOString(), reason };
      writeFileAtomic(fileOf(label), `${JSON.stringify(record)}\n`, { mode: 0o600 });
    },
    forget(label) {
      rmSync(fileOf(label), { force: true });
    },
  };
};
