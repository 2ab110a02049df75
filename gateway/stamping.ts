/** What both timestamp protocols share: who asks, by which rules, and the way of one request through the lane and back. */

import { invariant } from '../config/errors.ts';
import type { Config } from '../config/schema.ts';
import type { GatewayMetrics, RequestOutcome } from '../observability/gateway-metrics.ts';
import type { digestAlgorithms } from '../pki/algorithms.ts';
import { oid } from '../pki/der.ts';
import { attachCertificates } from '../pki/token-certificates.ts';
import { applyRules, type FailInfo, type RefusedParts, type TimeStampReq, type TimeStampRules } from '../pki/tsp-request.ts';
import { anonymousClient } from '../queue/client-register.ts';
import type { LaneAnswer, LaneRequester } from '../queue/lane-requester.ts';
import type { AccessGuard, Refused } from './access-guard.ts';
import type { JournalBacklog } from './journal-backlog.ts';
import type { PublishedCertificates } from './published-certificates.ts';
import type { RefusalRecording } from './refusal-recording.ts';

/** How one stamp request ended. `token` is a whole TimeStampToken, with certificates when they were asked for. */
export type StampResult =
  | { readonly kind: 'granted'; readonly token: Uint8Array }
  | { readonly kind: 'refused'; readonly failInfo: FailInfo }
  | { readonly kind: 'failed'; readonly reason: 'overloaded' | 'unavailable' | 'expired' | 'backlog' };

/** How a result is counted. */
export const outcomeOf = (result: StampResult): RequestOutcome =>
  result.kind === 'granted' ? 'granted' : result.kind === 'refused' ? result.failInfo : result.reason;

/** Who may stamp. */
export interface Stamper {
  readonly kind: 'client';
  readonly name: string;
}

export interface Stamping {
  /** Judges a well-formed request and, when it is accepted, gets it stamped. Always answers, by the deadline; the caller counts the result and its time. */
  stamp(request: TimeStampReq, client: string): Promise<StampResult>;
  /** Records that a request is refused before it became one. @returns the refusal, or why it may not be answered; as `stamp` */
  refuse(failInfo: FailInfo, parts: RefusedParts, client: string): Promise<StampResult>;
  /** Why a request whose digest is none that is known here is refused: for its policy first. */
  unknownDigestRefusal(reqPolicy: Uint8Array | undefined): FailInfo;
  /** Why so many requests would not be taken now, or undefined. */
  refusal(count: number): 'overloaded' | 'backlog' | undefined;
  /** Who asks, and may stamp: at once; or the refusal, when it is recorded. @param address of the other end of the connection */
  identify(authorization: string | undefined, address: string | undefined): Stamper | Promise<Refused>;
  readonly metrics: GatewayMetrics;
}

const overloaded: StampResult = { kind: 'failed', reason: 'overloaded' };
const unavailable: StampResult = { kind: 'failed', reason: 'unavailable' };
const expired: StampResult = { kind: 'failed', reason: 'expired' };
const backlogged: StampResult = { kind: 'failed', reason: 'backlog' };
const anonymous: Stamper = { kind: 'client', name: anonymousClient };

const rulesOf = ({ policies, digests }: Config['timestamp']): TimeStampRules => ({
  policies: policies.map((policy) => oid(policy)) as [Uint8Array, ...Uint8Array[]],
  digests: new Set(digests satisfies readonly (keyof typeof digestAlgorithms)[]),
});

export interface StampingParts {
  readonly config: Config['timestamp'];
  readonly lane: Pick<LaneRequester, 'submit' | 'hasRoomFor'>;
  readonly metrics: GatewayMetrics;
  readonly certificates: Pick<PublishedCertificates, 'chainOf'>;
  readonly backlog: Pick<JournalBacklog, 'isFull'>;
  readonly refusals: RefusalRecording;
  /** undefined serves anonymous clients. */
  readonly guard: Pick<AccessGuard, 'require'> | undefined;
}

export const createStamping = ({ config, lane, metrics, certificates, backlog, refusals, guard }: StampingParts): Stamping => {
  const rules = rulesOf(config);

  /** Those of a TSU that is new here come from Redis, which may not answer: they are waited for until the deadline, and kept for later. */
  const chainBy = async (deadline: number, tsu: string): Promise<readonly Uint8Array[] | undefined> => {
    const chain = certificates.chainOf(tsu);
    if (!(chain instanceof Promise)) return chain;
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<undefined>((resolve) => {
      timer = setTimeout(resolve, Math.max(0, deadline - performance.now()), undefined);
    });
    return Promise.race([chain, late]).finally(() => clearTimeout(timer));
  };

  const granted = async (token: Buffer, tsu: Buffer, deadline: number): Promise<StampResult> => {
    const chain = await chainBy(deadline, tsu.toString('hex'));
    // Signers publish before they stamp, so this is Redis going away in the same moment, or a root that is not configured here.
    return chain === undefined ? unavailable : { kind: 'granted', token: attachCertificates(token, chain) };
  };

  /** @param deadline for the certificates; undefined: none were asked for */
  const resultOf = (answer: LaneAnswer, deadline: number | undefined): StampResult | Promise<StampResult> => {
    switch (answer.kind) {
      case 'granted':
        return deadline === undefined ? answer : granted(answer.token, answer.tsu, deadline);
      case 'refused':
        return answer;
      case 'expired':
        return expired;
      case 'unavailable':
        return unavailable;
    }
  };

  const refuse: Stamping['refuse'] = async (failInfo, { messageImprint, policy }, client) => {
    const unrecorded = await refusals.record({ client, failInfo, messageImprint, policy });
    return unrecorded === undefined ? { kind: 'refused', failInfo } : { kind: 'failed', reason: unrecorded };
  };

  return {
    metrics,
    refuse,
    unknownDigestRefusal(reqPolicy) {
      const decision = applyRules({ reqPolicy, digest: undefined, hasExtensions: false }, rules);
      invariant(decision.kind === 'refused', 'an unknown digest is refused');
      return decision.failInfo;
    },
    refusal(count) {
      if (backlog.isFull) return 'backlog';
      return lane.hasRoomFor(count) ? undefined : 'overloaded';
    },
    identify: (authorization, address) => guard?.require('client', authorization, address) ?? anonymous,
    async stamp(request, client) {
      const decision = applyRules(request, rules);
      const { messageImprint, nonce, certReq } = request;
      if (decision.kind === 'refused') return refuse(decision.failInfo, { messageImprint, policy: request.reqPolicy }, client);
      if (backlog.isFull) return backlogged;
      const deadline = certReq ? performance.now() + config.deadlineMs : undefined;
      return new Promise<StampResult>((resolve) => {
        const taken = lane.submit({ policy: decision.policy, messageImprint, nonce, certReq, client }, (answer) =>
          resolve(resultOf(answer, deadline)),
        );
        if (!taken) resolve(overloaded);
      });
    },
  };
};
