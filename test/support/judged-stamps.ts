/** The answers of a load as their client judges them: each is to what was asked, and of those that matter OpenSSL says that they are good. */
import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { readTimeStampResp, readTimeStampToken } from '../../pki/tsp-read.ts';
import { forEachAtOnce, type RelyingParty, type VerifyOptions } from './openssl-ts.ts';
import type { KeptAnswer } from './stamp-load.ts';

const atOnce = 4;
const hex = (octets: Uint8Array): string => Buffer.from(octets).toString('hex');

/** So many of them, from the first to the last. */
export const spreadOver = <T>(items: readonly T[], most: number): readonly T[] =>
  items.length <= most ? items : Array.from({ length: most }, (_, index) => items[Math.floor((index * items.length) / most)] as T);

/** Every answer is for the imprint and the nonce of its request, and no serial number comes twice. */
export const assertAnswersFit = (answers: readonly KeptAnswer[]): void => {
  const serials = new Set<string>();
  for (const { imprint, nonce, response } of answers) {
    const { tstInfo } = readTimeStampToken(readTimeStampResp(response).timeStampToken as Uint8Array);
    assert.deepEqual([hex(tstInfo.messageImprint.hashedMessage), hex(tstInfo.nonce ?? Buffer.of())], [hex(imprint), hex(nonce)]);
    serials.add(hex(tstInfo.serialNumber));
  }
  assert.equal(serials.size, answers.length);
};

export interface JudgedStamp {
  readonly genTime: Date;
  /** Of the TSU, as the token carries it. */
  readonly certificate: X509Certificate;
}

/** Reads stamps with certificates; each certificate once. */
export const stampReader = (): ((answer: KeptAnswer) => JudgedStamp) => {
  const known = new Map<string, X509Certificate>();
  return ({ response }) => {
    const { tstInfo, signedData } = readTimeStampToken(readTimeStampResp(response).timeStampToken as Uint8Array);
    const chain = Buffer.concat(signedData.certificates).toString('latin1');
    const certificate = known.get(chain) ?? signedData.certificates.map((der) => new X509Certificate(der)).find((one) => !one.ca);
    assert.ok(certificate !== undefined, 'the token carries the certificate of its TSU');
    known.set(chain, certificate);
    return { genTime: tstInfo.genTime, certificate };
  };
};

/** OpenSSL accepts every one of them, for the imprint that was sent. @param party has fetched the certificates */
export const assertVerify = (party: RelyingParty, answers: readonly KeptAnswer[], options: VerifyOptions): Promise<void> =>
  forEachAtOnce(answers, atOnce, async ({ imprint, response }) => {
    const digest = hex(imprint);
    const file = party.write(`judged-${digest.slice(0, 16)}.tsr`, response);
    const verdict = await party.verify(file, ['-digest', digest], options);
    assert.match(verdict.stdout, /Verification: OK/, verdict.stderr);
  });

/** Those that were under way at some time between these two. */
export const answersDuring = (answers: readonly KeptAnswer[], fromMs: number, toMs: number): readonly KeptAnswer[] =>
  answers.filter(({ startedAt, endedAt }) => startedAt <= toMs && endedAt >= fromMs);
