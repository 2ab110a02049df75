/** How fast `sigillo journal verify` goes through a store, as an auditor runs it: a process of its own, from its start to its end. */
import { spawn } from 'node:child_process';
import { generateKeyPairSync } from 'node:crypto';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export interface VerifyRate {
  readonly entries: number;
  /** Of the whole command, in which the engine is loaded too. */
  readonly entriesPerSecond: number;
}

interface Verdict {
  readonly kind: string;
  readonly entries: number;
  readonly entriesPerSecond: number;
}

const command = fileURLToPath(new URL('../bin/sigillo.mjs', import.meta.url));

/**
 * @param home folder of a journal that nobody has open. Without a signer there are no checkpoints in it: their signatures are one for
 * 100,000 entries
 * @throws when something else is wrong with it
 */
export const measureVerify = async (home: string, store: string): Promise<VerifyRate> => {
  const { publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const key = join(home, 'journal-key.pem');
  writeFileSync(key, publicKey.export({ format: 'pem', type: 'spki' }));
  const child = spawn(process.execPath, [command, 'journal', 'verify', '--json', '--store', store, '--key', key], {
    env: { ...process.env, SIGILLO_HOME: home },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const chunks: Buffer[] = [];
  child.stdout.on('data', (chunk: Buffer) => chunks.push(chunk));
  const [code] = (await once(child, 'close')) as [number | null];
  const text = Buffer.concat(chunks).toString('utf8');
  if (code !== 0 && code !== 1) throw new Error(`journal verify ended with ${code}: ${text}`);
  const { kind, entries, entriesPerSecond } = JSON.parse(text) as Verdict;
  // Nothing is wrong with it but that nobody has signed it, which `verify` says of a store that is not quite new.
  if (kind !== 'valid' && kind !== 'unsigned') throw new Error(`journal verify: ${text}`);
  return { entries, entriesPerSecond };
};
