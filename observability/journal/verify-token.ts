/**
 * Timestamps of checkpoints (RFC 3161). The tokens are kept without certificates; those come from the chains that the TSUs
 * published, and count only when they lead to a trusted root.
 */
import { hash as digestOf } from 'node:crypto';
import { digestAlgorithms } from '../../pki/algorithms.ts';
import { parseCertificate } from '../../pki/certificate-path.ts';
import { splitDer } from '../../pki/der.ts';
import { readTimestamp, verifyTimestamp } from '../../pki/tsp-verify.ts';

export type TokenVerdict = { readonly kind: 'valid'; readonly genTime: Date } | { readonly kind: 'invalid'; readonly why: string };

/** Judges a TimeStampToken over these octets. */
export type TokenVerifier = (token: Uint8Array, stamped: Uint8Array) => TokenVerdict;

const hexOf = (octets: Uint8Array): string => Buffer.from(octets).toString('hex');

/** Certificates in a chain; none when it is malformed, because anybody may have written it. */
const certificatesIn = (chain: Uint8Array): readonly Uint8Array[] => {
  try {
    return splitDer(chain);
  } catch {
    return []; // then the token has no certificate, which is what the verdict says
  }
};

/** How a SignerInfo may name its certificate (RFC 5652, section 5.3). */
const namesOf = (certificate: Uint8Array): string[] => {
  const parsed = parseCertificate(certificate);
  if (parsed === undefined) return [];
  const { issuer, serialNumber, subjectKeyIdentifier: keyId } = parsed;
  return [`${hexOf(issuer)}/${hexOf(serialNumber)}`, ...(keyId === undefined ? [] : [hexOf(keyId)])];
};
const signerName = (token: Uint8Array): string | undefined => {
  const reading = readTimestamp(token);
  const sid = reading.kind === 'read' ? reading.token.signedData.signerInfos[0]?.sid : undefined;
  if (sid === undefined) return undefined;
  return sid.kind === 'issuerAndSerialNumber' ? `${hexOf(sid.issuer)}/${hexOf(sid.serialNumber)}` : hexOf(sid.keyIdentifier);
};

/**
 * Finds the chain of a token's signer.
 * @param chains DER certificates one behind the other, that of the TSU first
 */
export const chainFinder = (chains: readonly Uint8Array[]): ((token: Uint8Array) => readonly Uint8Array[]) => {
  const byName = new Map<string, readonly Uint8Array[]>();
  for (const certificates of chains.map(certificatesIn)) {
    const [tsu] = certificates;
    for (const name of tsu === undefined ? [] : namesOf(tsu)) byName.set(name, certificates);
  }
  return (token) => byName.get(signerName(token) ?? '') ?? [];
};

/**
 * Verifies tokens over the SHA-256 of what they stamp.
 * @param roots trusted certificates, DER
 * @param chains as `publishedChains` gives them
 */
export const tokenVerifier = (roots: readonly Uint8Array[], chains: readonly Uint8Array[]): TokenVerifier => {
  const chainOf = chainFinder(chains);
  return (token, stamped) => {
    const messageImprint = { algorithm: digestAlgorithms.sha256.oid, hashedMessage: digestOf('sha256', stamped, 'buffer') };
    const verdict = verifyTimestamp(token, { roots, untrusted: chainOf(token), messageImprint });
    return verdict.kind === 'valid'
      ? { kind: 'valid', genTime: verdict.genTime }
      : { kind: 'invalid', why: `${verdict.reason}: ${verdict.detail}` };
  };
};
