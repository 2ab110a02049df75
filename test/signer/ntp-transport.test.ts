import assert from 'node:assert/strict';
import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { after, describe, test } from 'node:test';
import { monotonicMs } from '../../queue/redis-clock.ts';
import { answersNonce, encodeNtpRequest } from '../../signer/ntp-packet.ts';
import { udpTransport } from '../../signer/ntp-transport.ts';
import { encodeNtpReply, originOf } from '../support/ntp-replies.ts';

const nonce = Uint8Array.of(8, 7, 6, 5, 4, 3, 2, 1);
const request = encodeNtpRequest(nonce);
const accept = (octets: Uint8Array): boolean => answersNonce(octets, nonce);
const never = new AbortController().signal;

describe('questions over UDP', () => {
  const open: Socket[] = [];
  after(() => {
    for (const socket of open) socket.close();
  });
  const bind = async (address: string): Promise<Socket> => {
    const socket = createSocket(address.includes(':') ? 'udp6' : 'udp4');
    open.push(socket);
    socket.bind(0, address);
    await once(socket, 'listening');
    return socket;
  };
  const reply = (question: Uint8Array): Buffer =>
    encodeNtpReply({ origin: originOf(question), receiveMs: Date.now(), transmitMs: Date.now() });

  for (const address of ['127.0.0.1', '::1']) {
    test(`an answer from ${address}, and the times around it`, async () => {
      const server = await bind(address);
      server.on('message', (question, { port, address: from }) => server.send(reply(question), port, from));
      const before = monotonicMs();
      const { port } = server.address();
      const exchange = await udpTransport.exchange({ address, port }, request, { timeoutMs: 5_000, accept, signal: never });
      assert.ok(exchange !== undefined);
      assert.ok(before <= exchange.sentAtMs && exchange.sentAtMs < exchange.receivedAtMs && exchange.receivedAtMs <= monotonicMs());
      assert.ok(accept(exchange.octets));
    });
  }

  test('what answers another question, or is no packet at all, ends nothing', async () => {
    const server = await bind('127.0.0.1');
    server.on('message', (question, { port }) => {
      const other = reply(question);
      other.fill(0, 24, 32);
      for (const octets of [other, Buffer.alloc(0), Buffer.alloc(48), Buffer.alloc(2_000, 0xff), reply(question).subarray(0, 47)]) {
        server.send(octets, port, '127.0.0.1');
      }
      server.send(reply(question), port, '127.0.0.1');
    });
    const { port } = server.address();
    const exchange = await udpTransport.exchange({ address: '127.0.0.1', port }, request, { timeoutMs: 5_000, accept, signal: never });
    assert.ok(exchange !== undefined && accept(exchange.octets));
  });

  test('what comes from another address is not heard', async () => {
    const [server, stranger] = [await bind('127.0.0.1'), await bind('127.0.0.1')];
    server.on('message', (question, { port }) => stranger.send(reply(question), port, '127.0.0.1'));
    const { port } = server.address();
    const exchange = await udpTransport.exchange({ address: '127.0.0.1', port }, request, { timeoutMs: 100, accept, signal: never });
    assert.equal(exchange, undefined);
  });

  test('silence costs the deadline, a closed port not even that, a stop nothing', async () => {
    const server = await bind('127.0.0.1');
    const { port } = server.address();
    const ask = async (at: number, timeoutMs: number, signal = never): Promise<number> => {
      const started = performance.now();
      assert.equal(await udpTransport.exchange({ address: '127.0.0.1', port: at }, request, { timeoutMs, accept, signal }), undefined);
      return performance.now() - started;
    };
    const silence = await ask(port, 60);
    assert.ok(silence >= 55 && silence < 5_000, `${silence} ms`);
    const closed = createSocket('udp4');
    closed.bind(0, '127.0.0.1');
    await once(closed, 'listening');
    const { port: closedPort } = closed.address();
    closed.close();
    assert.ok((await ask(closedPort, 20_000)) < 10_000);
    const stop = new AbortController();
    const asked = ask(port, 20_000, stop.signal);
    stop.abort();
    assert.ok((await asked) < 10_000);
    assert.ok((await ask(port, 20_000, stop.signal)) < 10_000, 'stopped before');
  });

  test('an address that cannot be reached is silence', async () => {
    const exchange = await udpTransport.exchange({ address: '255.255.255.255', port: 9 }, request, {
      timeoutMs: 60,
      accept,
      signal: never,
    });
    assert.equal(exchange, undefined);
  });

  test('names', async () => {
    assert.equal(await udpTransport.resolve('127.0.0.1'), '127.0.0.1');
    assert.ok(await udpTransport.resolve('localhost'));
    assert.equal(await udpTransport.resolve('no such name.invalid'), undefined);
  });
});
