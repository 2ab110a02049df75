/** OpenSSL as a client and judge of the service: it makes the queries, and it alone says whether an answer is good. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Finished, runProgram, runWell } from './service.ts';

/** Why tests with OpenSSL must be skipped, or false. */
export const opensslMissing = async (): Promise<string | false> => {
  const found = await runProgram('sh', ['-c', 'openssl version']);
  return found.stdout.startsWith('OpenSSL 3')
    ? false
    : 'OPENSSL 3 IS NOT INSTALLED (apt-get install openssl): interoperability is not tested';
};

export interface HttpAnswer {
  readonly status: number;
  readonly headers: Headers;
  readonly body: Buffer;
}

/** POST /tsa. */
export const postQuery = async (origin: string, query: Uint8Array, headers: Readonly<Record<string, string>> = {}): Promise<HttpAnswer> => {
  const response = await fetch(`${origin}/tsa`, {
    method: 'POST',
    headers: { 'content-type': 'application/timestamp-query', ...headers },
    body: new Uint8Array(query),
  });
  return { status: response.status, headers: response.headers, body: Buffer.from(await response.arrayBuffer()) };
};

const download = async (url: string): Promise<Buffer> => {
  // The server ends a connection that was idle for seconds; a GET that meets that moment is simply asked again.
  const response = await fetch(url).catch(() => fetch(url));
  if (response.status !== 200) throw new Error(`${url}: ${response.status} ${await response.text()}`);
  return Buffer.from(await response.arrayBuffer());
};

export interface VerifyOptions {
  /** Certificates for tokens that carry none; they are trusted for nothing. */
  readonly withChain: boolean;
}

/** A folder with what a relying party downloads from the repository of a service. */
export class RelyingParty {
  readonly folder: string;
  readonly trust = 'trust.pem';
  readonly chain = 'tsa-chain.pem';
  /** Both together, where OpenSSL has no way to say which certificates are only for the path. */
  readonly everything = 'everything.pem';

  constructor(folder: string) {
    this.folder = folder;
  }

  /** Downloads the certificates of a service. */
  async fetchFrom(origin: string): Promise<void> {
    const [trust, chain] = await Promise.all([download(`${origin}/repository/trust.pem`), download(`${origin}/repository/tsa-chain.pem`)]);
    this.write(this.trust, trust);
    this.write(this.chain, chain);
    this.write(this.everything, Buffer.concat([trust, chain]));
  }

  write(name: string, content: Uint8Array | string): string {
    writeFileSync(join(this.folder, name), content);
    return name;
  }

  openssl(...parameters: readonly string[]): Promise<string> {
    return runWell('openssl', parameters, { cwd: this.folder });
  }

  openSslMayFail(...parameters: readonly string[]): Promise<Finished> {
    return runProgram('openssl', parameters, { cwd: this.folder });
  }

  /** `openssl ts -verify`. @param what as `-queryfile q.tsq`, `-data file`, `-token_in` */
  verify(response: string, what: readonly string[], { withChain }: VerifyOptions): Promise<Finished> {
    const untrusted = withChain ? ['-untrusted', this.chain] : [];
    return this.openSslMayFail('ts', '-verify', ...what, '-in', response, '-CAfile', this.trust, ...untrusted);
  }

  /** What `openssl ts -reply -text` prints of a response. */
  text(response: string): Promise<string> {
    return this.openssl('ts', '-reply', '-in', response, '-text');
  }
}

/** Runs the action for every item, some at once. */
export const forEachAtOnce = async <T>(
  items: readonly T[],
  atOnce: number,
  action: (item: T, index: number) => Promise<void>,
): Promise<void> => {
  let next = 0;
  const run = async (): Promise<void> => {
    while (next < items.length) {
      const index = next;
      next += 1;
      await action(items[index] as T, index);
    }
  };
  await Promise.all(Array.from({ length: Math.min(atOnce, items.length) }, run));
};
