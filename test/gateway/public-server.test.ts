/** The public server: connections that are half closed, that nobody reads from, that find no room, and an address that cannot be had. */
import assert from 'node:assert/strict';
import type { RequestListener } from 'node:http';
import { describe, test } from 'node:test';
import { createGate } from '../support/lane-bench.ts';
import { publicServerWorld } from '../support/public-server-world.ts';
import { until } from '../support/until.ts';

const world = publicServerWorld();
const { make, open, serve } = world;

/** More than the buffers of both ends of a connection hold, 6 MB at most each (tcp_wmem, tcp_rmem). */
const body = Buffer.alloc(40_000_000, 0x61);
const request = 'POST /tsa HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab';
const octetsOf = (received: string): number => received.length - received.indexOf('\r\n\r\n') - 4;

/** Answers each whole request when the gate is open. */
const answering = (text: string | Buffer, passed: Promise<void> = Promise.resolve()) => {
  const seen = { requests: 0, answered: 0 };
  const tsa: RequestListener = (incoming, response) => {
    incoming.resume();
    incoming.on('error', () => undefined);
    incoming.on('end', async () => {
      seen.requests += 1;
      await passed;
      response.writeHead(200, { 'Content-Length': text.length });
      response.end(text);
      seen.answered += 1;
    });
  };
  return { tsa, seen };
};

describe('the end of the public server', () => {
  for (const keepAlive of [true, false]) {
    test(`an answer that is still being sent is sent whole, ${keepAlive ? 'on a connection that lives on' : 'on one for it alone'}`, async () => {
      const { tsa, seen } = answering(body);
      const server = await serve({ tsa });
      const { socket, received } = await open({ reads: false });
      socket.write(keepAlive ? request : request.replace('Host: x', 'Host: x\r\nConnection: close'));
      await until('it is answered', () => seen.answered === 1);
      const closing = server.close();
      socket.resume();
      await closing;
      await until('all octets are there', () => octetsOf(received()) === body.length);
    });
  }

  test('a reader that never reads does not hold it up for longer than requestTimeoutMs', { timeout: 10_000 }, async () => {
    const { tsa, seen } = answering(body);
    const server = await serve({ tsa }, { requestTimeoutMs: 500 });
    const { socket } = await open({ reads: false });
    socket.write(request);
    await until('it is answered', () => seen.answered === 1);
    await server.close();
    assert.equal(await server.connections(), 0);
  });

  test('nor does one whose answer is made after that time', { timeout: 10_000 }, async () => {
    const gate = createGate();
    const { tsa, seen } = answering(body, gate.passed);
    const server = await serve({ tsa }, { requestTimeoutMs: 100 });
    const { socket } = await open({ reads: false });
    const half = await open();
    socket.write(request);
    half.socket.write(request.slice(0, -1));
    await until('it is at work', () => seen.requests === 1);
    const closing = server.close();
    await until('the time is over', half.closed);
    gate.open();
    await closing;
  });

  test('a request that waits for more time than its sender had to send it is answered', async () => {
    const gate = createGate();
    const { tsa, seen } = answering('stamp', gate.passed);
    const server = await serve({ tsa }, { requestTimeoutMs: 100 });
    const { socket, received } = await open();
    const half = await open();
    socket.write(request);
    half.socket.write(request.slice(0, -1));
    await until('it is at work', () => seen.requests === 1);
    const closing = server.close();
    await until('the time is over', half.closed);
    gate.open();
    await until('it is answered', () => received().endsWith('stamp'));
    assert.match(received(), /\r\nConnection: close\r\n/i);
    await closing;
  });

  test('pipelined requests whose client goes away do not hold it up', { timeout: 10_000 }, async () => {
    const gate = createGate();
    const { tsa, seen } = answering('stamp', gate.passed);
    const server = await serve({ tsa });
    const { socket } = await open();
    socket.write(`${request}${request}${request.slice(0, -1)}`);
    await until('they are at work', () => seen.requests === 2);
    socket.resetAndDestroy();
    await until('the connection is gone', async () => (await server.connections()) === 0);
    gate.open();
    await server.close();
  });

  test('connections without a request at work are closed at once', { timeout: 10_000 }, async () => {
    const gate = createGate();
    const { tsa, seen } = answering('stamp', gate.passed);
    const server = await serve({ tsa });
    const [idle, busy] = [await open(), await open()];
    busy.socket.write(request);
    idle.socket.write('GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n');
    await until('both are there', () => seen.requests === 1 && idle.received() !== '');
    const closing = server.close();
    await until('the idle one is closed', idle.closed);
    assert.equal(busy.closed(), false);
    gate.open();
    await closing;
    await until('the other is answered', () => busy.received().endsWith('stamp'));
  });
});

describe('a client that closes its half of the connection', () => {
  test('behind its request: it gets the answer, and the connection is closed', async () => {
    const gate = createGate();
    const { tsa, seen } = answering('stamp', gate.passed);
    const server = await serve({ tsa });
    const { socket, received, closed } = await open();
    socket.end(request);
    await until('it is at work', () => seen.requests === 1);
    gate.open();
    await until('it is answered', () => received().endsWith('\r\n\r\nstamp'));
    await until('the connection is closed', closed);
    await until('and gone', async () => (await server.connections()) === 0);
  });

  test('behind three requests: it gets the three answers', async () => {
    const gate = createGate();
    const { tsa, seen } = answering('stamp', gate.passed);
    const server = await serve({ tsa });
    const { socket, received } = await open();
    socket.end(request.repeat(3));
    await until('they are at work', () => seen.requests === 3);
    gate.open();
    await until('they are answered', () => received().split('\r\n\r\nstamp').length === 4);
    await until('the connection is gone', async () => (await server.connections()) === 0);
  });

  for (const [name, sent] of [
    ['half a head', request.slice(0, 20)],
    ['half a body', request.slice(0, -1)],
    ['half a chunk', 'POST /tsa HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab'],
  ] as const) {
    test(`behind ${name}: 400, and the connection is closed`, async () => {
      const { tsa, seen } = answering('stamp');
      const server = await serve({ tsa });
      const { socket, received } = await open();
      socket.end(sent);
      await until('it is refused', () => received().startsWith('HTTP/1.1 400 '));
      await until('the connection is gone', async () => (await server.connections()) === 0);
      assert.equal(seen.requests, 0);
    });
  }

  for (const [name, sent] of [
    ['without a request', ''],
    ['behind its answer', 'GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n'],
  ] as const) {
    test(`${name}: the connection is closed`, async () => {
      const server = await serve();
      const { socket, received } = await open();
      socket.write(sent);
      await until('it is answered', () => sent === '' || received() !== '');
      await until('the server has it', async () => (await server.connections()) === 1);
      socket.end();
      await until('the connection is gone', async () => (await server.connections()) === 0);
    });
  }
});

test('a reader that never reads is given up after a time without progress', { timeout: 20_000 }, async () => {
  const { tsa, seen } = answering(body);
  const server = await serve({ tsa, inactivityMs: 500 });
  const { socket } = await open({ reads: false });
  socket.write(request.repeat(12));
  await until('it is answered', () => seen.answered >= 1);
  await until('the connection is gone', async () => (await server.connections()) === 0, 15_000);
});

test('a reader that stops and goes on gets its whole answer', { timeout: 20_000 }, async () => {
  const { tsa, seen } = answering(body);
  await serve({ tsa });
  const { socket, received } = await open({ reads: false });
  socket.write(request);
  await until('it is answered', () => seen.answered === 1);
  socket.resume();
  await until('all octets are there', () => octetsOf(received()) === body.length, 15_000);
});

test('connections beyond the bound are counted', async () => {
  const server = await serve({}, { connectionsMax: 2 });
  await Promise.all([open(), open()]);
  await until('the server has them', async () => (await server.connections()) === 2);
  const more = await Promise.all([open(), open(), open()]);
  await until('they are closed', () => more.every(({ closed }) => closed()));
  assert.equal(world.dropped, 3);
});

describe('an address that cannot be had', () => {
  for (const [name, host] of [
    ['of another machine', '192.0.2.1'],
    ['a name that nobody has', 'no..name'],
  ] as const) {
    test(`${name}: CONFIG_INVALID names its keys`, async () => {
      const server = await make({}, { host, anonymousOnPublicAddress: true });
      await assert.rejects(server.listen(), { code: 'CONFIG_INVALID', message: /public\.host, public\.port: .*(EADDRNOTAVAIL|ENOTFOUND)/ });
    });
  }

  test('one that is taken: PORT_IN_USE', async () => {
    await serve();
    const second = await make({}, { port: world.port });
    await assert.rejects(second.listen(), { code: 'PORT_IN_USE' });
  });
});

describe('what the library of the apps refuses', () => {
  for (const [name, text] of [
    ['a host that is none', 'GET /repository HTTP/1.1\r\nHost: a b\r\n\r\n'],
    ['a target that is no path', 'OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n'],
  ] as const) {
    test(`${name}: 400 with one line`, async () => {
      await serve();
      const { socket, received } = await open();
      socket.write(text);
      await until('it is refused', () => received().endsWith('\n') && received().includes('REQUEST_MALFORMED'));
      assert.match(received(), /^HTTP\/1\.1 400 .*\r\n\r\nREQUEST_MALFORMED: [^\n]+\n$/s);
    });
  }

  test('HTTP/1.0 knows no host, and is served', async () => {
    await serve();
    const { socket, received } = await open();
    socket.write('GET /nothing HTTP/1.0\r\n\r\n');
    await until('it is answered', () => received() !== '');
    assert.match(received(), /^HTTP\/1\.1 404 /);
  });
});
