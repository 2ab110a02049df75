/** Certificates that signers have published into a Redis that a test scripts, and the repository of a gateway in front of them. */
import assert from 'node:assert/strict';
import { createHash, X509Certificate } from 'node:crypto';
import { after, afterEach, before, beforeEach, mock } from 'node:test';
import type { Hono } from 'hono';
import { createPublishedCertificates, type PublishedCertificates } from '../../gateway/published-certificates.ts';
import { createRepositoryApp } from '../../gateway/repository-app.ts';
import { laneKeys } from '../../queue/keys.ts';
import type { RedisClient } from '../../queue/redis.ts';
import { type Identity, TestPki } from './timestamp-fixtures.ts';

export const ca = ['basicConstraints=critical,CA:TRUE', 'keyUsage=critical,keyCertSign', 'subjectKeyIdentifier=hash'];
export const leaf = ['basicConstraints=critical,CA:FALSE', 'keyUsage=critical,digitalSignature', 'extendedKeyUsage=critical,timeStamping'];
export const digestOf = ({ certificate }: Identity): string => createHash('sha256').update(certificate.raw).digest('hex');
export const pemsOf = (text: string): X509Certificate[] =>
  (text.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----\n/g) ?? []).map((pem) => new X509Certificate(pem));
export const namesOf = (text: string): string[] => pemsOf(text).map(({ subject }) => /CN=(.*)/.exec(subject)?.[1] ?? '');
/** What a gateway has read counts for so long. */
export const freshMs = 5_000;

/** The two commands that the repository needs, scripted. */
export class FakeRedis {
  hash: Record<string, string> = {};
  chains: Record<string, Buffer> = {};
  away = false;
  reads = 0;
  readonly client = {
    hgetall: async (key: string): Promise<Record<string, string>> => {
      assert.equal(key, laneKeys('timestamp').certificates);
      this.reads += 1;
      if (this.away) throw new Error('connection is closed');
      return { ...this.hash };
    },
    hgetallBuffer: async (key: string): Promise<Record<string, Buffer>> => {
      assert.equal(key, laneKeys('timestamp').chains);
      if (this.away) throw new Error('connection is closed');
      return { ...this.chains };
    },
  } as unknown as RedisClient;

  publish(...identities: readonly Identity[]): void {
    for (const identity of identities) this.hash[digestOf(identity)] = identity.certificate.toString();
  }
}

export interface RepositoryWorld {
  readonly pki: TestPki;
  readonly root: Identity;
  readonly authority: Identity;
  readonly tsu: Identity;
  readonly older: Identity;
  readonly redis: FakeRedis;
  readonly published: PublishedCertificates;
  readonly app: Hono;
  /** Milliseconds of the monotonic clock. */
  now: number;
  /** A gateway that has read nothing yet. */
  restart(): void;
  get(path: string, headers?: Record<string, string>): Promise<Response>;
}

/** For the tests of a file. */
export const repositoryWorld = (): RepositoryWorld => {
  let pki: TestPki;
  let root: Identity;
  let authority: Identity;
  let tsu: Identity;
  let older: Identity;
  before(() => {
    pki = new TestPki();
    root = pki.issue('root', { extensions: ca });
    authority = pki.issue('authority', { issuer: root, extensions: ca });
    older = pki.issue('older', { issuer: authority, extensions: leaf });
    tsu = pki.issue('tsu', { issuer: authority, extensions: leaf });
  });
  after(() => pki.close());
  let redis: FakeRedis;
  let published: PublishedCertificates;
  let app: Hono;
  let now = 0;
  const restart = (): void => {
    published = createPublishedCertificates(redis.client, [root.certificate]);
    app = createRepositoryApp(published);
  };
  beforeEach(() => {
    now = 1_000_000;
    mock.method(performance, 'now', () => now);
    redis = new FakeRedis();
    restart();
  });
  afterEach(() => mock.restoreAll());
  return {
    get pki() {
      return pki;
    },
    get root() {
      return root;
    },
    get authority() {
      return authority;
    },
    get tsu() {
      return tsu;
    },
    get older() {
      return older;
    },
    get redis() {
      return redis;
    },
    get published() {
      return published;
    },
    get app() {
      return app;
    },
    get now() {
      return now;
    },
    set now(millis) {
      now = millis;
    },
    restart,
    get: async (path, headers = {}) => app.request(path, { headers }),
  };
};
