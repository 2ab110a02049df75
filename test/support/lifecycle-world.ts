/** A home folder with real SoftHSM tokens and a demonstration PKI, a real Redis, and lifecycles on its timestamp token with a clock of the test's. */
import { pino } from 'pino';
import { openEmbeddedAuthority } from '../../bin/embedded-authority.ts';
import { firstStart } from '../../bin/prepare-home.ts';
import type { Config } from '../../config/schema.ts';
import { JournalRecorder } from '../../observability/journal/recorder.ts';
import { Lease } from '../../queue/lease.ts';
import type { RedisClient } from '../../queue/redis.ts';
import { tokenName, tsuRegisterKeys } from '../../queue/tsu-register.ts';
import { withoutApprovals } from '../../signer/approvals.ts';
import type { EmbeddedAuthority } from '../../signer/authority-slot.ts';
import { type OpenHsm, openHsm } from '../../signer/hsm-modules.ts';
import { type Hsm, resolveHsm, slotForPurpose } from '../../signer/pkcs11-module.ts';
import { publishChains } from '../../signer/published-chains.ts';
import { TsuFolder } from '../../signer/tsu-folder.ts';
import { TsuLifecycle, type TsuLifecycleOptions } from '../../signer/tsu-lifecycle.ts';

export interface LifecycleWorld {
  readonly config: Config;
  readonly hsm: Hsm;
  module: OpenHsm;
  readonly label: string;
  readonly serial: string;
  authority: EmbeddedAuthority;
  readonly recorder: JournalRecorder;
  readonly log: { level: number; msg: string; err?: { code?: string; message?: string } }[];
  now: Date;
  /** What to open, do and close for one look at the calendar; `leased` false lets several work at once. */
  work(change?: Partial<TsuLifecycleOptions> & { leased?: boolean }): Promise<boolean>;
  /** Runs the first start again, as of `now`; it loads and unloads the module for itself. */
  startAgain(): Promise<void>;
  close(): void;
}

/** Sets the home folder up, as of `now`, and opens its module in this process: one world for each test file. */
export const openLifecycleWorld = async (config: Config, redis: RedisClient, now: Date): Promise<LifecycleWorld> => {
  await firstStart(config, () => undefined, { now: () => now });
  const hsm = resolveHsm(config);
  const module = openHsm(hsm);
  const slot = slotForPurpose(hsm, 'timestamp');
  module.login(slot);
  const serial = module.findSlot(slot.label).getToken().serialNumber.trim();
  const lines: LifecycleWorld['log'] = [];
  const log = pino({ level: 'debug' }, { write: (line: string) => void lines.push(JSON.parse(line)) });
  const recorder = new JournalRecorder({ redis, actor: 'lifecycle' });
  const world: LifecycleWorld = {
    config,
    hsm,
    module,
    label: slot.label,
    serial,
    authority: await openEmbeddedAuthority(config, module, hsm, () => world.now),
    recorder,
    log: lines,
    now,
    async work({ leased = true, ...change } = {}) {
      const session = world.module.openSession(slot.label, { readWrite: true });
      const lease = new Lease(redis, { key: tsuRegisterKeys.lease(tokenName(slot.label, serial)), lengthMs: 60_000 });
      try {
        return await new TsuLifecycle({
          config,
          redis,
          log,
          token: { label: slot.label, serial, session },
          folder: new TsuFolder(config),
          certify: world.authority.certify,
          approvals: withoutApprovals,
          lease: leased ? lease : { acquire: async () => true, release: async () => undefined, heldForMs: 60_000 },
          publish: () => publishChains({ redis, recorder, config }),
          now: () => world.now,
          ...change,
        }).work();
      } finally {
        session.close();
      }
    },
    async startAgain() {
      world.module.close();
      try {
        await firstStart(config, () => undefined, { now: () => world.now });
      } finally {
        world.module = openHsm(hsm);
        world.module.login(slot);
        world.authority = await openEmbeddedAuthority(config, world.module, hsm, () => world.now);
      }
    },
    close: () => world.module.close(),
  };
  return world;
};
