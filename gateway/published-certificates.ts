/**
 * The certificates that the signers stamp with, and ever stamped with, as a gateway publishes them and puts them into
 * tokens. They come from Redis, and only those that lead to a configured root count: whoever can write to Redis can still
 * not publish a certificate. What was read last stays in force while Redis is away.
 */
import { X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { SigilloError } from '../config/errors.ts';
import { splitDer } from '../pki/der.ts';
import { crlFileName, laneKeys } from '../queue/keys.ts';
import type { RedisClient } from '../queue/redis.ts';
import { tsuRegisterKeys } from '../queue/tsu-register.ts';

/** How old the answer to a question of the repository may be: a new TSU is published long before it signs. */
const freshMs = 5_000;
/** TSU, CAs, root: more than real hierarchies have. */
const pathLengthMax = 8;
/** Authorities may be certified more than once; strangers cannot make this grow, they cannot sign. */
const pathsMax = 64;

export interface PublishedCertificates {
  readonly roots: readonly X509Certificate[];
  /** All but the roots: newest TSU first, authorities last. Empty until a signer has published. */
  list(): Promise<readonly X509Certificate[]>;
  /**
   * Certificates for certReq, by the SHA-256 of the TSU's in hex: the TSU's first, then its authorities without the root; the
   * recorded ones where there are, so that the archive makes the same token again, bit for bit.
   * undefined when it was never published, or does not lead to a root. Synchronous once it was asked for.
   */
  chainOf(tsu: string): readonly Uint8Array[] | undefined | Promise<readonly Uint8Array[] | undefined>;
  /** The CRL of the embedded timestamp CA, DER; undefined while there is none. It is signed: who reads it checks it. */
  crl(): Promise<Uint8Array<ArrayBuffer> | undefined>;
}

/** SHA-256 of a certificate in lower-case hex. */
export const certificateDigest = (certificate: X509Certificate): string => certificate.fingerprint256.replaceAll(':', '').toLowerCase();

/** The root certificates in a PEM file. @throws CONFIG_UNREADABLE, CERTIFICATE_INVALID */
export const readRoots = (file: string): X509Certificate[] => {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (cause) {
    throw new SigilloError('CONFIG_UNREADABLE', file, { cause });
  }
  const blocks = text.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? [];
  if (blocks.length === 0) throw new SigilloError('CERTIFICATE_INVALID', `${file}: holds no certificate`);
  try {
    return blocks.map((pem) => new X509Certificate(pem));
  } catch (cause) {
    throw new SigilloError('CERTIFICATE_INVALID', `${file}: not a certificate`, { cause });
  }
};

/** True when one certificate is issued by the other, by name and by signature. */
const isIssuedBy = (issued: X509Certificate, issuer: X509Certificate): boolean =>
  issued.checkIssued(issuer) && issued.verify(issuer.publicKey);

/** From the certificate to the last one below a root, or undefined when no root is reached; every issuer is tried. */
const pathOf = (
  certificate: X509Certificate,
  all: readonly X509Certificate[],
  roots: readonly X509Certificate[],
): X509Certificate[] | undefined => {
  const paths = [[certificate]];
  for (let path = paths.shift(); path !== undefined; path = paths.shift()) {
    const issued = path.at(-1) as X509Certificate;
    const isIssuer = (candidate: X509Certificate): boolean => isIssuedBy(issued, candidate);
    if (roots.some(isIssuer)) return path;
    if (path.length === pathLengthMax || paths.length >= pathsMax) continue;
    const known = path;
    const issuers = all.filter((candidate) => candidate.ca && !known.includes(candidate) && isIssuer(candidate));
    paths.push(...issuers.map((issuer) => [...known, issuer]));
  }
  return undefined;
};

/** A recorded chain, exactly as it is, when it is the TSU's and leads to a root; otherwise undefined. */
const recordedChain = (tsu: string, recorded: Uint8Array, roots: readonly X509Certificate[]): readonly Uint8Array[] | undefined => {
  let chain: X509Certificate[];
  try {
    chain = splitDer(recorded).map((der) => new X509Certificate(der));
  } catch {
    return undefined; // no signer wrote this
  }
  const [first] = chain;
  if (first === undefined || certificateDigest(first) !== tsu || chain.length > pathLengthMax) return undefined;
  const leads = chain.every((certificate, i) => {
    const next = chain[i + 1];
    return next === undefined ? roots.some((root) => isIssuedBy(certificate, root)) : next.ca && isIssuedBy(certificate, next);
  });
  return leads ? chain.map(({ raw }) => new Uint8Array(raw)) : undefined;
};

const parse = (pems: readonly string[]): X509Certificate[] =>
  pems.flatMap((pem) => {
    try {
      return [new X509Certificate(pem)];
    } catch {
      return []; // no signer wrote this: they write only what they have parsed themselves
    }
  });

export const createPublishedCertificates = (redis: RedisClient, roots: readonly X509Certificate[]): PublishedCertificates => {
  let listed: readonly X509Certificate[] = [];
  let chains: ReadonlyMap<string, readonly Uint8Array[]> = new Map();
  let crl: Uint8Array<ArrayBuffer> | undefined;
  let crlReadAt = Number.NEGATIVE_INFINITY;
  let readAt = Number.NEGATIVE_INFINITY;
  let reading: Promise<void> | undefined;

  const read = async (): Promise<void> => {
    const keys = laneKeys('timestamp');
    const [pems, recorded] = await Promise.all([redis.hgetall(keys.certificates), redis.hgetallBuffer(keys.chains)]);
    const found = parse(Object.values(pems));
    const trusted = found.flatMap((certificate) => {
      const path = pathOf(certificate, found, roots);
      return path === undefined ? [] : [{ certificate, path }];
    });
    listed = trusted
      .map(({ certificate }) => certificate)
      .sort((a, b) => Number(a.ca) - Number(b.ca) || Date.parse(b.validFrom) - Date.parse(a.validFrom));
    const exact = Object.entries(recorded).flatMap(([tsu, ders]) => {
      const chain = recordedChain(tsu, ders, roots);
      return chain === undefined ? [] : [[tsu, chain] as const];
    });
    chains = new Map([
      ...trusted.map(({ certificate, path }) => [certificateDigest(certificate), path.map((link) => new Uint8Array(link.raw))] as const),
      ...exact,
    ]);
    readAt = performance.now();
  };
  /** One read at a time, however many ask; a failed one leaves what was there. */
  const refresh = (): Promise<void> => {
    reading ??= read()
      .catch(() => undefined) // Redis is away: /readyz says so
      .finally(() => {
        reading = undefined;
      });
    return reading;
  };

  return {
    roots,
    async list() {
      if (performance.now() - readAt >= freshMs) await refresh();
      return listed;
    },
    async crl() {
      if (performance.now() - crlReadAt < freshMs) return crl;
      try {
        const list = await redis.hgetBuffer(tsuRegisterKeys.crls, crlFileName);
        if (list !== null) crl = new Uint8Array(list);
        crlReadAt = performance.now();
      } catch {
        // Redis is away: the last list stays, and says itself until when it holds.
      }
      return crl;
    },
    chainOf(tsu) {
      const known = chains.get(tsu);
      return known ?? refresh().then(() => chains.get(tsu));
    },
  };
};
