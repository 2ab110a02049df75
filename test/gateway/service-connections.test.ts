/** The gateway as a whole: slow clients, too many, and the end of its connections. */
import assert from 'node:assert/strict';
import { Agent } from 'node:http';
import { describe, test } from 'node:test';
import { gatewayWorld, query } from '../support/gateway-world.ts';
import { createGate } from '../support/lane-bench.ts';
import { redisServerMissing } from '../support/redis-server.ts';
import { makeRequest } from '../support/tsp-requests.ts';
import { until } from '../support/until.ts';

describe('connections of the gateway', { skip: redisServerMissing() }, () => {
  const world = gatewayWorld();
  const { open, stamp, start, startSigner } = world;

  for (const [name, path, type] of [
    ['/tsa', '/tsa', 'application/timestamp-query'],
    ['/v1/timestamps', '/v1/timestamps', 'application/json'],
  ] as const) {
    test(`${name}: a body that comes too slowly is given up soon after requestTimeoutMs`, { timeout: 10_000 }, async () => {
      await start({ public: { requestTimeoutMs: 500 } });
      const { socket, closed } = await open();
      socket.write(`POST ${path} HTTP/1.1\r\nHost: x\r\nContent-Type: ${type}\r\nContent-Length: 100\r\n\r\n`);
      const drip = setInterval(() => socket.write('x'), 100);
      try {
        await until('the connection is closed', closed, 4_000);
      } finally {
        clearInterval(drip);
      }
    });
  }

  test('headers that never end are given up soon after requestTimeoutMs', { timeout: 10_000 }, async () => {
    await start({ public: { requestTimeoutMs: 500 } });
    const { socket, closed } = await open();
    socket.write('POST /tsa HTTP/1.1\r\nHost: x\r\n');
    await until('the connection is closed', closed, 4_000);
  });

  test('more connections than the bound are closed, and the others served', async () => {
    await start({ public: { connectionsMax: 3 } });
    await startSigner();
    const held = await Promise.all([open(), open(), open()]);
    const fourth = await open();
    await until('the fourth is closed', fourth.closed);
    held[0].socket.destroy();
    await until('there is room again', async () =>
      stamp().then(
        ({ status }) => status === 200,
        () => false,
      ),
    );
  });

  test('stop answers what was accepted, and takes nothing new', { timeout: 10_000 }, async () => {
    await start();
    const gate = createGate();
    const signer = await startSigner(gate.passed);
    const agent = new Agent({ keepAlive: true });
    const accepted = stamp(agent);
    await until('it is at work', () => signer.lane.busy === 1);
    const stopping = world.stop('test');
    await until('nobody is let in', async () =>
      open().then(
        ({ closed }) => until('refused', closed, 500).then(() => true),
        () => true,
      ),
    );
    gate.open();
    const answer = await accepted;
    assert.equal(answer.status, 200);
    await stopping;
    agent.destroy();
    assert.deepEqual(
      world.logged.filter((line) => /"level":(50|60)/.test(line)),
      [],
    );
  });

  test('a client that closes its half behind its request gets the answer when the stamp is made', { timeout: 10_000 }, async () => {
    await start();
    const gate = createGate();
    const signer = await startSigner(gate.passed);
    const { socket, received, closed } = await open();
    const body = makeRequest();
    socket.write(`POST /tsa HTTP/1.1\r\nHost: x\r\nContent-Type: ${query['Content-Type']}\r\nContent-Length: ${body.length}\r\n\r\n`);
    socket.end(body);
    await until('it is at work', () => signer.lane.busy === 1);
    gate.open();
    await until('it is answered', () => received().startsWith('HTTP/1.1 200 OK'));
    await until('the connection is closed', closed);
  });

  test('a connection on which nothing was ever sent does not hold the stop up', { timeout: 10_000 }, async () => {
    await start({ public: { requestTimeoutMs: 500 } });
    const { closed } = await open();
    await until('the server has it', async () => /"http_connections".*?"value":1/s.test(JSON.stringify(await world.gateway?.metrics())));
    const stopping = world.stop('test');
    await stopping;
    await until('the connection is closed', closed);
  });

  test('a client that sends half a request does not hold the stop up for longer than requestTimeoutMs', { timeout: 10_000 }, async () => {
    await start({ public: { requestTimeoutMs: 500 } });
    const { socket } = await open();
    socket.write('POST /tsa HTTP/1.1\r\nHost: x\r\nContent-Type: application/timestamp-query\r\nContent-Length: 100\r\n\r\nabc');
    await until('the server has it', async () => /"http_connections".*?"value":1/s.test(JSON.stringify(await world.gateway?.metrics())));
    const started = performance.now();
    const stopping = world.stop('test');
    await stopping;
    assert.ok(performance.now() - started < 4_000, `${performance.now() - started} ms`);
  });
});
