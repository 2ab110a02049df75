/** Which processes with keys the supervisor runs: a signer for each slot that stamps, so that no slot can take another with it. */
import type { Config, KeyPurpose } from '../config/schema.ts';

export interface PlannedSigner {
  readonly name: string;
  /** Token label; undefined: the only one. */
  readonly slot: string | undefined;
}

/** In the order of the configuration. */
export const planSigners = ({ hsm }: Config): readonly PlannedSigner[] => {
  const slots = hsm.mode === 'module' ? hsm.slots.filter(({ purposes }) => purposes.includes('timestamp')) : [];
  if (slots.length <= 1) return [{ name: 'signer', slot: undefined }];
  return slots.map(({ label }, index) => ({ name: `signer-${index + 1}`, slot: label }));
};

/** What may keep a process from tokens of an operator until somebody mends it: PINs and modules of these slots. */
export const filesOfSlots = (
  { hsm }: Config,
  chosen: { readonly label?: string | undefined; readonly purposes: readonly KeyPurpose[] },
): readonly string[] | undefined => {
  if (hsm.mode !== 'module') return undefined;
  const { label, purposes } = chosen;
  const slots = hsm.slots.filter((slot) => slot.purposes.some((one) => purposes.includes(one)) && (label ?? slot.label) === slot.label);
  return [...new Set(slots.flatMap(({ pinFile, module }) => [pinFile, module ?? hsm.module]))];
};
