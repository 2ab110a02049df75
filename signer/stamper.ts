/**
 * The work of one signer thread: turns a batch of requests into a batch of TimeStampResp and a block of journal events.
 *
 * The order for each request is: still wanted, key within its usage period, genTime last, signature. A request whose
 * deadline has passed costs no HSM time; a failing token refuses its requests and takes no other down.
 */
import { createHash, randomBytes, verify, X509Certificate } from 'node:crypto';
import { invariant, SigilloError } from '../config/errors.ts';
import {
  blockHeaderOctets,
  type TimestampIssued,
  timestampIssuedOctets,
  writeBlockHeader,
  writeTimestampIssued,
} from '../observability/journal/event-block.ts';
import { digestAlgorithms } from '../pki/algorithms.ts';
import { oid } from '../pki/der.ts';
import { readSignerCertificate } from '../pki/signer-certificate.ts';
import { grantedPrefixLength, TokenTemplate, writeGrantedPrefix } from '../pki/token-template.ts';
import { refusalResponse } from '../pki/tsp-refusal.ts';
import { monotonicMs } from '../queue/redis-clock.ts';
import {
  decodeStampRequests,
  type ReceivedStampRequest,
  replyHeaderOctets,
  replyPrefixOctets,
  type StampOutcome,
  writeReplyHeader,
  writeReplyPrefix,
} from '../queue/stamp-messages.ts';
import { createGuardedClock } from './clock.ts';
import { GrowingBuffer } from './growing-buffer.ts';
import { type KeySession, openKeySession } from './key-session.ts';
import { createSerialNumbers } from './serial-numbers.ts';
import type { StampTask, StampTaskResult, StampWorkerData } from './stamp-task.ts';

/** Signs a challenge and verifies it against the certificate: no self-test, no service. @throws HSM_SELFTEST_FAILED */
const proveKey = (session: KeySession, data: StampWorkerData): void => {
  const challenge = randomBytes(32);
  const { name } = digestAlgorithms[data.tsu.signatureDigest];
  const signature = session.sign(createHash(name).update(challenge).digest());
  const key = new X509Certificate(data.tsu.chain[0] as Uint8Array).publicKey;
  const padding = data.tsu.scheme.kind === 'rsa-pss' ? { padding: 6, saltLength: digestAlgorithms[data.tsu.signatureDigest].octets } : {};
  if (!verify(name, challenge, { key, ...padding }, signature)) throw new SigilloError('HSM_SELFTEST_FAILED', `key ${data.tsu.keyLabel}`);
};

/** Makes the batch function of one thread. */
export const createStamper = (data: StampWorkerData): ((task: StampTask) => StampTaskResult) => {
  const { tsu } = data;
  const session = openKeySession({
    modulePath: data.modulePath,
    slot: data.slot,
    keyLabel: tsu.keyLabel,
    purpose: 'timestamp',
    scheme: tsu.scheme,
    digest: tsu.signatureDigest,
  });
  proveKey(session, data);

  const certificate = readSignerCertificate(tsu.chain[0] as Uint8Array);
  const usableUntil = certificate.keyUsableUntil ?? Number.POSITIVE_INFINITY;
  const tsuDigest = Buffer.from(tsu.id, 'hex');
  const templates = new Map<string, TokenTemplate>();
  for (const dotted of data.timestamp.policies) {
    const policy = oid(dotted);
    templates.set(
      Buffer.from(policy).toString('latin1'),
      new TokenTemplate({
        policy,
        scheme: tsu.scheme,
        signatureDigest: tsu.signatureDigest,
        certificate,
        chain: tsu.chain,
        accuracyMicros: data.timestamp.accuracyMicros,
        tsaName: data.timestamp.tsaName,
        qualified: data.timestamp.qualified,
      }),
    );
  }
  const monotonicOffset = monotonicMs() - performance.now();
  const clock = createGuardedClock(
    data.clockMemory,
    { wallMs: Date.now, monotonicMs: () => performance.now() + monotonicOffset },
    data.time,
  );
  const nextSerial = createSerialNumbers();
  const replies = new GrowingBuffer(256 * 1024);
  const journal = new GrowingBuffer(128 * 1024);

  let outcomes: Record<StampOutcome, number>;
  let stamps: Map<string, number>;
  let issued: number;
  let signMs: number;
  let failure: StampTaskResult['failure'];

  const reply = (id: number, outcome: StampOutcome, response: Uint8Array): void => {
    outcomes[outcome] += 1;
    const at = replies.reserve(replyPrefixOctets + response.length);
    replies.bytes.set(response, writeReplyPrefix(replies.bytes, at, id, outcome, response.length));
  };

  const sign = (hash: Buffer): Uint8Array => {
    invariant(session.purpose === 'timestamp', 'a stamp may only be signed by a timestamp key');
    const started = performance.now();
    const signature = session.sign(hash);
    signMs += performance.now() - started;
    return signature;
  };

  const grant = (request: ReceivedStampRequest, template: TokenTemplate, unixMillis: number, state: TimestampIssued['clock']): void => {
    const serial = nextSerial();
    const signature = sign(template.prepare(request, serial, unixMillis));

    const certificates = { certificates: request.certReq };
    const tokenOctets = template.tokenLength(signature.length, certificates);
    const responseOctets = grantedPrefixLength(tokenOctets) + tokenOctets;
    let at = replies.reserve(replyPrefixOctets + responseOctets);
    at = writeReplyPrefix(replies.bytes, at, request.id, 'granted', responseOctets);
    at = writeGrantedPrefix(replies.bytes, at, tokenOctets);
    template.writeToken(replies.bytes, at, signature, certificates);

    const { policy, messageImprint, client, certReq } = request;
    const event = { timeMicros: unixMillis * 1_000, clock: state, certReq, client, tsu: tsuDigest, serial, policy, messageImprint };
    const bareOctets = template.tokenLength(signature.length, { certificates: false });
    const start = journal.reserve(timestampIssuedOctets(event) + bareOctets);
    const tokenAt = writeTimestampIssued(journal.bytes, start, event, bareOctets);
    template.writeToken(journal.bytes, tokenAt, signature, { certificates: false });

    issued += 1;
    outcomes.granted += 1;
    stamps.set(client, (stamps.get(client) ?? 0) + 1);
  };

  const stamp = (request: ReceivedStampRequest, enteredAtMs: number): void => {
    if (performance.now() + monotonicOffset > enteredAtMs + request.ttlMs) {
      reply(request.id, 'expired', new Uint8Array());
      return;
    }
    const template = templates.get(request.policy.toString('latin1'));
    const reading = clock.read();
    if (reading.kind === 'unavailable') {
      reply(request.id, 'timeNotAvailable', refusalResponse('timeNotAvailable'));
      return;
    }
    // An unknown policy can only come from a gateway with another configuration; a key past its period must never sign.
    if (template === undefined || reading.unixMillis > usableUntil) {
      failure ??=
        template === undefined
          ? { code: 'CONFIG_INVALID', message: 'gateway and signer are configured with different policies' }
          : { code: 'CERTIFICATE_INVALID', message: 'the usage period of the TSU key has ended' };
      reply(request.id, 'systemFailure', refusalResponse('systemFailure'));
      return;
    }
    try {
      grant(request, template, reading.unixMillis, reading.state);
    } catch (error) {
      failure ??= { code: error instanceof SigilloError ? error.code : 'HSM_DEVICE', message: (error as Error).message };
      reply(request.id, 'systemFailure', refusalResponse('systemFailure'));
    }
  };

  return ({ payload, enteredAtMs }) => {
    const requests = decodeStampRequests(Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength));
    outcomes = { granted: 0, timeNotAvailable: 0, systemFailure: 0, expired: 0 };
    stamps = new Map();
    issued = 0;
    signMs = 0;
    failure = undefined;
    replies.clear(replyHeaderOctets);
    journal.clear(blockHeaderOctets(data.node));
    for (const request of requests) stamp(request, enteredAtMs);
    writeReplyHeader(replies.bytes, requests.length);
    if (issued > 0) writeBlockHeader(journal.bytes, issued, data.node);
    else journal.clear(0);
    return { replies: replies.copy(), journal: journal.copy(), stamps, outcomes, signMs, failure };
  };
};
