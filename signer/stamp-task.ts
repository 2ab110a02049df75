/** What the signer's main thread and its worker threads hand each other. */
import type { Config } from '../config/schema.ts';
import type { KeyScheme, SignatureDigest } from '../pki/algorithms.ts';
import type { StampOutcome } from '../queue/answer-block.ts';
import type { Pkcs11ErrorClass } from './pkcs11-errors.ts';

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
  /** Instant of its activation, Unix milliseconds: of several TSUs the one that was activated last stamps. */
  readonly activeFromMs: number;
  /** Last instant at which its key may sign, Unix milliseconds; its certificate may set an earlier one. */
  readonly usableUntilMs: number;
}

/** Given to each worker thread at its start. */
export interface StampWorkerData {
  readonly modulePath: string;
  /** Handle of the slot that the main thread found by the token's label and logged in to. */
  readonly slot: Uint8Array;
  readonly node: string;
  /** The TSUs of this slot (shared-tsus.ts). */
  readonly tsuMemory: SharedArrayBuffer;
  readonly timestamp: Pick<Config['timestamp'], 'policies' | 'accuracyMicros' | 'tsaName' | 'qualified'>;
  readonly time: Config['time'];
  readonly clockMemory: SharedArrayBuffer;
  /** When each thread may open its next session (session-pace.ts). */
  readonly paceMemory: SharedArrayBuffer;
  /** Where each thread says that it is inside the module (call-watch.ts). */
  readonly callMemory: SharedArrayBuffer;
  /** Where threads count what the token would not sign (token-refusals.ts). */
  readonly refusalMemory: SharedArrayBuffer;
}

export interface StampTask {
  /** Request batch (queue/stamp-messages.ts), transferred. */
  readonly payload: Uint8Array;
  /** When the batch entered the lane, on the machine's monotonic clock. */
  readonly enteredAtMs: number;
  /** Signatures that this thread may have in the token at once; 1: it waits for each. */
  readonly atOnce: number;
}

export interface StampedBatch {
  readonly kind: 'stamped';
  /** Block of answers (queue/answer-block.ts), transferred. */
  readonly block: Uint8Array;
  readonly stamps: Map<string, number>;
  readonly outcomes: Record<StampOutcome, number>;
  /** Milliseconds inside C_SignInit and C_Sign, all stamps of the batch together. */
  readonly signMs: number;
  /** Milliseconds that the thread has worked, waiting for the token not counted. */
  readonly cpuMs: number;
  /** First request in this batch that was answered systemFailure, for the log. */
  readonly failure: { readonly code: string; readonly message: string } | undefined;
}

/** The token failed, and with it the batch: nothing of it was answered, so another slot can take it. */
export interface SlotFailure {
  readonly kind: 'slotFailed';
  readonly errorClass: Pkcs11ErrorClass;
  readonly message: string;
}

/** TSUs that should stamp, or will, and cannot be opened; the slot goes on with the others. */
export interface TsusSetAside {
  readonly kind: 'setAside';
  readonly messages: readonly string[];
}

/** What a thread has found when it looked after its sessions. */
export type LookResult = SlotFailure | TsusSetAside | undefined;

/** The batch cannot be read. A code would not survive the way between threads. */
export interface MalformedBatch {
  readonly kind: 'malformed';
  readonly message: string;
}

/** There is no TSU that may stamp: nothing of the batch was answered, so another signer can take it. */
export interface NoTsu {
  readonly kind: 'noTsu';
  readonly message: string;
}

export type StampTaskResult = StampedBatch | SlotFailure | NoTsu | MalformedBatch;
