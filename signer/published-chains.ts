/**
 * Publishes the certificates of a signer's TSUs in Redis: for gateways, which hand them out, and in the journal, which keeps each
 * chain once for all the tokens that were answered with it.
 *
 * They stay published for ever, also those of TSUs long retired: clients verify old stamps with them. They are published again at
 * each connection, because a Redis that comes back may have come back empty; the journal then has them twice.
 */
import { hash, X509Certificate } from 'node:crypto';
import type { Config } from '../config/schema.ts';
import type { JournalRecorder } from '../observability/journal/recorder.ts';
import { laneKeys } from '../queue/keys.ts';
import type { RedisClient } from '../queue/redis.ts';
import { readTsus } from '../queue/tsu-register.ts';
import type { Tsu } from './stamp-task.ts';
import { TsuFolder } from './tsu-folder.ts';

export interface ChainPublisher {
  readonly redis: RedisClient;
  readonly recorder: Pick<JournalRecorder, 'recordNow'>;
  readonly config: Config;
  /** The TSU that this signer stamps with. */
  readonly tsu?: Tsu | undefined;
}

const digestOf = (certificate: X509Certificate): string => certificate.fingerprint256.replaceAll(':', '').toLowerCase();

/** TSU first, then its authorities without the root: what a token with certReq carries. */
const octetsOf = ([tsu, ...authorities]: readonly X509Certificate[]): Buffer =>
  Buffer.concat([tsu, ...authorities.filter((one) => !one.checkIssued(one))].flatMap((one) => (one === undefined ? [] : [one.raw])));

const recordChain = async ({ recorder, config, tsu }: ChainPublisher, certificate: X509Certificate, chain: Buffer): Promise<void> => {
  const id = digestOf(certificate);
  await recorder.recordNow({ kind: 'tsu.published', subject: id, outcome: 'success', detail: { chain } });
  if (tsu === undefined || id !== tsu.id) return;
  const spki = certificate.publicKey.export({ format: 'der', type: 'spki' });
  const detail = { token: tsu.tokenLabel, algorithm: config.timestamp.algorithm, spkiSha256: hash('sha256', spki, 'buffer') };
  await recorder.recordNow({ kind: 'key.activated', subject: tsu.keyLabel, outcome: 'success', detail });
};

/** The chains of the register, of every state: what was signed with them stays. */
const registeredChains = async (redis: RedisClient): Promise<X509Certificate[][]> => {
  // One record must not keep the others from gateways: the lifecycle fails at it, and signers say so.
  const { tsus } = await readTsus(redis, () => undefined);
  return tsus.flatMap(({ chain }) => (chain === undefined ? [] : [chain.map((der) => new X509Certificate(Buffer.from(der, 'base64')))]));
};

/** Publishes all chains that this process and the register know of. @throws when Redis does not take them */
export const publishChains = async (publisher: ChainPublisher): Promise<void> => {
  const { redis, config } = publisher;
  const keys = laneKeys('timestamp');
  // One bad file must not keep the others from gateways: who uses it or makes it says so.
  const onUnreadable = (): void => undefined;
  const chains = [...new TsuFolder(config).chains(onUnreadable).map(({ chain }) => [...chain]), ...(await registeredChains(redis))];
  const fields = chains.flat().flatMap((certificate) => [digestOf(certificate), certificate.toString()]);
  await redis.hset(keys.certificates, ...fields);
  const published = new Set(await redis.hkeys(keys.chains));
  for (const chain of chains) {
    const [certificate] = chain;
    if (certificate === undefined || published.has(digestOf(certificate))) continue;
    published.add(digestOf(certificate));
    const octets = octetsOf(chain);
    // First the event, then the hash: interrupted in between it is told twice, and never not at all.
    await recordChain(publisher, certificate, octets);
    await redis.hsetnx(keys.chains, digestOf(certificate), octets);
  }
};
