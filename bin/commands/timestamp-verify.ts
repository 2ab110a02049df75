/** `sigillo timestamp verify`: files against their timestamps. */
import { existsSync } from 'node:fs';
import { readFile, stat } from 'node:fs/promises';
import { SigilloError } from '../../config/errors.ts';
import { homePaths } from '../../config/home.ts';
import { loadConfig } from '../../config/load.ts';
import { digestAlgorithms } from '../../pki/algorithms.ts';
import { readTimestamp, type TimestampInvalid, type TimestampValid, verifyTimestamp } from '../../pki/tsp-verify.ts';
import { hashFile } from './stamp-files.ts';

export interface VerifyCommandOptions {
  readonly tsr?: string;
  readonly trust?: string;
  readonly chain?: string;
  readonly json?: true;
}

type Verdict = TimestampValid | TimestampInvalid | { readonly kind: 'unreadable'; readonly detail: string };

/** The verifier takes no more, so there is no use in reading it. */
const timestampOctetsMax = 1_048_576;

/** Certificates of a PEM file, DER. @throws CONFIG_UNREADABLE */
export const readCertificates = async (file: string): Promise<Uint8Array[]> => {
  let text: string;
  try {
    text = await readFile(file, 'utf8');
  } catch (cause) {
    throw new SigilloError('CONFIG_UNREADABLE', file, { cause });
  }
  const blocks = text.matchAll(/-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----/g);
  const certificates = [...blocks].map(([, base64]) => Buffer.from(base64 as string, 'base64'));
  if (certificates.length === 0) throw new SigilloError('CONFIG_UNREADABLE', `${file}: it holds no PEM certificate`);
  return certificates;
};

/** The roots given, or those of this installation. @throws USAGE when there are none */
export const trustFile = (given: string | undefined): string => {
  if (given !== undefined) return given;
  const config = loadConfig();
  const file = config.trust.rootsFile ?? homePaths(config.home).rootCertificate;
  if (!existsSync(file)) throw new SigilloError('USAGE', `no root certificate at ${file}: name one with --trust`);
  return file;
};

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

const verifyFile = async (path: string, tsr: string, roots: readonly Uint8Array[], untrusted: readonly Uint8Array[]): Promise<Verdict> => {
  try {
    if ((await stat(tsr)).size > timestampOctetsMax) return { kind: 'invalid', reason: 'malformed', detail: `${tsr} is too long` };
    const bytes = await readFile(tsr);
    const reading = readTimestamp(bytes);
    if (reading.kind === 'invalid') return reading;
    const { algorithm } = reading.token.tstInfo.messageImprint;
    const digest = Object.values(digestAlgorithms).find(({ oid }) => oid === algorithm);
    if (digest === undefined) return { kind: 'invalid', reason: 'algorithm-unsupported', detail: `the imprint is by ${algorithm}` };
    const hashedMessage = await hashFile(path, digest.name);
    return verifyTimestamp(bytes, { messageImprint: { algorithm, hashedMessage }, roots, untrusted });
  } catch (error) {
    return { kind: 'unreadable', detail: messageOf(error) };
  }
};

const printable = (text: string): string => text.replace(/[^\x20-\x7e\u00a0-\ud7ff]+/g, '?');

const accuracyText = (micros: number | undefined): string => (micros === undefined ? 'accuracy not stated' : `to ${micros / 1_000_000} s`);

const describe = (path: string, verdict: Verdict): string => {
  switch (verdict.kind) {
    case 'valid':
      return (
        `${path}: valid\n  time    ${verdict.genTimeText} (${accuracyText(verdict.accuracyMicros)})\n  by      ${printable(verdict.tsu)}\n` +
        `  serial  ${verdict.serialNumber}\n  policy  ${verdict.policy}\n  digest  ${verdict.digest}\n`
      );
    case 'invalid':
      return `${path}: NOT VALID: ${verdict.reason}: ${printable(verdict.detail)}\n`;
    case 'unreadable':
      return `${path}: NOT VALID: ${printable(verdict.detail)}\n`;
  }
};

const toJson = (file: string, tsr: string, verdict: Verdict): unknown => {
  if (verdict.kind !== 'valid') return { file, tsr, ...verdict };
  const { genTime: _cut, genTimeText, path, ...rest } = verdict;
  return { file, tsr, ...rest, genTime: genTimeText, path: path.map((der) => Buffer.from(der).toString('base64')) };
};

/** Verifies each file; false when one is not valid. @throws USAGE, CONFIG_* */
export const verifyFiles = async (files: readonly string[], options: VerifyCommandOptions): Promise<boolean> => {
  if (options.tsr !== undefined && files.length > 1) throw new SigilloError('USAGE', '--tsr goes with one file');
  const roots = await readCertificates(trustFile(options.trust));
  const untrusted = options.chain === undefined ? [] : await readCertificates(options.chain);
  const results: unknown[] = [];
  let allValid = true;
  for (const file of files) {
    const tsr = options.tsr ?? `${file}.tsr`;
    const verdict = await verifyFile(file, tsr, roots, untrusted);
    allValid &&= verdict.kind === 'valid';
    if (options.json) results.push(toJson(file, tsr, verdict));
    else process.stdout.write(describe(file, verdict));
  }
  if (options.json) process.stdout.write(`${JSON.stringify(results, null, 2)}\n`);
  return allValid;
};
