/**
 * The yardstick for HTTP: the same server library, method and sizes as a stamp, and nothing behind it. A process of its own; takes
 * the answer's body by message, says on which port it listens, and ends with its parent.
 */
import { serve } from '@hono/node-server';
import { Hono } from 'hono';

process.once('message', ({ reply, path }: { reply: Uint8Array; path: string }) => {
  const body = Buffer.from(reply);
  const app = new Hono();
  app.post(path, async (context) => {
    const request = await context.req.arrayBuffer();
    if (request.byteLength === 0) return context.text('empty', 400);
    return context.body(body, 200, { 'content-type': 'application/timestamp-reply' });
  });
  serve({ fetch: app.fetch, hostname: '127.0.0.1', port: 0 }, ({ port }) => void process.send?.({ port }));
});
process.on('disconnect', () => process.exit(0));
process.on('SIGINT', () => undefined);
