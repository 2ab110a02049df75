/** GET /v1/timestamps/{serial}: a stamp again, exactly as it was issued, in the form of either protocol. */
import { Hono } from 'hono';
import { accepts } from 'hono/accepts';
import { grantedResponse } from '../pki/tsp-granted.ts';
import { describeIssue, jsonError, noStoreByDefault } from './http-request.ts';
import { type StampReading, serialSchema } from './stamp-reading.ts';
import { grantedItem } from './timestamps-app.ts';

const json = 'application/json';
const reply = 'application/timestamp-reply';
/** What one caller may read, another may not. */
const vary = { Vary: 'Accept, Authorization' };

export const createArchiveApp = (reading: StampReading): Hono => {
  const app = new Hono();
  app.use('/v1/timestamps/:serial', noStoreByDefault);
  app.get('/v1/timestamps/:serial', async function archivedTimestamp(context) {
    const serial = serialSchema.safeParse(context.req.param('serial'));
    if (!serial.success) return jsonError(context, 'REQUEST_INVALID', describeIssue(serial.error));
    const type = accepts(context, { header: 'Accept', supports: [json, reply], default: json });
    return reading.answer(context, serial.data, ({ token }) =>
      type === reply
        ? context.body(new Uint8Array(grantedResponse(token)), 200, { ...vary, 'Content-Type': reply })
        : context.json(grantedItem(token), 200, vary),
    );
  });
  app.all('/v1/timestamps/:serial', (context) => jsonError(context, 'METHOD_NOT_ALLOWED', undefined, { Allow: 'GET, HEAD' }));
  return app;
};
