/**
 * Decides who a request comes from, by HTTP Basic (RFC 7617) or a bearer key (RFC 6750), from memory alone.
 *
 * The register is read from Redis when its version changes. While Redis is away the last known register stays in force and
 * `health` says so: nobody new gets in, and nobody who was let in before is refused for an outage. What was never read lets
 * nobody in. A name that does not exist costs the same work as a wrong secret.
 */
import { hash, timingSafeEqual } from 'node:crypto';
import type { AuthenticationFailureReason } from '../observability/gateway-metrics.ts';
import { type ClientRecord, type ClientRole, isClientName, readClients, readClientsVersion } from '../queue/client-register.ts';
import type { RedisClient } from '../queue/redis.ts';

export type RefusalReason = Exclude<AuthenticationFailureReason, 'role'>;

export type Authentication =
  | { readonly kind: 'client'; readonly name: string; readonly role: ClientRole }
  /** `name` is the one that was claimed; empty when none was that a client may have. */
  | { readonly kind: 'refused'; readonly reason: RefusalReason; readonly name: string };

export interface ClientAccessHealth {
  /** `loading`: never read yet; `stale`: the last look at Redis failed. */
  readonly state: 'loading' | 'current' | 'stale';
  readonly clients: number;
  /** Why the last look failed. */
  readonly detail?: string;
}

export interface ClientAccess {
  /** Who sent this Authorization header. Synchronous, and the same work whatever is wrong. */
  authenticate(authorization: string | undefined): Authentication;
  /** Resolves when the register has been read for the first time. */
  ready(): Promise<void>;
  health(): ClientAccessHealth;
  close(): void;
}

export interface ClientAccessOptions {
  readonly redis: RedisClient;
  /** How often the version is looked at. @defaultValue 500, so that a disabled client is out within a second */
  readonly pollMs?: number;
  readonly log: { warn(message: string): void; info(message: string): void };
}

interface KnownClient {
  readonly secretHash: Buffer;
  readonly enabled: boolean;
  readonly role: ClientRole;
}

/** Name 64, secret 43, and room for secrets that other programs pad; Base64 makes it 4/3. */
const headerCharactersMax = 512;
const nobody: KnownClient = { secretHash: Buffer.alloc(32), enabled: false, role: 'client' };

const missing: Authentication = { kind: 'refused', reason: 'missing', name: '' };
const malformed: Authentication = { kind: 'refused', reason: 'malformed', name: '' };

interface Credential {
  readonly name: string;
  readonly secret: string;
}

const splitAt = (text: string, index: number): Credential | undefined =>
  index < 1 || index === text.length - 1 ? undefined : { name: text.slice(0, index), secret: text.slice(index + 1) };

/** A user name ends at the first colon (RFC 7617, 2); a bearer key's name at the last dot, because names may hold dots. */
const readCredential = (authorization: string): Credential | undefined => {
  if (authorization.length > headerCharactersMax) return undefined;
  const match = /^(basic|bearer) +([A-Za-z0-9+/=._~-]+)$/i.exec(authorization);
  if (match === null) return undefined;
  const [, scheme, value] = match as unknown as [string, string, string];
  if (scheme.toLowerCase() === 'bearer') return splitAt(value, value.lastIndexOf('.'));
  const pair = Buffer.from(value, 'base64').toString('utf8');
  return splitAt(pair, pair.indexOf(':'));
};

const toKnown = (records: readonly ClientRecord[]): Map<string, KnownClient> =>
  new Map(
    records.map((record) => [
      record.name,
      { secretHash: Buffer.from(record.secretHash, 'base64url'), enabled: record.state === 'enabled', role: record.role },
    ]),
  );

/** Opens access for the clients of the register; see the top of this file. */
export const createClientAccess = ({ redis, pollMs = 500, log }: ClientAccessOptions): ClientAccess => {
  let known: ReadonlyMap<string, KnownClient> = new Map();
  let version: string | undefined;
  let state: ClientAccessHealth['state'] = 'loading';
  let detail: string | undefined;
  let closed = false;
  let timer: NodeJS.Timeout | undefined;
  const first = Promise.withResolvers<void>();

  const refresh = async (): Promise<void> => {
    if (version !== undefined && (await readClientsVersion(redis)) === version) return;
    const register = await readClients(redis);
    known = toKnown(register.clients);
    version = register.version;
    log.info(`clients: register version ${version} with ${known.size} clients`);
  };

  const look = async (): Promise<void> => {
    try {
      await refresh();
      if (state === 'stale') log.info('clients: Redis answers again');
      state = 'current';
      detail = undefined;
      first.resolve();
    } catch (error) {
      detail = error instanceof Error ? error.message : String(error);
      if (state === 'current') log.warn(`clients: the register cannot be read, the last known one stays in force: ${detail}`);
      if (state !== 'loading') state = 'stale';
    }
    if (!closed) timer = setTimeout(look, pollMs);
  };

  // A Redis that comes back may have lost its last second: a version that is counted anew must not pass for the known one.
  const forgetVersion = (): void => {
    version = undefined;
  };
  redis.on('ready', forgetVersion);
  void look();

  return {
    authenticate: function authenticateClient(authorization) {
      if (authorization === undefined) return missing;
      const credential = readCredential(authorization);
      if (credential === undefined || !isClientName(credential.name)) return malformed;
      const { name } = credential;
      const client = known.get(name);
      const secretHash = hash('sha256', credential.secret, 'buffer');
      const matches = timingSafeEqual(secretHash, (client ?? nobody).secretHash);
      if (client === undefined) return { kind: 'refused', reason: 'unknown', name };
      if (!matches) return { kind: 'refused', reason: 'wrong', name };
      return client.enabled ? { kind: 'client', name, role: client.role } : { kind: 'refused', reason: 'disabled', name };
    },
    ready: () => first.promise,
    health: () => ({ state, clients: known.size, ...(detail === undefined ? {} : { detail }) }),
    close: () => {
      closed = true;
      clearTimeout(timer);
      redis.off('ready', forgetVersion);
    },
  };
};
