/** POST /v1/timestamps in front of a lane that a test scripts. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { after, before, beforeEach } from 'node:test';
import type { Hono } from 'hono';
import { createTimestampsApp } from '../../gateway/timestamps-app.ts';
import { digestAlgorithms } from '../../pki/algorithms.ts';
import { readTimeStampToken } from '../../pki/tsp-read.ts';
import type { ImprintDigest } from '../../pki/tsp-request.ts';
import { makeHierarchy, makeSoftwareTsu, type SoftwareTsu } from './software-tsu.ts';
import { createStampingBench, type StampingBench, type StampingBenchOptions } from './stamping-bench.ts';
import { TestPki } from './timestamp-fixtures.ts';

export const imprintsMax = 20;
export const json = { 'Content-Type': 'application/json' };

export interface Imprint {
  readonly algorithm: string;
  readonly hash: string;
  readonly nonce?: string;
}
export interface Result {
  readonly status: string;
  readonly failInfo?: string;
  readonly token?: string;
  readonly serial?: string;
  readonly genTime?: string;
}
export const imprintOf = (text: string, digest: ImprintDigest = 'sha256'): Imprint => ({
  algorithm: digest,
  hash: createHash(digestAlgorithms[digest].name).update(text).digest('base64'),
});
/** What a request got, imprint by imprint. */
export const resultsOf = async (response: Response): Promise<Result[]> => {
  assert.equal(response.status, 200);
  assert.match(response.headers.get('content-type') ?? '', /^application\/json/);
  const { timestamps, ...rest } = (await response.json()) as { timestamps: Result[] };
  assert.deepEqual(rest, {});
  return timestamps;
};
/** A refusal of the whole request: one line of JSON. */
export const assertError = async (response: Response, status: number, error: string, message = /./): Promise<void> => {
  assert.equal(response.status, status);
  const text = await response.text();
  assert.ok(!text.includes('\n'), 'one line');
  const body = JSON.parse(text) as { error: string; message: string };
  assert.deepEqual(Object.keys(body).toSorted(), ['error', 'message']);
  assert.equal(body.error, error);
  assert.match(body.message, message);
};
export const tokenOf = (result: Result | undefined) => readTimeStampToken(Buffer.from(result?.token ?? '', 'base64'));

export interface TimestampsWorld {
  readonly tsu: SoftwareTsu;
  /** Of the test that runs. */
  readonly bench: StampingBench;
  readonly app: Hono;
  /** Serves with other options than those of a default configuration. */
  serve(options?: StampingBenchOptions): void;
  post(body: unknown, headers?: Record<string, string>): Promise<Response>;
}

/** For the tests of a file. */
export const timestampsWorld = (): TimestampsWorld => {
  let pki: TestPki;
  let tsu: SoftwareTsu;
  before(() => {
    pki = new TestPki();
    tsu = makeSoftwareTsu(pki, makeHierarchy(pki), 'ec-p256');
  });
  after(() => pki.close());

  let bench: StampingBench;
  let app: Hono;
  const serve = (options: StampingBenchOptions = {}): void => {
    bench = createStampingBench(tsu, options);
    app = createTimestampsApp(bench.stamping, imprintsMax);
  };
  beforeEach(() => serve());
  return {
    get tsu() {
      return tsu;
    },
    get bench() {
      return bench;
    },
    get app() {
      return app;
    },
    serve,
    post: async (body: unknown, headers: Record<string, string> = json): Promise<Response> =>
      app.request('/v1/timestamps', { method: 'POST', headers, body: typeof body === 'string' ? body : JSON.stringify(body) }),
  };
};
