/**
 * What stands between the journal and ClickHouse in a test: it translates (clickhouse-translation.ts), and it fails in every way in
 * which a server or a network can.
 *
 * It does not deduplicate unless it is told to: a block that is sent twice is there twice.
 */
import { once } from 'node:events';
import { Agent, createServer, type IncomingMessage, request, type Server, type ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { type ClickHouseRequest, conditionOf, translateRequest } from './clickhouse-translation.ts';
import { freePort } from './service.ts';

export type Fault =
  | { readonly kind: 'none' }
  /** Nobody listens. */
  | { readonly kind: 'refuse' }
  /** Nothing is done, and an error answered. */
  | { readonly kind: 'error' }
  /** Everything is done, and an error answered. */
  | { readonly kind: 'doneWithError' }
  /** Nothing is done, and nothing answered. */
  | { readonly kind: 'silent' }
  /** Everything is done, and the connection ends before the answer. */
  | { readonly kind: 'doneUnheard' }
  /** Everything is done, and the connection ends in the middle of the answer. */
  | { readonly kind: 'cutAnswer' }
  /** Everything is done, and the answer comes octet by octet. */
  | { readonly kind: 'trickle' }
  /** Everything is done at once, and answered so much later. */
  | { readonly kind: 'slow'; readonly ms: number }
  /** An insert of entries is done so much later, whether anybody still waits for it or not; all else is well. */
  | { readonly kind: 'late'; readonly ms: number };

export const noFault: Fault = { kind: 'none' };

interface Answer {
  readonly status: number;
  readonly type: string;
  readonly body: Buffer;
}

const memoryError: Answer = {
  status: 500,
  type: 'text/plain',
  body: Buffer.from('Code: 241, e.displayText() = DB::Exception: Memory limit (total) exceeded, e.what() = DB::Exception\n'),
};

/** So many octets at the beginning of an answer come one by one, at most 250 a second; an answer to an insert has about 90. */
const trickledOctets = 250;
const trickleMs = 4;

const readAll = async (stream: IncomingMessage): Promise<Buffer> => {
  const chunks: Buffer[] = [];
  for await (const chunk of stream) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks);
};

const write = (outgoing: ServerResponse, { status, type, body }: Answer): void => {
  outgoing.writeHead(status, { 'Content-Type': type, 'Content-Length': body.length }).end(body);
};

/** Writes to the connection itself; it ends with the answer. */
const writeRaw = async (socket: Socket, { status, type, body }: Answer, how: 'cut' | 'trickle'): Promise<void> => {
  const head = `HTTP/1.1 ${status} Whatever\r\nContent-Type: ${type}\r\nConnection: close\r\nContent-Length: `;
  if (how === 'cut') {
    // One octet is promised that never comes, so that an answer without any is cut off too.
    socket.write(Buffer.concat([Buffer.from(`${head}${body.length + 1}\r\n\r\n`), body.subarray(0, body.length >> 1)]));
    socket.destroySoon();
    return;
  }
  const whole = Buffer.concat([Buffer.from(`${head}${body.length}\r\n\r\n`), body]);
  for (let at = 0; at < trickledOctets && !socket.destroyed; at += 1) {
    socket.write(whole.subarray(at, at + 1));
    await delay(trickleMs);
  }
  socket.end(whole.subarray(trickledOctets));
};

/** Gives the answer in the way of the fault. */
const answerWith = async (fault: Fault, outgoing: ServerResponse, answer: Answer): Promise<void> => {
  const { socket } = outgoing;
  if (socket === null || socket.destroyed) return;
  switch (fault.kind) {
    case 'doneWithError':
      return write(outgoing, memoryError);
    case 'doneUnheard':
      socket.destroy();
      return;
    case 'cutAnswer':
      return writeRaw(socket, answer, 'cut');
    case 'trickle':
      return writeRaw(socket, answer, 'trickle');
    case 'slow':
      await delay(fault.ms);
      return write(outgoing, answer);
    default:
      return write(outgoing, answer);
  }
};

/** One of the texts that begin at an offset. */
const textAt = (body: Buffer, from: number, index: number): string => {
  let at = from;
  for (let skipped = 0; skipped < index; skipped += 1) at += 1 + (body[at] as number);
  return body.toString('utf8', at + 1, at + 1 + (body[at] as number));
};

/** Each partition knows tokens of its own, of the rows that lie in it; all rows of an insert lie in that of the first. */
const tokenInPartition = ({ search, body }: ClickHouseRequest): string | undefined => {
  const token = search.get('insert_deduplication_token');
  if (token === null) return undefined;
  // The first row as RowBinary: two numbers of eight octets, then texts, each shorter than 128 octets, behind an octet with their length.
  const unixMicros = body.readBigUInt64LE(8);
  const retention = textAt(body, 16, 7);
  return `${token} ${retention} ${new Date(Number(unixMicros / 1_000n)).toISOString().slice(0, 7)}`;
};

interface KnownToken {
  stored: boolean;
  /** The insert that came last with it. */
  last: Promise<unknown>;
}

export class ClickHouseProxy {
  readonly port: number;
  readonly #serverPort: number;
  readonly #server: Server;
  readonly #agent = new Agent({ keepAlive: false });
  readonly #sockets = new Set<Socket>();
  /** Requests that ClickHouse has, or is still to get. */
  readonly #underWay = new Set<Promise<Answer>>();
  /** Of those, inserts that ClickHouse works on: their condition is asked, or the rows are given to it. */
  readonly #insideClickHouse = new Set<Promise<Answer>>();
  #fault: Fault = noFault;
  /** Blocks with a token that their partition knows are not stored again, as a release of today does it. */
  deduplicates = false;
  /** By token and partition: what came with it the first time, and whether it is stored. */
  readonly #tokens = new Map<string, KnownToken>();
  /** What was seen of the inserts of journal entries. */
  readonly seen = {
    /** Requests of any kind that met a fault. */
    faults: 0,
    /** Inserts that were held back. */
    held: 0,
    /** Inserts that ClickHouse took. */
    stored: 0,
    /** Of those, the ones that were not answered as they should be. */
    unheard: 0,
    /** Inserts whose token had come before. */
    tokensAgain: 0,
    /** Of those, the ones that were not stored again. */
    deduplicated: 0,
    /** Inserts that ClickHouse was not to take any more. */
    refused: 0,
  };

  private constructor(port: number, serverPort: number) {
    this.port = port;
    this.#serverPort = serverPort;
    this.#server = createServer((incoming, outgoing) => {
      // A client that goes away, or a server that does: the other side is told in the same way.
      this.#handle(incoming, outgoing).catch(() => outgoing.socket?.destroy());
    });
    this.#server.on('connection', (socket) => {
      this.#sockets.add(socket);
      socket.once('close', () => this.#sockets.delete(socket));
    });
  }

  /** @param serverPort where ClickHouse listens, or will */
  static async start(serverPort: number): Promise<ClickHouseProxy> {
    const proxy = new ClickHouseProxy(await freePort(), serverPort);
    await proxy.#listen();
    return proxy;
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  /** From now on requests meet this. */
  async set(fault: Fault): Promise<void> {
    this.#fault = fault;
    if (fault.kind === 'refuse') await this.#endListening();
    else if (!this.#server.listening) await this.#listen();
  }

  /** Waits until everything is done that was to be done, also what nobody waits for any more. */
  async settled(): Promise<void> {
    while (this.#underWay.size > 0) await Promise.allSettled(this.#underWay);
  }

  async close(): Promise<void> {
    await this.#endListening();
    await this.settled();
    this.#agent.destroy();
  }

  async #listen(): Promise<void> {
    this.#server.listen(this.port, '127.0.0.1');
    await once(this.#server, 'listening');
  }

  async #endListening(): Promise<void> {
    if (!this.#server.listening) return;
    const closed = once(this.#server, 'close');
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
    await closed;
  }

  async #handle(incoming: IncomingMessage, outgoing: ServerResponse): Promise<void> {
    const { searchParams: search } = new URL(incoming.url ?? '/', 'http://localhost');
    const asked: ClickHouseRequest = { search, body: await readAll(incoming) };
    const fault = this.#fault;
    if (fault.kind !== 'none') this.seen.faults += 1;
    switch (fault.kind) {
      case 'refuse':
        outgoing.socket?.destroy();
        return;
      case 'silent':
        return;
      case 'error':
        write(outgoing, memoryError);
        return;
      default: {
        const work = this.#do(asked, fault);
        this.#underWay.add(work);
        const answer = await work.finally(() => this.#underWay.delete(work));
        await answerWith(fault, outgoing, answer);
      }
    }
  }

  async #do(asked: ClickHouseRequest, fault: Fault): Promise<Answer> {
    const token = tokenInPartition(asked);
    const known = token === undefined ? undefined : this.#note(token);
    if (fault.kind === 'late' && known !== undefined) {
      this.seen.held += 1;
      await delay(fault.ms);
    }
    // A release of today has such an insert among its queries from before it asks the condition.
    if (asked.body.includes('FROM system.processes')) await Promise.allSettled(this.#insideClickHouse);
    if (known === undefined) return this.#forward(asked);
    if (!this.deduplicates) return this.#store(asked, fault, known);
    // As ClickHouse does: of two with one token the second waits until it is known what became of the first.
    const turn = known.last.then(() => {
      if (!known.stored) return this.#store(asked, fault, known);
      this.seen.deduplicated += 1;
      return { status: 200, type: 'text/plain', body: Buffer.alloc(0) };
    });
    known.last = turn.catch(() => undefined); // whoever asked sees it
    return turn;
  }

  async #store(asked: ClickHouseRequest, fault: Fault, known: KnownToken): Promise<Answer> {
    const inside = this.#insert(asked);
    this.#insideClickHouse.add(inside);
    const answer = await inside.finally(() => this.#insideClickHouse.delete(inside));
    if (answer.status === 200) {
      known.stored = true;
      this.seen.stored += 1;
      if (!['none', 'slow', 'trickle'].includes(fault.kind)) this.seen.unheard += 1;
    }
    return answer;
  }

  /** Asks the condition of an insert, and gives ClickHouse its rows when it holds. */
  async #insert(asked: ClickHouseRequest): Promise<Answer> {
    const condition = conditionOf(asked);
    if (condition === undefined) return this.#forward(asked);
    const { search } = asked;
    const database = new URLSearchParams([...search].filter(([name]) => name === 'database'));
    const answer = await this.#forward({ search: database, body: Buffer.from(condition) });
    if (answer.status === 200) return this.#forward(asked);
    this.seen.refused += 1;
    return answer;
  }

  #note(token: string): KnownToken {
    const known = this.#tokens.get(token);
    if (known !== undefined) {
      this.seen.tokensAgain += 1;
      return known;
    }
    const first: KnownToken = { stored: false, last: Promise.resolve() };
    this.#tokens.set(token, first);
    return first;
  }

  /** @throws when ClickHouse does not answer to the end */
  #forward(asked: ClickHouseRequest): Promise<Answer> {
    const { search, body } = translateRequest(asked);
    return new Promise((resolve, reject) => {
      const outgoing = request({
        host: '127.0.0.1',
        port: this.#serverPort,
        method: 'POST',
        path: `/?${search}`,
        agent: this.#agent,
        headers: { 'Content-Length': body.length },
      });
      outgoing.once('error', reject);
      outgoing.once('response', (response) => {
        const type = response.headers['content-type'] ?? 'text/plain';
        readAll(response).then((answer) => resolve({ status: response.statusCode ?? 500, type, body: answer }), reject);
      });
      outgoing.end(body);
    });
  }
}
