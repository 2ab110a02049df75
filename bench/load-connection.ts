/**
 * One keep-alive HTTP/1.1 connection of the fixed-rate generator, on a bare socket: it shares two cores with what it measures,
 * and undici spent 38 microseconds a request there, as much as the gateway.
 *
 * It understands what our servers send, answers with Content-Length, and fails on anything else.
 */
import { connect, type Socket } from 'node:net';

export interface LoadAnswerBytes {
  readonly status: number;
  readonly body: Buffer;
}

const headEnd = Buffer.from('\r\n\r\n', 'latin1');
const statusAt = 'HTTP/1.1 '.length;
const lengthHeader = /\r\ncontent-length: (\d+)\r\n/i;
const answerOctetsMax = 16 * 1024 * 1024;
const noBytes = Buffer.alloc(0);

/** Sends one request at a time. */
export class LoadConnection {
  readonly #socket: Socket;
  #received: Buffer = noBytes;
  #expected: { readonly status: number; readonly bodyAt: number; readonly end: number } | undefined;
  #settle: ((answer: LoadAnswerBytes | Error) => void) | undefined;
  #error: Error | undefined;

  /** @param onBroken called once when the connection is of no use any more */
  constructor(origin: URL, onBroken: () => void) {
    this.#socket = connect({ host: origin.hostname, port: Number(origin.port), noDelay: true });
    this.#socket.on('data', (chunk) => this.#receive(chunk));
    this.#socket.on('error', (error) => {
      this.#error ??= error;
    });
    this.#socket.on('close', () => {
      this.#finish(this.#error ?? new Error('the server closed the connection'));
      onBroken();
    });
  }

  /** Sends head and body as they are; `done` gets the whole answer, or why there is none. */
  send(request: Buffer, done: (answer: LoadAnswerBytes | Error) => void): void {
    this.#settle = done;
    this.#socket.write(request);
  }

  close(): void {
    this.#socket.destroy();
  }

  #finish(answer: LoadAnswerBytes | Error): void {
    const settle = this.#settle;
    this.#settle = undefined;
    settle?.(answer);
  }

  #receive(chunk: Buffer): void {
    this.#received = this.#received.length === 0 ? chunk : Buffer.concat([this.#received, chunk]);
    this.#expected ??= this.#readHead();
    if (this.#expected === undefined || this.#received.length < this.#expected.end) return;
    const { status, bodyAt, end } = this.#expected;
    if (this.#received.length > end) {
      this.#break('more than one answer to a request');
      return;
    }
    const body = this.#received.subarray(bodyAt, end);
    this.#received = noBytes;
    this.#expected = undefined;
    this.#finish({ status, body });
  }

  #readHead(): { status: number; bodyAt: number; end: number } | undefined {
    const at = this.#received.indexOf(headEnd);
    if (at === -1) return undefined;
    const head = this.#received.toString('latin1', 0, at + 2);
    const length = Number(lengthHeader.exec(head)?.[1] ?? Number.NaN);
    const bodyAt = at + headEnd.length;
    if (!(length <= answerOctetsMax)) {
      this.#break('an answer without a usable Content-Length');
      return undefined;
    }
    return { status: Number(head.slice(statusAt, statusAt + 3)), bodyAt, end: bodyAt + length };
  }

  #break(why: string): void {
    this.#error ??= new Error(why);
    this.#socket.destroy();
  }
}
