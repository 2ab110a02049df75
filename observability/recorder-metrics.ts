/** What a process counts of the events that it tells the journal. */
import { Counter, type Registry } from 'prom-client';

/** @param lost events of this process that found no way into the journal */
export const registerRecorderMetrics = (registry: Registry, lost: () => number): void => {
  new Counter({
    name: 'journal_events_lost_total',
    help: 'Events of this process that found no room in memory while Redis was away.',
    registers: [registry],
    collect() {
      this.reset();
      this.inc(lost());
    },
  });
};
