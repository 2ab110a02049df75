/** `sigillo client`: the register of clients, kept in the Redis of the configuration. */
import { SigilloError } from '../../config/errors.ts';
import { loadConfig } from '../../config/load.ts';
import { clientChangeTeller } from '../../observability/journal/client-events.ts';
import {
  addClient,
  type ClientRecord,
  type ClientRole,
  clientRoles,
  listClients,
  readStampCounts,
  removeClient,
  renewClientSecret,
  setClientRole,
  setClientState,
  type TellChange,
} from '../../queue/client-register.ts';
import type { RedisClient } from '../../queue/redis.ts';
import { commandOperator, commandRedis } from './command-redis.ts';

export interface ClientCommandOptions {
  readonly json?: true;
}

export interface AddClientOptions extends ClientCommandOptions {
  readonly role: string;
}

/** The journal names who changes the register: the user of this machine. */
const withRedis = async <T>(action: (redis: RedisClient, tell: TellChange) => Promise<T>): Promise<T> => {
  const redis = await commandRedis(loadConfig());
  try {
    const { actor, clock } = await commandOperator(redis);
    return await action(redis, clientChangeTeller(actor, clock));
  } finally {
    redis.disconnect();
  }
};

const printJson = (value: unknown): void => void process.stdout.write(`${JSON.stringify(value, null, 2)}\n`);

const readRole = (text: string): ClientRole => {
  const role = clientRoles.find((known) => known === text);
  if (role === undefined) throw new SigilloError('USAGE', `a role is one of ${clientRoles.join(', ')}`);
  return role;
};

const printCredentials = (
  { name, role, secret }: { readonly name: string; readonly role: ClientRole; readonly secret: string },
  what: string,
  options: ClientCommandOptions,
): void => {
  const credentials = { name, role, secret, basic: `${name}:${secret}`, bearer: `${name}.${secret}` };
  if (options.json) {
    printJson(credentials);
    return;
  }
  process.stdout.write(
    `${role === 'auditor' ? 'Auditor' : 'Client'} ${name} ${what}. Its secret is shown this once and stored nowhere:\n\n` +
      `  HTTP Basic  ${credentials.basic}\n  Bearer key  ${credentials.bearer}\n\n`,
  );
};

/** Adds a client and prints its secret, which is kept nowhere. @throws USAGE, CLIENT_NAME_INVALID, CLIENT_EXISTS, CLIENT_NAME_RETIRED, CLIENT_LIMIT, REDIS_UNAVAILABLE */
export const addToRegister = async (name: string, options: AddClientOptions): Promise<void> => {
  const role = readRole(options.role);
  const { secret } = await withRedis((redis, tell) => addClient(redis, { name, role, now: new Date() }, tell));
  printCredentials({ name, role, secret }, 'is added', options);
};

/** Gives a client a new secret and prints it; the old one is refused within a second. @throws CLIENT_UNKNOWN, REDIS_UNAVAILABLE */
export const renewSecret = async (name: string, options: ClientCommandOptions): Promise<void> => {
  const { secret, role } = await withRedis((redis, tell) => renewClientSecret(redis, name, tell));
  printCredentials({ name, role, secret }, 'has a new secret', options);
};

const listLine = (record: ClientRecord, stamps: number, width: number): string =>
  `${record.name.padEnd(width)}  ${record.role.padEnd(7)}  ${record.state.padEnd(8)}  ${record.createdAt.slice(0, 10)}  ${stamps}\n`;

/** Lists the clients with the stamps counted for each. @throws REDIS_UNAVAILABLE */
export const listRegister = async (options: ClientCommandOptions): Promise<void> => {
  const [clients, stamps] = await withRedis((redis) => Promise.all([listClients(redis), readStampCounts(redis)]));
  if (options.json) {
    printJson(clients.map(({ name, role, state, createdAt }) => ({ name, role, state, createdAt, stamps: stamps.get(name) ?? 0 })));
    return;
  }
  const width = Math.max('NAME'.length, ...clients.map(({ name }) => name.length));
  process.stdout.write(`${'NAME'.padEnd(width)}  ROLE     STATE     CREATED     STAMPS\n`);
  for (const client of clients) process.stdout.write(listLine(client, stamps.get(client.name) ?? 0, width));
};

/** Disables, enables or removes a client. @throws CLIENT_UNKNOWN, REDIS_UNAVAILABLE */
export const changeRegister = async (verb: 'disable' | 'enable' | 'remove', name: string): Promise<void> => {
  await withRedis((redis, tell) => (verb === 'remove' ? removeClient(redis, name, tell) : setClientState(redis, name, `${verb}d`, tell)));
  process.stdout.write(`Client ${name} is ${verb}d.\n`);
};

/** Gives a client another role. @throws USAGE, CLIENT_UNKNOWN, REDIS_UNAVAILABLE */
export const changeRole = async (name: string, text: string): Promise<void> => {
  const role = readRole(text);
  await withRedis((redis, tell) => setClientRole(redis, name, role, tell));
  process.stdout.write(`${name} is ${role === 'auditor' ? 'an auditor' : 'a client'}.\n`);
};
