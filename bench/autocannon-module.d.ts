/** The part of autocannon that the benchmark uses; the package brings no types. */
declare module 'autocannon' {
  import type { EventEmitter } from 'node:events';

  export interface Client extends EventEmitter {
    /** The bytes of the request that is sent next. */
    getRequestBuffer(): Buffer;
  }

  export interface Options {
    url: string;
    method: string;
    headers: Record<string, string>;
    body: Buffer;
    connections: number;
    duration: number;
    sampleInt: number;
    timeout: number;
    setupClient: (client: Client) => void;
    verifyBody: (body: string) => boolean;
  }

  export interface Instance extends EventEmitter {
    stop(): void;
  }

  export interface Result {
    errors: number;
    timeouts: number;
  }

  export default function autocannon(options: Options, done: (error: Error | null, result: Result) => void): Instance;
}
