/**
 * What every start makes sure of before a service process runs: home folder, tokens, keys and certificates.
 *
 * Each step looks first and makes only what is missing, and what it makes appears at once and whole, so a run that was
 * killed anywhere is finished by the next. One run at a time for a home folder: the caller holds its lock.
 */
import { mkdirSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { homePaths } from '../config/home.ts';
import { makePrivateHome } from '../config/private-folder.ts';
import type { Config } from '../config/schema.ts';
import { ensureEmbeddedTokens } from '../signer/embedded-token.ts';
import { type OpenHsm, openHsm } from '../signer/hsm-modules.ts';
import { type Hsm, type HsmSlot, resolveHsm, slotForPurpose } from '../signer/pkcs11-module.ts';
import { ensureAuthorities, ensureTsu } from './demonstration-pki.ts';
import { checkInstalledTsu } from './installed-tsu.ts';
import { ensureJournalKey } from './journal-key.ts';
import type { OpenToken } from './make-key.ts';
import { onSlots } from './several-slots.ts';

const prepareFolder = (config: Config): void => {
  const paths = homePaths(config.home);
  makePrivateHome(paths.root);
  mkdirSync(paths.pkiFolder, { recursive: true, mode: 0o700 });
  // Left by an interrupted atomic write; a TSU gets another number then, so nothing would overwrite it.
  for (const name of readdirSync(paths.pkiFolder)) if (name.endsWith('.pem.new')) rmSync(join(paths.pkiFolder, name));
};

/** Slots that a start reads or writes keys in; others are the business of whoever uses them. */
const slotsInUse = (config: Config, hsm: Hsm): readonly HsmSlot[] => {
  const stamping =
    config.timestamp.tsu.source === 'installed'
      ? hsm.slots.filter(({ purposes }) => purposes.includes('timestamp'))
      : [slotForPurpose(hsm, 'authority'), slotForPurpose(hsm, 'timestamp')];
  return [...new Set([...stamping, slotForPurpose(hsm, 'journal')])];
};

const openToken = (module: OpenHsm, { label }: HsmSlot): OpenToken => ({
  label,
  session: module.openSession(label, { readWrite: true }),
});

const prepareDemonstration = async (config: Config, hsm: Hsm, module: OpenHsm, progress: Progress, now: () => Date): Promise<void> => {
  const [authoritySlot, timestampSlot] = [slotForPurpose(hsm, 'authority'), slotForPurpose(hsm, 'timestamp')];
  const authority = openToken(module, authoritySlot);
  const timestamp = timestampSlot === authoritySlot ? authority : openToken(module, timestampSlot);
  const context = { config, authority, timestamp, now, made: progress.made };
  progress.begin('Demonstration root CA and timestamp CA');
  const { timestampCa } = await ensureAuthorities(context);
  progress.begin(`Timestamping unit (${config.timestamp.algorithm})`);
  await ensureTsu(context, timestampCa);
};

interface Progress {
  /** A step begins. */
  begin(title: string): void;
  /** Something is there that was not. */
  made(what: string): void;
}

const createProgress = (total: number, report: (line: string) => void): Progress => {
  let step = 0;
  return {
    begin(title) {
      step += 1;
      report(`[${step}/${total}] ${title}`);
    },
    made: (what) => report(`      made: ${what}`),
  };
};

/**
 * Makes the home folder ready for the service, reporting each step in one line. Loads the PKCS#11 module and unloads it
 * again, so it runs in a process of its own.
 *
 * @param options.now the clock, for tests of what depends on the date
 */
export const firstStart = async (config: Config, report: (line: string) => void, options: { now?: () => Date } = {}): Promise<void> => {
  const now = options.now ?? (() => new Date());
  const embedded = config.hsm.mode === 'embedded';
  const demonstration = config.timestamp.tsu.source === 'demonstration';
  const progress = createProgress(3 + (embedded ? 1 : 0) + (demonstration ? 2 : 1), report);
  progress.begin(`Home folder ${config.home}`);
  prepareFolder(config);
  if (embedded) {
    progress.begin('SoftHSM tokens');
    for (const label of ensureEmbeddedTokens(config)) progress.made(`token ${label}`);
  }
  progress.begin('Login to the tokens');
  const hsm = resolveHsm(config);
  const module = openHsm(hsm);
  try {
    const stamping = (slot: HsmSlot): boolean => !demonstration && slot.purposes.includes('timestamp');
    const slots = slotsInUse(config, hsm);
    for (const slot of slots.filter((one) => !stamping(one))) module.login(slot);
    onSlots(slots.filter(stamping), (slot) => module.login(slot), report);
    if (demonstration) {
      await prepareDemonstration(config, hsm, module, progress, now);
    } else {
      progress.begin('Installed timestamping unit');
      await checkInstalledTsu(config, hsm, module, now(), report);
    }
    progress.begin('Key of the journal');
    ensureJournalKey(config, openToken(module, slotForPurpose(hsm, 'journal')), progress.made);
  } finally {
    module.close();
  }
};
