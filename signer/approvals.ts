/** What operators must agree to, whoever asks them (signer/dual-control.ts). */
/** A step with a key that waits for them. */
export interface ApprovedStep {
  readonly action: 'generate' | 'activate' | 'destroy';
  readonly token: string;
  readonly keyLabel: string;
  /** Of the key; undefined while there is none. */
  readonly id: string | undefined;
}

/** Dual control: says whether enough operators have agreed, and asks them when nobody has asked yet. */
export interface Approvals {
  permit(step: ApprovedStep): Promise<boolean>;
  /** It is done, once and for all. */
  executed(step: ApprovedStep): Promise<void>;
  /** Whether enough operators have agreed, done or not, whoever asks. Nobody is asked for it, and it counts for nothing else. */
  agreed(step: ApprovedStep): Promise<boolean>;
}

/** Without dual control everything is permitted. */
export const withoutApprovals: Approvals = { permit: async () => true, executed: async () => undefined, agreed: async () => true };
