/** The lives of timestamping keys, as the journal of a stopped service tells them, and which of them had to stamp at a given time. */
import assert from 'node:assert/strict';
import { hash, X509Certificate } from 'node:crypto';
import { homePaths } from '../../config/home.ts';
import { type ChainHead, emptyChain, followChain, headBehind } from '../../observability/journal/chain.ts';
import { embeddedClient } from '../../observability/journal/clickhouse.ts';
import { JournalReader } from '../../observability/journal/reader.ts';
import { privateKeyUsagePeriod } from '../../pki/tsu-usage.ts';

/** What the register says of a TSU, with `sigillo tsu list --json`. */
export interface ListedTsu {
  /** SHA-256 of the SubjectPublicKeyInfo. */
  readonly id: string;
  readonly token: string;
  readonly keyLabel: string;
  readonly state: string;
  readonly activateAt?: string;
  readonly stampsNow: boolean;
  readonly stamps?: number;
  readonly compromised?: { readonly at: string; readonly reason: string };
  readonly certificate: { readonly serialNumber: string; readonly sha256: string } | null;
}

export interface KeyLife {
  readonly token: string;
  readonly keyLabel: string;
  /** The kinds of all that is told of the key and of its certificate, in the order of the journal. */
  readonly kinds: readonly string[];
  readonly certificate: X509Certificate;
  /** The state in which the register was filled with it; undefined of a key that the calendar has made. */
  readonly registeredAs: string | undefined;
  /** Private key usage period, as the certificate states it. */
  readonly usage: { readonly fromMs: number; readonly untilMs: number };
  /** From when on it stamps. */
  readonly activateAtMs: number;
  /** When that stood in the register, which signers read; of a key of the first start before any signer. */
  readonly settledAtMs: number;
}

interface Told {
  token: string;
  keyLabel: string;
  kinds: string[];
  certificate?: X509Certificate;
  registeredAs?: string;
  scheduled?: { readonly activateAtMs: number; readonly settledAtMs: number };
}

const spkiSha256 = (certificate: X509Certificate): string =>
  hash('sha256', certificate.publicKey.export({ format: 'der', type: 'spki' }), 'hex');

const toLife = ({ token, keyLabel, kinds, registeredAs, scheduled }: Told, certificate: X509Certificate): KeyLife => {
  const { notBefore, notAfter } = privateKeyUsagePeriod(certificate.raw) ?? {};
  const usage = { fromMs: notBefore?.getTime() ?? Number.NaN, untilMs: notAfter?.getTime() ?? Number.NaN };
  return {
    token,
    keyLabel,
    kinds,
    certificate,
    usage,
    registeredAs,
    // As a signer takes it: a certificate tells the instant in whole seconds, and nobody stamps before it.
    activateAtMs: Math.max(usage.fromMs, scheduled?.activateAtMs ?? usage.fromMs),
    settledAtMs: scheduled?.settledAtMs ?? Number.NEGATIVE_INFINITY,
  };
};

/** Follows the whole journal of a home folder whose service is stopped. @returns the keys with a certificate, by the SHA-256 of their SPKI */
export const readKeyLives = async (home: string): Promise<ReadonlyMap<string, KeyLife>> => {
  const lives = new Map<string, Told>();
  const lifeOf = (id: string): Told => {
    const life = lives.get(id) ?? { token: '', keyLabel: '', kinds: [] };
    lives.set(id, life);
    return life;
  };
  const client = await embeddedClient(homePaths(home).journalFolder);
  try {
    const reader = new JournalReader(client);
    let head: ChainHead = emptyChain;
    for await (const place of reader.read(0, await reader.size())) {
      assert.ok(place.kind === 'entry');
      const next = followChain(head, place.octets);
      assert.ok(next.kind === 'follows', JSON.stringify(next));
      head = headBehind(next.sealed);
      const { event } = next.sealed;
      if (event.kind === 'certificate.issued') {
        const certificate = new X509Certificate(event.detail.certificate);
        const life = lifeOf(spkiSha256(certificate));
        life.certificate = certificate;
        life.kinds.push(event.kind);
      } else if (event.kind.startsWith('key.') && 'spkiSha256' in event.detail) {
        const life = lifeOf(Buffer.from(event.detail.spkiSha256 as Uint8Array).toString('hex'));
        life.token = 'token' in event.detail ? String(event.detail.token) : life.token;
        life.keyLabel = event.subject;
        life.kinds.push(event.kind);
        if (event.kind === 'key.registered') life.registeredAs = event.detail.state;
        if (event.kind === 'key.scheduled')
          life.scheduled = { activateAtMs: Date.parse(event.detail.activateAt), settledAtMs: event.unixMicros / 1_000 };
      }
    }
  } finally {
    await client.close();
  }
  const certified = new Map<string, KeyLife>();
  for (const [id, told] of lives)
    if (told.certificate !== undefined && !told.certificate.ca) certified.set(id, toLife(told, told.certificate));
  return certified;
};

/** For messages. */
export const describeLife = ({ token, keyLabel, activateAtMs, settledAtMs }: KeyLife): string => {
  const ahead = Number.isFinite(settledAtMs) ? `settled ${(activateAtMs - settledAtMs).toFixed(0)} ms before` : 'of the first start';
  return `${keyLabel} in ${token}, active from ${new Date(activateAtMs).toISOString()}, ${ahead}`;
};

/** When the signer of its token has said that it stamps with a key from now on, by the label of the key. @param log in JSON, of a whole service */
export const takenOver = (log: string): ReadonlyMap<string, number> => {
  const taken = new Map<string, number>();
  for (const line of log.split('\n').filter((one) => one.includes('signer: TSUs from now on'))) {
    const { time, tsus } = JSON.parse(line.slice(line.indexOf('{'))) as { time: string; tsus: readonly string[] };
    for (const keyLabel of tsus) if (!taken.has(keyLabel)) taken.set(keyLabel, Date.parse(time));
  }
  return taken;
};

/**
 * The key of the same token that should have stamped instead: it was activated later and before `atMs`, and its signer had it.
 * @param sinceMs from when on its signer certainly has it
 * @returns undefined when it was the right one
 */
export const supersedingLife = (
  lives: Iterable<KeyLife>,
  life: KeyLife,
  atMs: number,
  sinceMs: (other: KeyLife) => number,
): KeyLife | undefined => {
  for (const other of lives) {
    if (other.token !== life.token || other.activateAtMs <= life.activateAtMs) continue;
    if (Math.max(other.activateAtMs, sinceMs(other)) <= atMs) return other;
  }
  return undefined;
};
