/**
 * The work of one signer thread: turns a batch of requests into a block of answers, which is also their journal.
 *
 * The order for each request is: still wanted, key within its usage period, genTime last, signature. A request whose
 * deadline has passed costs no HSM time; a failing token refuses its requests and takes no other down.
 */
import { createHash, randomBytes, verify, X509Certificate } from 'node:crypto';
import { SigilloError } from '../config/errors.ts';
import { digestAlgorithms } from '../pki/algorithms.ts';
import { readSignerCertificate } from '../pki/signer-certificate.ts';
import type { TokenTemplate } from '../pki/token-template.ts';
import { privateKeyUsagePeriod } from '../pki/tsu-usage.ts';
import {
  answerOctets,
  blockHeaderOctets,
  type StampAnswer,
  type StampOutcome,
  writeAnswer,
  writeBlockHeader,
} from '../queue/answer-block.ts';
import { decodeStampRequests, type ReceivedStampRequest } from '../queue/stamp-messages.ts';
import { type ClockReading, createGuardedClock, type GuardedClock } from './clock.ts';
import { machineClocks } from './clock-sources.ts';
import { GrowingBuffer } from './growing-buffer.ts';
import { type KeySession, openKeySession } from './key-session.ts';
import { createSerialNumbers } from './serial-numbers.ts';
import type { StampTask, StampTaskResult, StampWorkerData } from './stamp-task.ts';
import { TokenTemplates } from './token-templates.ts';

type TimeReading = Extract<ClockReading, { kind: 'time' }>;
const noSerial = new Uint8Array();
/** A block of 64 stamps is about 60 KB; larger ones grow the buffer once. */
const blockOctets = 128 * 1024;

const noOutcomes = (): Record<StampOutcome, number> => ({ granted: 0, timeNotAvailable: 0, systemFailure: 0, expired: 0 });

/** Signs a challenge and verifies it against the certificate: no self-test, no service. @throws HSM_SELFTEST_FAILED */
const proveKey = (session: KeySession, data: StampWorkerData): void => {
  const challenge = randomBytes(32);
  const { name } = digestAlgorithms[data.tsu.signatureDigest];
  const signature = session.sign(createHash(name).update(challenge).digest());
  const key = new X509Certificate(data.tsu.chain[0] as Uint8Array).publicKey;
  const padding = data.tsu.scheme.kind === 'rsa-pss' ? { padding: 6, saltLength: digestAlgorithms[data.tsu.signatureDigest].octets } : {};
  if (!verify(name, challenge, { key, ...padding }, signature)) throw new SigilloError('HSM_SELFTEST_FAILED', `key ${data.tsu.keyLabel}`);
};

/** Stamps batches with one session and one key; one for each thread. */
export class Stamper {
  readonly #data: StampWorkerData;
  readonly #session: KeySession;
  readonly #templates: TokenTemplates;
  readonly #usableUntil: number;
  readonly #tsu: Buffer;
  readonly #clock: GuardedClock;
  readonly #nowMs: () => number;
  readonly #nextSerial = createSerialNumbers();
  readonly #block = new GrowingBuffer(blockOctets);
  #outcomes: Record<StampOutcome, number> = noOutcomes();
  #stamps = new Map<string, number>();
  #signMs = 0;
  #preparedMs = 0;
  #failure: StampTaskResult['failure'];

  /** Opens the session and lets the key prove itself. @throws HSM_KEY_MISSING, HSM_SELFTEST_FAILED, PKCS#11 errors */
  constructor(data: StampWorkerData) {
    const { tsu } = data;
    this.#data = data;
    this.#session = openKeySession({
      modulePath: data.modulePath,
      slot: data.slot,
      keyLabel: tsu.keyLabel,
      purpose: 'timestamp',
      scheme: tsu.scheme,
      digest: tsu.signatureDigest,
    });
    proveKey(this.#session, data);
    const certificate = readSignerCertificate(tsu.chain[0] as Uint8Array);
    this.#templates = new TokenTemplates(data, certificate);
    this.#usableUntil = privateKeyUsagePeriod(certificate.der)?.notAfter?.getTime() ?? Number.POSITIVE_INFINITY;
    this.#tsu = Buffer.from(tsu.id, 'hex');
    const clocks = machineClocks();
    this.#clock = createGuardedClock(data.clockMemory, clocks, data.time);
    this.#nowMs = clocks.monotonicMs;
  }

  /** Answers every request of a batch. @throws LANE_ENTRY_MALFORMED when the batch cannot be read */
  stamp({ payload, enteredAtMs }: StampTask): StampTaskResult {
    const requests = decodeStampRequests(Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength));
    this.#outcomes = noOutcomes();
    this.#stamps = new Map();
    this.#signMs = 0;
    this.#failure = undefined;
    this.#block.clear(blockHeaderOctets(this.#data.node));
    for (const request of requests) this.#answer(request, enteredAtMs);
    writeBlockHeader(this.#block.bytes, this.#data.node, this.#tsu, requests.length);
    return { block: this.#block.copy(), stamps: this.#stamps, outcomes: this.#outcomes, signMs: this.#signMs, failure: this.#failure };
  }

  /** Makes the next stamp faster, see KeySession; for a moment when nobody waits. */
  prepare(): void {
    const started = performance.now();
    this.#session.prepare();
    // Part of the next signature's cost: without it a prepared stamp looks three times as cheap as it is.
    this.#preparedMs += performance.now() - started;
  }

  /** Closes the session; a thread that ends does not. */
  close(): void {
    this.#session.close();
  }

  #answer(request: ReceivedStampRequest, enteredAtMs: number): void {
    if (this.#nowMs() > enteredAtMs + request.ttlMs) {
      this.#refuse(request, 'expired');
      return;
    }
    const reading = this.#clock.read();
    if (reading.kind === 'unavailable') {
      this.#refuse(request, 'timeNotAvailable');
      return;
    }
    const template = this.#templates.pick(request.policy.toString('latin1'), reading.errorMs);
    if (template === undefined) {
      this.#fail(request, 'CONFIG_INVALID', 'gateway and signer are configured with different policies');
    } else if (reading.unixMillis > this.#usableUntil) {
      this.#fail(request, 'CERTIFICATE_INVALID', 'the usage period of the TSU key has ended');
    } else {
      try {
        this.#grant(request, template, reading);
      } catch (error) {
        this.#fail(request, error instanceof SigilloError ? error.code : 'HSM_DEVICE', (error as Error).message);
      }
    }
  }

  #grant(request: ReceivedStampRequest, template: TokenTemplate, { unixMillis, state }: TimeReading): void {
    const serial = this.#nextSerial();
    const signature = this.#sign(template.prepare(request, serial, unixMillis));
    const answer = this.#answerTo(request, 'granted', state, unixMillis, serial);
    const tokenOctets = template.tokenLength(signature.length);
    const at = this.#block.reserve(answerOctets(answer) + tokenOctets);
    template.writeToken(this.#block.bytes, writeAnswer(this.#block.bytes, at, answer, tokenOctets), signature);
    this.#stamps.set(request.client, (this.#stamps.get(request.client) ?? 0) + 1);
  }

  #sign(hash: Buffer): Uint8Array {
    if (this.#session.purpose !== 'timestamp') throw new SigilloError('HSM_KEY_PURPOSE', this.#data.tsu.keyLabel);
    const started = performance.now();
    const signature = this.#session.sign(hash);
    this.#signMs += performance.now() - started + this.#preparedMs;
    this.#preparedMs = 0;
    return signature;
  }

  #fail(request: ReceivedStampRequest, code: string, message: string): void {
    this.#failure ??= { code, message };
    this.#refuse(request, 'systemFailure');
  }

  #refuse(request: ReceivedStampRequest, outcome: Exclude<StampOutcome, 'granted'>): void {
    const answer = this.#answerTo(request, outcome, 'unverified', Date.now(), noSerial);
    // First reserve, which may replace the buffer, then look at it.
    const at = this.#block.reserve(answerOctets(answer));
    writeAnswer(this.#block.bytes, at, answer, 0);
  }

  #answerTo(
    { id, certReq, client, policy, messageImprint }: ReceivedStampRequest,
    outcome: StampOutcome,
    clock: StampAnswer['clock'],
    unixMillis: number,
    serial: Uint8Array,
  ): StampAnswer {
    this.#outcomes[outcome] += 1;
    return { id, outcome, clock, certReq, unixMillis, client, policy, messageImprint, serial };
  }
}
