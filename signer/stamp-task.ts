/** What the signer's main thread and its worker threads hand each other. */
import type { Config } from '../config/schema.ts';
import type { KeyScheme, SignatureDigest } from '../pki/algorithms.ts';
import type { StampOutcome } from '../queue/answer-block.ts';

/** A timestamping unit: one key in a token, with the certificate chain it stamps under. */
export interface Tsu {
  /** SHA-256 of the certificate, lower-case hex. */
  readonly id: string;
  readonly tokenLabel: string;
  readonly keyLabel: string;
  readonly scheme: KeyScheme;
  readonly signatureDigest: SignatureDigest;
  /** TSU certificate first, then its authorities without the root; DER. */
  readonly chain: readonly Uint8Array[];
}

/** Given to each worker thread at its start. */
export interface StampWorkerData {
  readonly modulePath: string;
  /** Handle of the slot that the main thread found by the token's label and logged in to. */
  readonly slot: Uint8Array;
  readonly node: string;
  readonly tsu: Tsu;
  readonly timestamp: Pick<Config['timestamp'], 'policies' | 'accuracyMicros' | 'tsaName' | 'qualified'>;
  readonly time: Config['time'];
  readonly clockMemory: SharedArrayBuffer;
}

export interface StampTask {
  /** Request batch (queue/stamp-messages.ts), transferred. */
  readonly payload: Uint8Array;
  /** When the batch entered the lane, on the machine's monotonic clock. */
  readonly enteredAtMs: number;
}

export interface StampTaskResult {
  /** Block of answers (queue/answer-block.ts), transferred. */
  readonly block: Uint8Array;
  readonly stamps: Map<string, number>;
  readonly outcomes: Record<StampOutcome, number>;
  /** Milliseconds inside C_SignInit and C_Sign, all stamps of the batch together. */
  readonly signMs: number;
  /** First failure of the token in this batch, for the log; those requests were answered systemFailure. */
  readonly failure: { readonly code: string; readonly message: string } | undefined;
}
