/** Which signers the supervisor runs: one for each slot that stamps, in a process of its own, so that no slot can take another with it. */
import type { Config } from '../config/schema.ts';

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
