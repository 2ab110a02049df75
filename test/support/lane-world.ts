/** One Redis for the tests of a suite, with an empty lane for each of them, and what they ask of it and expect. */
import { after, afterEach, before, beforeEach } from 'node:test';
import type { LaneAnswer } from '../../queue/lane-requester.ts';
import type { LaneAnswerBatch, LaneEntry } from '../../queue/lane-responder.ts';
import { type BenchRequester, type Gate, grantAll, LaneBench } from './lane-bench.ts';
import { startTestRedis, type TestRedis } from './redis-server.ts';
import { until } from './until.ts';

/** What a busy machine adds to any deadline. */
export const slackMs = 400;

export const askMany = (requester: BenchRequester, count: number, from = 0) =>
  Promise.all(Array.from({ length: count }, (_, i) => requester.ask(from + i)));

export const kindsOf = (answers: readonly { readonly answer: LaneAnswer }[]): string[] => [
  ...new Set(answers.map(({ answer }) => answer.kind)),
];

/** Work that grants everything once the gate is open. */
export const grantBehind =
  (gate: Gate) =>
  (entry: LaneEntry): Promise<LaneAnswerBatch> =>
    gate.passed.then(() => grantAll(entry));

export const untilEmpty = (bench: LaneBench): Promise<number> =>
  until('stream and books are empty', async () => (await bench.entries()).stream + (await bench.entries()).pending === 0, 3_000);

export interface LaneWorld {
  /** Of the test that runs. */
  readonly bench: LaneBench;
}

export const laneWorld = (): LaneWorld => {
  let server: TestRedis;
  let bench: LaneBench;
  before(async () => {
    server = await startTestRedis();
  });
  after(() => server.close());
  beforeEach(async () => {
    bench = new LaneBench(server);
    await bench.look.flushall();
  });
  afterEach(() => bench.close());
  return {
    get bench() {
      return bench;
    },
  };
};
