/** The part of the configuration that says how Redis and ClickHouse are reached. No credential ever stands in a URL: it would be shown and logged. */
import { z } from 'zod';

export const port = z.int().min(1).max(65_535);
const path = z.string().min(1);

const tlsSchema = z.strictObject({
  caFile: path.optional(),
  certificateFile: path.optional(),
  keyFile: path.optional(),
});
const endpoint = z.strictObject({ host: z.string().min(1), port });
const redisLogin = { username: z.string().optional(), passwordFile: path.optional(), tls: tlsSchema.optional() };

/** How Redis is reached. */
export const redisSchema = z
  .discriminatedUnion('mode', [
    /** A private Redis that the supervisor starts under the home folder. */
    z.strictObject({
      mode: z.literal('embedded'),
      serverPath: path.default('redis-server'),
      maxMemoryMb: z.int().min(64).max(1_048_576).default(2_048),
    }),
    /** One server by URL: redis:// or rediss://, without a password in it. */
    z.strictObject({
      mode: z.literal('url'),
      url: z
        .string()
        .regex(/^(rediss?:\/\/|unix:\/\/\/)/, 'must begin with redis://, rediss:// or unix:///')
        .refine((url) => !/^rediss?:\/\/[^/@]*:[^/@]*@/.test(url), 'must not carry a password: use passwordFile')
        // ioredis takes every parameter for an option, `password` among them, and any of them may undo what is set here.
        .refine((url) => !url.includes('?'), 'must not carry parameters: use the other keys of redis (passwordFile for a password)'),
      ...redisLogin,
    }),
    z.strictObject({
      mode: z.literal('sentinel'),
      name: z.string().min(1),
      sentinels: z.array(endpoint).min(1),
      sentinelPasswordFile: path.optional(),
      ...redisLogin,
    }),
    z.strictObject({ mode: z.literal('cluster'), nodes: z.array(endpoint).min(1), ...redisLogin }),
  ])
  .default({ mode: 'embedded', serverPath: 'redis-server', maxMemoryMb: 2_048 });

/**
 * Whether a ClickHouse URL has a parameter that can hold a credential: those of HTTP (`user`, `password`), of the driver (`access_token`,
 * `http_header_*`, which can be Authorization), and whatever else says in its name what it is.
 */
const hasCredentialParameter = (url: string): boolean =>
  [...(URL.parse(url)?.searchParams.keys() ?? [])].some((name) => /^http_header_|user|pass|secret|token|auth|credential|key$/i.test(name));

/** A ClickHouse server. */
export const clickhouseUrl = z
  .string()
  .regex(/^https?:\/\/[^/@]+(\/.*)?$/, 'must begin with http:// or https:// and carry no user or password: use username and passwordFile')
  .refine((url) => !hasCredentialParameter(url), 'must not carry a credential as a parameter: use username and passwordFile');
