/**
 * One logger for every process. Lines go to standard error: standard output belongs to what a command answers.
 *
 * Secrets are cut out twice: by the names of their keys, and by logging of an error only what is known to be harmless
 * (errors of ioredis carry the arguments of the failed command, AUTH included).
 */
import { isatty } from 'node:tty';
import { type DestinationStream, destination, type Logger, pino, stdSerializers } from 'pino';
import { PinoPretty } from 'pino-pretty';
import type { Config } from '../config/schema.ts';

export type { Logger } from 'pino';

const standardError = 2;
const secretKeys = ['pin', 'PIN', 'password', 'secret', 'authorization', 'Authorization'];
/** How deep in a logged object a secret is looked for; pino wants one pattern for each level. */
const secretPaths = ['', '*.', '*.*.', '*.*.*.'].flatMap((prefix) => secretKeys.map((key) => prefix + key));

interface LoggedError {
  readonly type: string;
  readonly code: unknown;
  readonly message: string;
  readonly stack: string;
}

const serializeError = (error: unknown): LoggedError | unknown => {
  if (!(error instanceof Error)) return error;
  const { type, message, stack } = stdSerializers.err(error);
  return { type, code: (error as { code?: unknown }).code, message, stack };
};

const standardErrorStream = (format: Config['log']['format']): DestinationStream => {
  // Synchronous: the last line before a crash is the one that is needed. Nothing is logged for a single request.
  if (format === 'text') {
    return PinoPretty({
      destination: standardError,
      sync: true,
      colorize: isatty(standardError) && process.env['NO_COLOR'] === undefined,
      translateTime: 'SYS:yyyy-mm-dd HH:MM:ss.l',
      ignore: 'pid,hostname',
      singleLine: true,
    });
  }
  const stream = destination({ fd: standardError, sync: true });
  // A closed terminal or log pipe must not stop the service.
  stream.on('error', () => undefined);
  return stream;
};

/**
 * A logger of one process.
 *
 * @param name what stands in front of each line, such as `signer`
 * @param stream where lines go; unset: standard error in the configured format
 */
export const createLogger = (config: Config['log'], name: string, stream?: DestinationStream): Logger =>
  pino(
    {
      name,
      level: config.level,
      redact: { paths: secretPaths, censor: '[secret]' },
      serializers: { err: serializeError, error: serializeError },
      timestamp: () => `,"time":"${new Date().toISOString()}"`,
    },
    stream ?? standardErrorStream(config.format),
  );
