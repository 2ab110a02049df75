/**
 * The slots whose keys have a calendar: logged in to, and each with its ticks. A slot that fails keeps the others from nothing.
 */
import { hash } from 'node:crypto';
import { SigilloError } from '../config/errors.ts';
import { homePaths } from '../config/home.ts';
import type { Config } from '../config/schema.ts';
import type { Logger } from '../observability/log.ts';
import type { RedisClient } from '../queue/redis.ts';
import { startTicks, type Ticks } from '../queue/ticks.ts';
import { tokenName } from '../queue/tsu-register.ts';
import type { OpenHsm } from './hsm-modules.ts';
import { hsmError } from './pkcs11-errors.ts';
import type { Hsm, HsmSlot } from './pkcs11-module.ts';

/** How often it is looked whether the file of a PIN that was refused has another one. */
const refusedLookMs = 10_000;

export const timestampSlots = (hsm: Hsm): readonly HsmSlot[] => hsm.slots.filter(({ purposes }) => purposes.includes('timestamp'));

interface OpenedSlots {
  readonly slots: readonly HsmSlot[];
  /** Their PINs are not tried again before their files have others. */
  readonly refused: readonly HsmSlot[];
  /** Of those that a later process must try again. */
  readonly failure: SigilloError | undefined;
}

/**
 * Logs in to the slots whose keys have a calendar. One that fails must not keep the others from it.
 * @throws what the first one has failed with, when all have
 */
export const openSlots = (hsm: Hsm, module: Pick<OpenHsm, 'login'>, log: Pick<Logger, 'error'>): OpenedSlots => {
  const slots: HsmSlot[] = [];
  const refused: HsmSlot[] = [];
  const failures: SigilloError[] = [];
  for (const slot of timestampSlots(hsm)) {
    try {
      module.login(slot);
      slots.push(slot);
    } catch (error) {
      if (!(error instanceof SigilloError) || !error.code.startsWith('HSM_')) throw error;
      log.error({ token: slot.label, err: error }, 'lifecycle: the keys of this token are not looked after for now');
      if (error.code === 'HSM_PIN_REFUSED') refused.push(slot);
      failures.push(error);
    }
  }
  const failure = failures.find(({ code }) => code !== 'HSM_PIN_REFUSED');
  if (slots.length === 0 && failures[0] !== undefined) throw failure ?? failures[0];
  return { slots, refused, failure };
};

/**
 * Logs in to a slot whose PIN was refused, once its file has another one that the token takes.
 * @returns ends the look
 */
export const awaitPin = (
  slot: HsmSlot,
  module: Pick<OpenHsm, 'login'>,
  on: { readonly open: (slot: HsmSlot) => void; readonly failed: (error: SigilloError) => void },
  everyMs = refusedLookMs,
): (() => void) => {
  const timer = setInterval(() => {
    try {
      module.login(slot);
    } catch (error) {
      const failure = hsmError(error, `log in to token "${slot.label}"`);
      if (failure.code === 'HSM_PIN_REFUSED') return;
      clearInterval(timer);
      on.failed(failure);
      return;
    }
    clearInterval(timer);
    on.open(slot);
  }, everyMs);
  return () => clearInterval(timer);
};

/** BullMQ takes no colon in a name, and a label may have anything. */
const queueName = (name: string): string => `keys-${hash('sha256', name, 'hex').slice(0, 16)}`;

interface CalendarParts {
  readonly config: Config;
  readonly jobs: RedisClient;
  readonly module: Pick<OpenHsm, 'findSlot'>;
  readonly log: Pick<Logger, 'info' | 'error'>;
  /** What is done at each tick, by one process at a time. */
  readonly work: (slot: HsmSlot, serial: string) => Promise<void>;
}

export interface Calendars {
  /** Labels of the tokens that are looked after. */
  readonly tokens: readonly string[];
  /** Resolves when a slot that was added cannot be looked after. */
  readonly failed: Promise<Error>;
  /** Looks after one more slot, logged in to. */
  add(slot: HsmSlot): void;
  close(): Promise<void>;
}

/** Has the calendars of these slots looked at, from now on. @throws HSM_TOKEN_MISSING; what Redis says */
export const watchCalendars = async (slots: readonly HsmSlot[], parts: CalendarParts): Promise<Calendars> => {
  const { config, jobs, module, log, work } = parts;
  const tokens: string[] = [];
  const ticks: Ticks[] = [];
  const failed = Promise.withResolvers<Error>();
  const watch = async (slot: HsmSlot): Promise<void> => {
    const serial = module.findSlot(slot.label).getToken().serialNumber.trim();
    const started = await startTicks({
      name: queueName(tokenName(slot.label, serial)),
      everyMs: config.tsu.tickMs,
      connection: jobs,
      work: () => work(slot, serial),
      onError: (error) => log.error({ token: slot.label, err: error }, 'tsu: a look at the calendar failed'),
    });
    ticks.push(started);
    tokens.push(slot.label);
    log.info({ token: slot.label, home: homePaths(config.home).pkiFolder }, 'lifecycle: watching the calendar');
  };
  for (const slot of slots) await watch(slot);
  let adding = Promise.resolve();
  return {
    tokens,
    failed: failed.promise,
    add(slot) {
      adding = adding.then(() => watch(slot)).catch(failed.resolve);
    },
    async close() {
      await adding;
      await Promise.all(ticks.map((one) => one.close()));
    },
  };
};
