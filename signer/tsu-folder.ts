/**
 * The TSU files of the home folder: for each TSU its chain (PEM, for ever), and beside it its record of the register (JSON). From them
 * the register is filled when Redis comes back empty; a TSU that an earlier release or a first start has made has only its chain.
 *
 * A chain file is never overwritten, and not written before the use of its TSU is settled: to signers it says that it may be used. A
 * record file follows the register, but never back: who is retired, destroyed or compromised here stays that, whatever Redis says.
 */
import { hash, X509Certificate } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { writeFileAtomic } from '../config/atomic-file.ts';
import { SigilloError } from '../config/errors.ts';
import { homePaths } from '../config/home.ts';
import { type Config, tsuAlgorithms } from '../config/schema.ts';
import { algorithmName, type KeyScheme } from '../pki/algorithms.ts';
import { DerError } from '../pki/der.ts';
import { parseTsuFileName, tsuFileName } from '../pki/tsu-files.ts';
import { privateKeyUsagePeriod, tsuUsageLimit } from '../pki/tsu-usage.ts';
import { parseTsuRecord, type TsuRecord } from '../queue/tsu-register.ts';

const pemBlocks = /-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g;

/** Id of a TSU: SHA-256 of its SubjectPublicKeyInfo. */
export const tsuId = (spki: Uint8Array): string => hash('sha256', spki, 'hex');

const spkiOf = (certificate: X509Certificate): Buffer => certificate.publicKey.export({ format: 'der', type: 'spki' });

/** What the certificates of a chain say of the use of the first one's key; without a period of its own, the certificate's validity. */
export const useOfCertificate = (certificate: X509Certificate): { readonly from: Date; readonly until: Date } => {
  const period = privateKeyUsagePeriod(certificate.raw);
  const from = period?.notBefore ?? certificate.validFromDate;
  const until = new Date(Math.min((period?.notAfter ?? certificate.validToDate).getTime(), certificate.validToDate.getTime()));
  return { from, until };
};

/** The certificate of a record, if it has one. */
export const certificateOf = (record: TsuRecord): X509Certificate | undefined => {
  const [first] = record.chain ?? [];
  return first === undefined ? undefined : new X509Certificate(Buffer.from(first, 'base64'));
};

/** The certificate of a record that must have one. @throws INTERNAL when it has none */
export const certificateIn = (record: TsuRecord): X509Certificate => {
  const certificate = certificateOf(record);
  if (certificate === undefined) throw new SigilloError('INTERNAL', `TSU ${record.id} has no certificate`);
  return certificate;
};

const readChain = (file: string): X509Certificate[] => {
  try {
    return (readFileSync(file, 'latin1').match(pemBlocks) ?? []).map((pem) => new X509Certificate(pem));
  } catch (cause) {
    throw new SigilloError('CERTIFICATE_INVALID', `${file}: not a certificate`, { cause });
  }
};

/** A TSU of which there is a chain and nothing else. */
export interface ChainOnly {
  readonly file: string;
  readonly keyLabel: string;
  readonly algorithm: TsuRecord['algorithm'];
  readonly chain: readonly [X509Certificate, ...X509Certificate[]];
}

/** Nothing brings it back. */
export const isOver = ({ state, compromised }: TsuRecord): boolean =>
  state === 'retired' || state === 'destroyed' || compromised !== undefined;

/** Hears of a file that cannot be read, and is passed over. */
export type OnUnreadable = (file: string, error: unknown) => void;

const recordFileName = (keyLabel: string): string => `${keyLabel}.json`;

/** TSU first, then its authorities without the root: what a token with certReq carries, and the register keeps. */
export const chainOctets = (chain: readonly X509Certificate[]): string[] =>
  chain.filter((one, i) => i === 0 || !one.checkIssued(one)).map(({ raw }) => raw.toString('base64'));

/**
 * The record of a TSU that has nothing but its chain. Its use began when its certificate says, and its state follows from the time.
 * @param token where its key is; of a key that is in no token any more only its certificate stays
 */
export const recordOfChain = (
  { keyLabel, algorithm, chain }: Omit<ChainOnly, 'file'>,
  token: { readonly label: string; readonly serial: string; readonly hasKey: boolean; readonly scheme: KeyScheme },
  now: Date,
): TsuRecord => {
  const [certificate] = chain;
  const { from, until } = useOfCertificate(certificate);
  const end = Math.min(until.getTime(), tsuUsageLimit(from).getTime());
  const over = end < now.getTime();
  const named = tsuAlgorithms.find((one) => one === algorithmName(token.scheme)) ?? algorithm;
  return {
    version: 1,
    id: tsuId(spkiOf(certificate)),
    token: token.label,
    tokenSerial: token.serial,
    keyLabel,
    algorithm: named,
    state: token.hasKey ? (over ? 'retired' : from > now ? 'certified' : 'active') : 'destroyed',
    spki: spkiOf(certificate).toString('base64'),
    chain: chainOctets(chain),
    generatedAt: from.toISOString(),
    certifiedAt: certificate.validFromDate.toISOString(),
    activateAt: from.toISOString(),
    usableUntil: new Date(end).toISOString(),
    ...(over && { retiredAt: now.toISOString() }),
    ...(over && token.hasKey && { destroyAfter: new Date(end).toISOString() }),
    ...(!token.hasKey && { destroyedAt: now.toISOString() }),
  };
};

export class TsuFolder {
  readonly #config: Config;
  readonly #folder: string;

  constructor(config: Config) {
    this.#config = config;
    this.#folder = homePaths(config.home).pkiFolder;
  }

  /** Labels of keys that have a file here, whatever became of them. */
  labels(): string[] {
    return this.#names().flatMap((name) => parseTsuFileName(name.replace(/\.json$/, '.pem'))?.keyLabel ?? []);
  }

  /** The records that are kept here. One that cannot be read was written by a newer release, or somebody else. */
  records(onUnreadable: OnUnreadable = () => undefined): TsuRecord[] {
    return this.#names()
      .filter((name) => name.endsWith('.json') && parseTsuFileName(name.replace(/\.json$/, '.pem')) !== undefined)
      .flatMap((name) => {
        const file = join(this.#folder, name);
        try {
          return [this.#readRecord(file)];
        } catch (error) {
          onUnreadable(file, error);
          return [];
        }
      });
  }

  /** True when the record of a key is kept here, readable or not. */
  hasRecord(keyLabel: string): boolean {
    return existsSync(join(this.#folder, recordFileName(keyLabel)));
  }

  /**
   * True when this folder says that a TSU may be used: with this very certificate its chain is here, which is written when its use is
   * settled, or by a set-up; and no record says that nothing was settled yet.
   */
  vouchesFor({ id, chain: [certificate] = [] }: Pick<TsuRecord, 'id' | 'chain'>): boolean {
    const ignore = (): void => undefined; // a file that cannot be read vouches for nothing
    const isHere = this.chains(ignore).some(({ chain: [first] }) => first.raw.toString('base64') === certificate);
    return isHere && this.records(ignore).every((record) => record.id !== id || record.activateAt !== undefined);
  }

  /**
   * The chains that are kept here, and the installed one.
   * @param onUnreadable hears of those that cannot be read, and are passed over. @defaultValue throws CERTIFICATE_INVALID
   */
  chains(
    onUnreadable: OnUnreadable = (_, error) => {
      throw error;
    },
  ): ChainOnly[] {
    const { tsu, algorithm } = this.#config.timestamp;
    const own = this.#names().flatMap((name) => {
      const parsed = parseTsuFileName(name);
      return parsed === undefined ? [] : [{ file: join(this.#folder, name), keyLabel: parsed.keyLabel, algorithm: parsed.algorithm }];
    });
    const installed =
      tsu.source === 'installed' && existsSync(tsu.chainFile) ? [{ file: tsu.chainFile, keyLabel: tsu.keyLabel, algorithm }] : [];
    return [...own, ...installed].flatMap((one) => {
      let chain: X509Certificate[];
      try {
        chain = readChain(one.file);
      } catch (error) {
        onUnreadable(one.file, error);
        return [];
      }
      const [first, ...others] = chain;
      const known = tsuAlgorithms.find((name) => name === one.algorithm);
      return first === undefined || known === undefined ? [] : [{ ...one, algorithm: known, chain: [first, ...others] as const }];
    });
  }

  /** Keeps the record of a TSU, and its chain once its use is settled. @returns a file that says otherwise, and stays as it is */
  save(record: TsuRecord): string | undefined {
    const { n } = parseTsuFileName(`${record.keyLabel}.pem`) ?? {};
    // A key that an operator has named is not ours to keep: its chain has its own file.
    if (n === undefined) return undefined;
    if (!existsSync(this.#folder)) mkdirSync(this.#folder, { recursive: true, mode: 0o700 });
    const other = this.#saveChain(record, join(this.#folder, tsuFileName(record.algorithm, n)));
    if (other !== undefined) return other;
    const file = join(this.#folder, recordFileName(record.keyLabel));
    if (!isOver(record) && this.#saysOver(file, record)) return file;
    const text = `${JSON.stringify(record, null, 2)}\n`;
    if (!existsSync(file) || readFileSync(file, 'utf8') !== text) writeFileAtomic(file, text, { mode: 0o644 });
    return undefined;
  }

  #readRecord(file: string): TsuRecord {
    const text = readFileSync(file, 'utf8');
    const { id } = JSON.parse(text) as { id?: unknown };
    return parseTsuRecord(String(id), text);
  }

  #saysOver(file: string, { id }: TsuRecord): boolean {
    if (!existsSync(file)) return false;
    try {
      const kept = this.#readRecord(file);
      return kept.id === id && isOver(kept);
    } catch {
      return false; // it says nothing that can be read
    }
  }

  #saveChain({ chain, activateAt }: TsuRecord, file: string): string | undefined {
    if (chain === undefined || activateAt === undefined) return undefined;
    const certificates = chain.map((der) => new X509Certificate(Buffer.from(der, 'base64')));
    if (existsSync(file)) {
      const [first] = readChain(file);
      return first !== undefined && certificates[0]?.raw.equals(first.raw) === true ? undefined : file;
    }
    writeFileAtomic(file, certificates.map((certificate) => certificate.toString()).join(''), { mode: 0o644 });
    return undefined;
  }

  #names(): string[] {
    return existsSync(this.#folder) ? readdirSync(this.#folder) : [];
  }
}

/** True for what a certificate says that cannot be read as one. */
export const isUnreadable = (error: unknown): boolean =>
  error instanceof DerError || (error instanceof SigilloError && error.code === 'CERTIFICATE_INVALID');
