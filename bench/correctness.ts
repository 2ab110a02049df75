/** Correctness before speed: samples of each endpoint through `openssl ts -verify`, with what the service publishes. */
import { execFile } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { removeAtEnd } from './child-process.ts';
import { bulkTemplate, newNonce, timestampQuery } from './requests.ts';

const run = promisify(execFile);

/** What later measurements need to know of the answers. */
export interface SampleAnswers {
  /** The whole reply to a query without certReq. */
  readonly reply: Uint8Array;
  /** Reply lengths in octets: the smallest seen of each kind. */
  readonly replyBytes: number;
  readonly replyWithChainBytes: number;
  readonly bulkBytes: number;
  /** PEM certificates of the published chain. */
  readonly chain: string;
  /** Tokens verified. */
  readonly verified: number;
}

const samplesPerKind = 3;

const get = async (url: string): Promise<string> => {
  const response = await fetch(url);
  if (response.status !== 200) throw new Error(`GET ${url}: HTTP status ${response.status}`);
  return response.text();
};

const post = async (url: string, contentType: string, body: Uint8Array): Promise<Buffer> => {
  const response = await fetch(url, { method: 'POST', headers: { 'content-type': contentType }, body: Buffer.from(body) });
  const answer = Buffer.from(await response.arrayBuffer());
  if (response.status !== 200) throw new Error(`POST ${url}: HTTP status ${response.status}`);
  return answer;
};

interface Verifier {
  /** @throws with OpenSSL's words when the answer does not verify */
  verify(parameters: readonly string[], files: Readonly<Record<string, Uint8Array>>): Promise<void>;
}

/** Writes the named files into a folder of its own and hands their names to `openssl ts -verify`. */
const openssl = (folder: string, trust: string, chain: string): Verifier => {
  writeFileSync(join(folder, 'trust.pem'), trust);
  writeFileSync(join(folder, 'chain.pem'), chain);
  return {
    verify: async (parameters, files) => {
      for (const [name, content] of Object.entries(files)) writeFileSync(join(folder, name), content);
      const { stdout } = await run('openssl', ['ts', '-verify', ...parameters, '-CAfile', 'trust.pem', '-untrusted', 'chain.pem'], {
        cwd: folder,
      });
      if (!stdout.includes('Verification: OK')) throw new Error(`openssl ts -verify: ${stdout}`);
    },
  };
};

const checkQueries = async (origin: string, verifier: Verifier, options: { certReq: boolean }): Promise<Buffer[]> => {
  const replies: Buffer[] = [];
  for (let i = 0; i < samplesPerKind; i += 1) {
    const imprint = createHash('sha256').update(randomBytes(64)).digest();
    const query = timestampQuery(imprint, { nonce: newNonce(), certReq: options.certReq });
    const reply = await post(`${origin}/tsa`, 'application/timestamp-query', query);
    await verifier.verify(['-queryfile', 'query.tsq', '-in', 'reply.tsr'], { 'query.tsq': query, 'reply.tsr': reply });
    replies.push(reply);
  }
  return replies;
};

interface BulkAnswer {
  readonly timestamps: readonly { readonly status: string; readonly token?: string; readonly serial?: string }[];
}

const checkBulk = async (origin: string, verifier: Verifier, stamps: number): Promise<number> => {
  const { body } = bulkTemplate(stamps);
  const { hashes } = JSON.parse(Buffer.from(body).toString()) as { hashes: { hash: string }[] };
  const answer = await post(`${origin}/v1/timestamps`, 'application/json', body);
  const { timestamps } = JSON.parse(answer.toString()) as BulkAnswer;
  if (timestamps.length !== stamps) throw new Error(`POST /v1/timestamps: ${timestamps.length} answers to ${stamps} imprints`);
  if (new Set(timestamps.map(({ serial }) => serial)).size !== stamps) throw new Error('POST /v1/timestamps: a serial number repeats');
  for (const at of [0, stamps >> 1, stamps - 1]) {
    const token = Buffer.from(timestamps[at]?.token ?? '', 'base64');
    const digest = Buffer.from(hashes[at]?.hash ?? '', 'base64').toString('hex');
    await verifier.verify(['-digest', digest, '-in', 'token.der', '-token_in'], { 'token.der': token });
  }
  return answer.length;
};

const smallest = (buffers: readonly Uint8Array[]): number => Math.min(...buffers.map(({ length }) => length));

/** Verifies samples of every kind. @throws at the first that does not verify */
export const checkCorrectness = async (origin: string, bulkStamps: number): Promise<SampleAnswers> => {
  const folder = mkdtempSync(join(tmpdir(), 'sigillo-bench-verify-'));
  const removeFolder = removeAtEnd(folder);
  try {
    const [trust, chain] = await Promise.all([get(`${origin}/repository/trust.pem`), get(`${origin}/repository/tsa-chain.pem`)]);
    const verifier = openssl(folder, trust, chain);
    const without = await checkQueries(origin, verifier, { certReq: false });
    const withChain = await checkQueries(origin, verifier, { certReq: true });
    const bulkBytes = await checkBulk(origin, verifier, bulkStamps);
    return {
      reply: without[0] as Buffer,
      replyBytes: smallest(without),
      replyWithChainBytes: smallest(withChain),
      bulkBytes,
      chain,
      verified: 3 * samplesPerKind,
    };
  } finally {
    await removeFolder();
  }
};
