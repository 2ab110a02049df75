/** What both timestamp protocols share: who asks, by which rules, and the way of one request through the lane and back. */
import { digestAlgorithms } from '../pki/algorithms.ts';
import { oid } from '../pki/der.ts';
import { applyRules, type FailInfo, type TimeStampReq, type TimeStampRules } from '../pki/tsp-request.ts';
import type { Config } from '../config/schema.ts';
import type { GatewayMetrics } from '../observability/gateway-metrics.ts';
import type { LaneAnswer, LaneRequester } from '../queue/lane-requester.ts';
import { anonymousClient } from '../queue/client-register.ts';
import type { ClientAccess } from './client-access.ts';

/** How one stamp request ended. `response` is a whole TimeStampResp, granted or refused by the signer. */
export type StampAnswer =
  | { readonly kind: 'granted'; readonly response: Uint8Array }
  | { readonly kind: 'refused'; readonly failInfo: FailInfo }
  | { readonly kind: 'failed'; readonly reason: 'overloaded' | 'unavailable' | 'expired' };

export interface Stamping {
  /** Judges a well-formed request and, when it is accepted, gets it stamped. Always answers, by the deadline. */
  stamp(request: TimeStampReq, client: string): Promise<StampAnswer>;
  hasRoomFor(count: number): boolean;
  /** The client's name, or undefined when it must authenticate first. */
  identify(authorization: string | undefined): string | undefined;
  readonly metrics: GatewayMetrics;
}

const overloaded: StampAnswer = { kind: 'failed', reason: 'overloaded' };
const unavailable: StampAnswer = { kind: 'failed', reason: 'unavailable' };
const expired: StampAnswer = { kind: 'failed', reason: 'expired' };

const stampAnswer = (answer: LaneAnswer): StampAnswer => {
  switch (answer.kind) {
    case 'replied':
      return answer.outcome === 'granted'
        ? { kind: 'granted', response: answer.response }
        : { kind: 'refused', failInfo: answer.outcome };
    case 'expired':
      return expired;
    case 'unavailable':
      return unavailable;
  }
};

const rulesOf = ({ policies, digests }: Config['timestamp']): TimeStampRules => ({
  policies: policies.map((policy) => oid(policy)) as [Uint8Array, ...Uint8Array[]],
  digests: new Set(digests satisfies readonly (keyof typeof digestAlgorithms)[]),
});

/** @param access undefined serves anonymous clients */
export const createStamping = (
  config: Config['timestamp'],
  lane: Pick<LaneRequester, 'submit' | 'hasRoomFor'>,
  metrics: GatewayMetrics,
  access: Pick<ClientAccess, 'authenticate'> | undefined,
): Stamping => {
  const rules = rulesOf(config);
  return {
    metrics,
    hasRoomFor: lane.hasRoomFor,
    identify(authorization) {
      if (access === undefined) return anonymousClient;
      const found = access.authenticate(authorization);
      if (found.kind === 'client') return found.name;
      metrics.authenticationFailure(found.reason);
      return undefined;
    },
    async stamp(request, client) {
      const started = performance.now();
      const decision = applyRules(request, rules);
      if (decision.kind === 'refused') {
        metrics.request(decision.failInfo);
        return decision;
      }
      const { messageImprint, nonce, certReq } = request;
      const answer = await new Promise<StampAnswer>((resolve) => {
        const taken = lane.submit({ policy: decision.policy, messageImprint, nonce, certReq, client }, (laneAnswer) =>
          resolve(stampAnswer(laneAnswer)),
        );
        if (!taken) resolve(overloaded);
      });
      metrics.latency((performance.now() - started) / 1_000);
      metrics.request(answer.kind === 'granted' ? 'granted' : answer.kind === 'refused' ? answer.failInfo : answer.reason);
      return answer;
    },
  };
};
