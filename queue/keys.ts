/** The names of everything in Redis. Keys that one command or script touches share a hash tag, so that Redis Cluster keeps them on one node. */

/** An interactive lane between gateways and signers. */
export type LaneName = 'timestamp';

export interface LaneKeys {
  /** Stream of request batches, read by the signers as one consumer group. */
  readonly requests: string;
  /** Stream of blocks of journal events, written in the transaction of the answer. */
  readonly journal: string;
  /** Hash: client name to number of stamps granted. */
  readonly stamps: string;
  /** Hash: SHA-256 of a certificate in hex to its PEM; what the signers of the lane sign with, and ever signed with. */
  readonly certificates: string;
  /**
   * Hash: SHA-256 of a TSU certificate in hex to its chain, TSU first, then its authorities without the root: DER, one behind the
   * other. Set once for each TSU, after the event that records it.
   */
  readonly chains: string;
  /** Sorted set: each signer that reads the lane, by the time of its last sign of life (Unix milliseconds of Redis's clock). */
  readonly signers: string;
  /** Stream of reply batches for one gateway. */
  replies(gatewayId: string): string;
}

/** What the journal keeps in Redis. */
export const journalKeys = {
  /** Stream of blocks of events that belong to no lane (observability/journal/draft-block.ts). */
  events: 'journal:{journal}:events',
  /** Lease of the one writer. */
  writer: 'journal:{journal}:writer',
  /** JSON: where the journal stands (observability/journal/writer-state.ts). */
  state: 'journal:{journal}:state',
  /** JSON: the newest checkpoint, with its timestamp. */
  checkpoint: 'journal:{journal}:checkpoint',
  /** List: checkpoints that wait for the signature of any signer (queue/checkpoint-signing.ts). */
  signing: 'journal:{journal}:signing',
  /** JSON: what became of one of them; it expires soon after its deadline. */
  signature: (id: string): string => `journal:{journal}:signature:${id}`,
  /** Hash: `<node>:<process>` to the level that it logged with last. */
  logLevels: 'journal:{journal}:logLevels',
  /** Hash: name of each operator whom the configuration of this host had last, to the SHA-256 of the key's SubjectPublicKeyInfo in hex. */
  operators: (node: string): string => `journal:{journal}:operators:${node}`,
} as const;

/** Name of the CRL of the embedded timestamp CA, in the repository and in `tsuRegisterKeys.crls`. */
export const crlFileName = 'timestamp-ca.crl';

/** Consumer group of the signers on every requests stream. */
export const signerGroup = 'signers';

export const laneKeys = (lane: LaneName): LaneKeys => {
  const prefix = `lane:{${lane}}`;
  return {
    requests: `${prefix}:requests`,
    journal: `${prefix}:journal`,
    stamps: `${prefix}:stamps`,
    certificates: `${prefix}:certificates`,
    chains: `${prefix}:chains`,
    signers: `${prefix}:signers`,
    replies: (gatewayId) => `${prefix}:replies:${gatewayId}`,
  };
};
