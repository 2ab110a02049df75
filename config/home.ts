/** Where the embedded parts keep their files under the home folder; the one place that knows the names. */
import { createHash } from 'node:crypto';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** sun_path holds 108 bytes with its closing zero (unix(7)). */
const unixSocketPathBytesMax = 107;

export interface HomePaths {
  readonly root: string;
  /** Says which supervisor owns this home folder, and its children (bin/home-lock.ts). */
  readonly lockFile: string;
  readonly softhsmConf: string;
  readonly tokenFolder: string;
  readonly pinFolder: string;
  /** PINs that a token has refused, and that are not tried again (signer/refused-pins.ts). */
  readonly refusedPinFolder: string;
  /** Certificates of the demonstration PKI, PEM. */
  readonly pkiFolder: string;
  readonly rootCertificate: string;
  readonly timestampCaCertificate: string;
  readonly timestampCaCrl: string;
  readonly redisFolder: string;
  readonly redisSocket: string;
  /** Data of the embedded ClickHouse. */
  readonly journalFolder: string;
  readonly journalSpool: string;
  /** Where the journal process lets others read its embedded ClickHouse. */
  readonly journalSocket: string;
  /** The newest checkpoint, beside the store: who shortens the one must know of the other. */
  readonly journalCheckpoint: string;
  /** Events that happened without Redis, until a signer brings them to it (observability/journal/outbox.ts). */
  readonly journalOutbox: string;
  /** Public key of the journal, PEM. */
  readonly journalKey: string;
}

/** @param home absolute path of the home folder */
export const homePaths = (home: string): HomePaths => {
  const redisFolder = join(home, 'redis');
  const journalFolder = join(home, 'journal');
  // A deep home folder would make a socket path the kernel refuses: use a short one that only depends on the home.
  const digest = createHash('sha256').update(home).digest('hex').slice(0, 16);
  const socketPath = (folder: string, name: string): string => {
    const path = join(folder, name);
    return Buffer.byteLength(path) <= unixSocketPathBytesMax ? path : join(tmpdir(), `sigillo-${digest}`, name);
  };
  const pkiFolder = join(home, 'pki');
  return {
    root: home,
    lockFile: join(home, 'supervisor.lock'),
    softhsmConf: join(home, 'softhsm2.conf'),
    tokenFolder: join(home, 'tokens'),
    pinFolder: join(home, 'pins'),
    refusedPinFolder: join(home, 'refused-pins'),
    pkiFolder,
    rootCertificate: join(pkiFolder, 'root-ca.pem'),
    timestampCaCertificate: join(pkiFolder, 'timestamp-ca.pem'),
    timestampCaCrl: join(pkiFolder, 'timestamp-ca.crl'),
    redisFolder,
    redisSocket: socketPath(redisFolder, 'redis.sock'),
    journalFolder: join(journalFolder, 'clickhouse'),
    journalSpool: join(journalFolder, 'spool'),
    journalSocket: socketPath(journalFolder, 'journal.sock'),
    journalCheckpoint: join(journalFolder, 'checkpoint.json'),
    journalOutbox: join(journalFolder, 'outbox'),
    journalKey: join(pkiFolder, 'journal.pem'),
  };
};
