/** The refusals that are HTTP's own, told in one form by every protocol of the gateway. */
import { type ErrorCode, errorCatalogue } from '../config/errors.ts';

/** One line of text: stable code, what happened, what to do. */
export const errorLine = (code: ErrorCode): string => `${code}: ${errorCatalogue[code].meaning} ${errorCatalogue[code].action}\n`;

/** True for this media type in any case and with any parameters (RFC 9110, 8.3.1). */
export const isMediaType = (header: string | undefined, mediaType: string): boolean =>
  header === mediaType || (header?.split(';', 1)[0] as string | undefined)?.trim().toLowerCase() === mediaType;

/** The codes of what failed for want of room, time or Redis: 503, and worth another try. */
export const failureCodes = {
  overloaded: 'OVERLOADED',
  unavailable: 'REDIS_UNAVAILABLE',
  expired: 'DEADLINE_EXCEEDED',
  backlog: 'JOURNAL_BACKLOG',
} as const satisfies Record<string, ErrorCode>;

/** Seconds a refused client should wait: the in-flight bound turns over within the second on any hardware that signs at all. */
export const retryAfter = { 'Retry-After': '1' };
export const basicChallenge = { 'WWW-Authenticate': 'Basic realm="sigillo", charset="UTF-8", Bearer realm="sigillo"' };
