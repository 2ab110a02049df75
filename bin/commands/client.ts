/** `sigillo client`: the register of clients, kept in the Redis of the configuration. */
import { SigilloError } from '../../config/errors.ts';
import { loadConfig } from '../../config/load.ts';
import { addClient, type ClientRecord, listClients, readStampCounts, removeClient, setClientState } from '../../queue/client-register.ts';
import { connectRedis, type RedisClient, whenReady } from '../../queue/redis.ts';

export interface ClientCommandOptions {
  readonly json?: true;
}

const connectTimeoutMs = 3_000;

const withRedis = async <T>(action: (redis: RedisClient) => Promise<T>): Promise<T> => {
  const config = loadConfig();
  const redis = connectRedis(config, 'cli', 'command');
  redis.on('error', () => undefined); // whenReady and each command report it
  try {
    await whenReady(redis, connectTimeoutMs).catch((cause: unknown) => {
      const hint = config.redis.mode === 'embedded' ? 'The private Redis runs while the service runs: start it first.' : undefined;
      throw new SigilloError('REDIS_UNAVAILABLE', hint, { cause });
    });
    return await action(redis);
  } finally {
    redis.disconnect();
  }
};

const printJson = (value: unknown): void => void process.stdout.write(`${JSON.stringify(value, null, 2)}\n`);

/** Adds a client and prints its secret, which is kept nowhere. @throws CLIENT_NAME_INVALID, CLIENT_EXISTS, CLIENT_LIMIT, REDIS_UNAVAILABLE */
export const addToRegister = async (name: string, options: ClientCommandOptions): Promise<void> => {
  const { secret } = await withRedis((redis) => addClient(redis, name, new Date()));
  const credentials = { name, secret, basic: `${name}:${secret}`, bearer: `${name}.${secret}` };
  if (options.json) {
    printJson(credentials);
    return;
  }
  process.stdout.write(
    `Client ${name} is added. Its secret is shown this once and stored nowhere:\n\n` +
      `  HTTP Basic  ${credentials.basic}\n  Bearer key  ${credentials.bearer}\n\n`,
  );
};

const listLine = (record: ClientRecord, stamps: number, width: number): string =>
  `${record.name.padEnd(width)}  ${record.state.padEnd(8)}  ${record.createdAt.slice(0, 10)}  ${stamps}\n`;

/** Lists the clients with the stamps counted for each. @throws REDIS_UNAVAILABLE */
export const listRegister = async (options: ClientCommandOptions): Promise<void> => {
  const [clients, stamps] = await withRedis((redis) => Promise.all([listClients(redis), readStampCounts(redis)]));
  if (options.json) {
    printJson(clients.map(({ name, state, createdAt }) => ({ name, state, createdAt, stamps: stamps.get(name) ?? 0 })));
    return;
  }
  const width = Math.max('NAME'.length, ...clients.map(({ name }) => name.length));
  process.stdout.write(`${'NAME'.padEnd(width)}  STATE     CREATED     STAMPS\n`);
  for (const client of clients) process.stdout.write(listLine(client, stamps.get(client.name) ?? 0, width));
};

/** Disables, enables or removes a client. @throws CLIENT_UNKNOWN, REDIS_UNAVAILABLE */
export const changeRegister = async (verb: 'disable' | 'enable' | 'remove', name: string): Promise<void> => {
  await withRedis((redis) => (verb === 'remove' ? removeClient(redis, name) : setClientState(redis, name, `${verb}d`)));
  process.stdout.write(`Client ${name} is ${verb}d.\n`);
};
