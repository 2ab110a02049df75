/**
 * The slots of every purpose as metrics, from what their processes tell in Redis: that of a slot that has failed cannot answer a scrape.
 * Every gateway serves them, all the same: look at them with `max by (node, slot, purpose)`. A slot that several processes have for one
 * purpose, as signers have that of the journal, is up while one of them can sign. While Redis is away there are none.
 */
import { Counter, Gauge, type Registry } from 'prom-client';
import { believedState, failureClasses, type ToldSlot } from '../queue/slot-status.ts';

/** A scrape does not wait longer for Redis. */
const patienceMs = 500;

/** Reads once for all metrics of one scrape; what does not come in time is nothing. */
const sharedReading = (read: () => Promise<readonly ToldSlot[]>): (() => Promise<readonly ToldSlot[]>) => {
  let underWay: Promise<readonly ToldSlot[]> | undefined;
  return () => {
    if (underWay !== undefined) return underWay;
    const { promise, resolve } = Promise.withResolvers<readonly ToldSlot[]>();
    underWay = promise;
    const timer = setTimeout(() => resolve([]), patienceMs);
    read().then(resolve, () => resolve([])); // Redis is away, which its own item of /readyz says
    return promise.finally(() => {
      clearTimeout(timer);
      underWay = undefined;
    });
  };
};

/** Adds the metrics of the slots. @param read what is told of them now */
export const registerSlotMetrics = (registry: Registry, read: () => Promise<readonly ToldSlot[]>): void => {
  const told = sharedReading(read);
  const registers = [registry];
  const labelNames = ['node', 'slot', 'purpose', 'process'] as const;
  const labelsOf = ({ status: { node, slot, purpose, process } }: ToldSlot) => ({ node, slot, purpose, process });
  new Gauge({
    registers,
    aggregator: 'max',
    name: 'hsm_slot_up',
    help: '1 while a slot signs for this purpose, 0 while it does not.',
    labelNames,
    async collect() {
      const slots = await told();
      this.reset();
      for (const slot of slots) this.set(labelsOf(slot), believedState(slot) === 'serving' ? 1 : 0);
    },
  });
  new Gauge({
    registers,
    aggregator: 'max',
    name: 'hsm_slot_pin_refused',
    help: '1 while a slot does not sign because its PIN was refused.',
    labelNames,
    async collect() {
      const slots = await told();
      this.reset();
      for (const slot of slots) this.set(labelsOf(slot), believedState(slot) === 'pin-refused' ? 1 : 0);
    },
  });
  new Gauge({
    registers,
    aggregator: 'max',
    name: 'hsm_slot_sessions_max',
    help: 'Sessions for signing that a slot may have; 0 while it does not sign.',
    labelNames,
    async collect() {
      const slots = await told();
      this.reset();
      for (const slot of slots) this.set(labelsOf(slot), slot.status.sessions.max);
    },
  });
  new Counter({
    registers,
    name: 'hsm_slot_signatures_total',
    help: 'Signatures that the process of a slot has made; it begins anew with each process.',
    labelNames,
    async collect() {
      const slots = await told();
      this.reset();
      for (const slot of slots) this.inc(labelsOf(slot), slot.status.signatures.total);
    },
  });
  new Counter({
    registers,
    name: 'hsm_slot_failures_total',
    help: 'What failed in a slot, by class of error; it goes on over restarts of its process.',
    labelNames: [...labelNames, 'class'] as const,
    async collect() {
      const slots = await told();
      this.reset();
      for (const slot of slots)
        for (const one of failureClasses) this.inc({ ...labelsOf(slot), class: one }, slot.status.failures[one] ?? 0);
    },
  });
};
