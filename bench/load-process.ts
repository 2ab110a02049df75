/** The load generator: a process of its own, so that its CPU time is never counted as the service's. Ends with its parent. */
import { runClosedLoop } from './closed-loop.ts';
import { runFixedRate } from './fixed-rate.ts';
import type { LoadAnswer, LoadJob, LoadResult } from './load-job.ts';

const run = (job: LoadJob): Promise<LoadResult> => (job.kind === 'closed-loop' ? runClosedLoop(job) : runFixedRate(job));
const answer = (message: LoadAnswer): void => void process.send?.(message);

process.on('message', (job: LoadJob) => {
  run(job).then(
    (result) => answer({ result }),
    (error: unknown) => answer({ failure: error instanceof Error ? (error.stack ?? error.message) : String(error) }),
  );
});
process.on('disconnect', () => process.exit(0));
// Ctrl-C reaches the whole terminal group: the parent decides when this ends.
process.on('SIGINT', () => undefined);
