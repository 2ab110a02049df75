/** All modules of the configuration as one: whatever concerns a token goes to the module that its slot names. */
import { SigilloError } from '../config/errors.ts';
import { type Hsm, type HsmModule, type HsmSlot, openModule } from './pkcs11-module.ts';

/** Tokens by their labels, whatever modules they are in. */
export type OpenHsm = Omit<HsmModule, 'lib' | 'modulePath'>;

/** Opens a module when the first of its slots is asked for: one that cannot be loaded takes no slot of another with it. */
export const openHsm = (hsm: Hsm): OpenHsm => {
  const open = new Map<string, HsmModule>();
  const moduleOf = ({ modulePath, environment }: HsmSlot): HsmModule => {
    const known = open.get(modulePath);
    if (known !== undefined) return known;
    const module = openModule({ modulePath, environment, refusedPinFolder: hsm.refusedPinFolder });
    open.set(modulePath, module);
    return module;
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
    sessionLimit: (label) => moduleByLabel(label).sessionLimit(label),
    close() {
      for (const module of open.values()) module.close();
      open.clear();
    },
  };
};
