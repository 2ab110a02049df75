/** Buckets of every latency histogram, in seconds: from a lone P-256 stamp (0.2 ms) to the longest deadline (60 s). */
export const latencyBuckets = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60];
/** Buckets of histograms that count requests in a batch; batchMax is at most 256. */
export const batchBuckets = [1, 2, 4, 8, 16, 32, 64, 128, 256];

/** Of tsp_stage_seconds, which gateways and signers share. */
export const stageHelp =
  'Time of a batch in each stage: queue (in Redis), sign (in a worker), reply (commit in Redis); and gateway: of a request, from when its body is read and parsed to its answer.';
