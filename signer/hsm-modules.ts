/**
 * All modules of the configuration as one: whatever concerns a token goes to the module that its slot names.
 *
 * A library is in a process once, however many names its file has, so it is initialised once, and with one environment.
 */
import { statSync } from 'node:fs';
import { isDeepStrictEqual } from 'node:util';
import { SigilloError } from '../config/errors.ts';
import { type Hsm, type HsmModule, type HsmSlot, openModule } from './pkcs11-module.ts';

/** Tokens by their labels, whatever modules they are in. */
export type OpenHsm = Omit<HsmModule, 'lib' | 'modulePath'>;

/** What the loader tells libraries apart by: device and inode; the path for a file that it has yet to search, or that is not there. */
const fileOf = (modulePath: string): string => {
  const found = statSync(modulePath, { bigint: true, throwIfNoEntry: false });
  return found === undefined ? modulePath : `${found.dev}:${found.ino}`;
};

interface OpenModule {
  readonly module: HsmModule;
  readonly first: HsmSlot;
}

/** Opens a module when the first of its slots is asked for: one that cannot be loaded takes no slot of another with it. */
export const openHsm = (hsm: Hsm): OpenHsm => {
  const open = new Map<string, OpenModule>();
  /** By the path of a module that is open: a file that is replaced while it is loaded is no other module. */
  const files = new Map<string, string>();
  const moduleOf = (slot: HsmSlot): HsmModule => {
    const { modulePath, environment } = slot;
    const file = files.get(modulePath) ?? fileOf(modulePath);
    const known = open.get(file) ?? {
      module: openModule({ modulePath, environment, refusedPinFolder: hsm.refusedPinFolder }),
      first: slot,
    };
    open.set(file, known);
    files.set(modulePath, file);
    const { module, first } = known;
    if (isDeepStrictEqual(first.environment, environment)) return module;
    const other = `"${first.label}" (${first.modulePath})`;
    throw new SigilloError(
      'CONFIG_INVALID',
      `hsm.slots: the module of "${slot.label}" (${modulePath}) is that of ${other}, and has another environment; give it a copy of the file`,
    );
  };
  const moduleByLabel = (label: string): HsmModule => {
    const slot = hsm.slots.find((candidate) => candidate.label === label);
    if (slot === undefined) throw new SigilloError('CONFIG_INVALID', `hsm.slots: none is labelled "${label}"`);
    return moduleOf(slot);
  };
  return {
    modulePathOf: (label) => moduleByLabel(label).modulePath,
    tokens: () => [...new Set(hsm.slots.map(moduleOf))].flatMap((module) => module.tokens()),
    findSlot: (label) => moduleByLabel(label).findSlot(label),
    login: (slot) => moduleOf(slot).login(slot),
    openSession: (label, options) => moduleByLabel(label).openSession(label, options),
    loginSession: (label) => moduleByLabel(label).loginSession(label),
    sessionLimit: (label) => moduleByLabel(label).sessionLimit(label),
    close() {
      for (const { module } of open.values()) module.close();
      open.clear();
      files.clear();
    },
  };
};
