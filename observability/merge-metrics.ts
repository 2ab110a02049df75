/** Metrics of several processes as one Prometheus text. */
import { AggregatorRegistry, type MetricObject, type MetricObjectWithValues, type MetricValue } from 'prom-client';

/** What `registry.getMetricsAsJSON()` gives, also after its way through JSON. */
export type MetricsJson = readonly MetricObjectWithValues<MetricValue<string>>[];

export interface ProcessMetrics {
  readonly process: string;
  readonly metrics: MetricsJson;
}

/** Metrics that every process has under the same name: a sum over processes would say nothing. */
const isPerProcess = (name: string): boolean => name.startsWith('process_') || name.startsWith('nodejs_');

const labelled = ({ process, metrics }: ProcessMetrics): MetricsJson =>
  metrics.map((metric) =>
    isPerProcess(metric.name)
      ? { ...metric, values: metric.values.map((value) => ({ ...value, labels: { ...value.labels, process } })) }
      : metric,
  );

/** Sums (or joins as each metric's `aggregator` says) what the processes counted; what each has of its own gets a label `process`. */
export const mergeMetrics = async (processes: readonly ProcessMetrics[]): Promise<string> =>
  AggregatorRegistry.aggregate(processes.map(labelled) as unknown as MetricObject[]).metrics();
