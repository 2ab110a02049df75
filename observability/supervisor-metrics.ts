/** What the supervisor counts of the processes that it keeps alive. */
import { Counter, Gauge, type Registry } from 'prom-client';

/** Adds them. @param processes which are there now, and whether each is ready @returns counts a start after a death */
export const registerSupervisorMetrics = (
  registry: Registry,
  processes: () => readonly { readonly name: string; readonly ready: boolean }[],
): Counter<'process'> => {
  const registers = [registry];
  new Gauge({
    name: 'supervised_up',
    help: '1 while the process is ready',
    labelNames: ['process'],
    registers,
    collect() {
      for (const { name, ready } of processes()) this.set({ process: name }, ready ? 1 : 0);
    },
  });
  return new Counter({ name: 'supervised_restarts_total', help: 'Starts after a death', labelNames: ['process'], registers });
};
