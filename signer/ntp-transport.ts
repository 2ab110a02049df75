/**
 * One question to an NTP server over UDP, with a deadline. Each has a socket of its own: a fresh port of the kernel's choice, and
 * only packets of the address that was asked (RFC 9109). A packet that answers something else is dropped, and the wait goes on:
 * nobody can end an exchange by shouting.
 */
import { createSocket } from 'node:dgram';
import { lookup } from 'node:dns/promises';
import { isIPv6 } from 'node:net';
import { monotonicMs } from '../queue/redis-clock.ts';

export interface NtpAddress {
  readonly address: string;
  readonly port: number;
}

export interface NtpExchange {
  readonly octets: Uint8Array;
  /** On the monotonic clock: before the request was handed to the kernel, and after the answer came from it. */
  readonly sentAtMs: number;
  readonly receivedAtMs: number;
}

export interface NtpExchangeOptions {
  readonly timeoutMs: number;
  /** Whether a packet answers this request. */
  accept(octets: Uint8Array): boolean;
  /** Ends the wait when the service stops. */
  readonly signal: AbortSignal;
}

/** How the watch over the clock reaches servers; tests put a scripted one in its place. Neither function throws. */
export interface NtpTransport {
  /** IP address of a host; undefined when the name is not known. */
  resolve(host: string): Promise<string | undefined>;
  /** The answer; undefined when none came in time. */
  exchange(server: NtpAddress, request: Uint8Array, options: NtpExchangeOptions): Promise<NtpExchange | undefined>;
}

const exchange: NtpTransport['exchange'] = ({ address, port }, request, { timeoutMs, accept, signal }) =>
  new Promise((resolve) => {
    const socket = createSocket(isIPv6(address) ? 'udp6' : 'udp4');
    let sentAtMs = Number.NaN;
    let ended = false;
    // Its listeners stay: a socket that is still connecting has some of its own, and what comes late finds that all is over.
    const end = (result: NtpExchange | undefined): void => {
      if (ended) return;
      ended = true;
      clearTimeout(timer);
      signal.removeEventListener('abort', giveUp);
      socket.close();
      resolve(result);
    };
    const giveUp = (): void => end(undefined);
    const timer = setTimeout(giveUp, timeoutMs);
    if (signal.aborted) return giveUp();
    signal.addEventListener('abort', giveUp);
    // Unreachable network, closed port: as good as silence, only sooner.
    socket.on('error', giveUp);
    socket.on('message', (octets) => {
      const receivedAtMs = monotonicMs();
      if (accept(octets)) end({ octets, sentAtMs, receivedAtMs });
    });
    socket.on('connect', () => {
      if (ended) return;
      sentAtMs = monotonicMs();
      socket.send(request);
    });
    socket.connect(port, address);
  });

/** The network. */
export const udpTransport: NtpTransport = {
  resolve: (host) =>
    lookup(host).then(
      ({ address }) => address,
      () => undefined,
    ),
  exchange,
};
