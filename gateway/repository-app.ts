/** GET /repository/...: the certificates that a relying party needs, for as long as the service exists. */
import type { X509Certificate } from 'node:crypto';
import { type Context, Hono } from 'hono';
import { etag } from 'hono/etag';
import { crlFileName } from '../queue/keys.ts';
import { noStoreByDefault, textError } from './http-request.ts';
import { certificateDigest, type PublishedCertificates } from './published-certificates.ts';

const shortCache = 'public, max-age=60';
const foreverCache = 'public, max-age=31536000, immutable';
const pemType = 'application/x-pem-file';

const pemOf = (certificates: readonly X509Certificate[]): string => certificates.map((certificate) => certificate.toString()).join('');

const send = (context: Context, body: string | Uint8Array<ArrayBuffer>, type: string, cache: string): Response =>
  context.body(body, 200, { 'Content-Type': type, 'Cache-Control': cache });

const describe = (certificate: X509Certificate): Record<string, string> => ({
  subject: certificate.subject.replaceAll('\n', ', '),
  issuer: certificate.issuer.replaceAll('\n', ', '),
  serialNumber: certificate.serialNumber.toLowerCase(),
  validFrom: certificate.validFromDate.toISOString(),
  validTo: certificate.validToDate.toISOString(),
  der: `/repository/certificates/${certificateDigest(certificate)}.cer`,
});

export const createRepositoryApp = (published: PublishedCertificates): Hono => {
  const app = new Hono();
  // This pattern is also that of /repository itself.
  app.use('/repository/*', noStoreByDefault);
  app.use('/repository/*', etag());
  app.get('/repository/trust.pem', (context) => send(context, pemOf(published.roots), pemType, shortCache));
  app.get('/repository/tsa-chain.pem', async (context) => {
    const certificates = await published.list();
    if (certificates.length === 0) return textError(context, 'CERTIFICATES_UNPUBLISHED', { 'Retry-After': '1' });
    return send(context, pemOf(certificates), pemType, shortCache);
  });
  app.get('/repository/certificates/:name{[0-9a-f]{64}\\.cer}', async (context) => {
    const digest = context.req.param('name').slice(0, 64);
    const all = [...(await published.list()), ...published.roots];
    const found = all.find((certificate) => certificateDigest(certificate) === digest);
    if (found === undefined) return textError(context, 'NOT_FOUND');
    return send(context, new Uint8Array(found.raw), 'application/pkix-cert', foreverCache);
  });
  app.get(`/repository/${crlFileName}`, async (context) => {
    const crl = await published.crl();
    return crl === undefined ? textError(context, 'NOT_FOUND') : send(context, crl, 'application/pkix-crl', shortCache);
  });
  app.get('/repository', async (context) => {
    const list = {
      trust: '/repository/trust.pem',
      chain: '/repository/tsa-chain.pem',
      ...((await published.crl()) === undefined ? {} : { crl: `/repository/${crlFileName}` }),
      certificates: [...(await published.list()), ...published.roots].map(describe),
    };
    return context.json(list, 200, { 'Cache-Control': shortCache });
  });
  app.all('/repository/*', (context) =>
    context.req.method === 'GET' || context.req.method === 'HEAD'
      ? textError(context, 'NOT_FOUND')
      : textError(context, 'METHOD_NOT_ALLOWED', { Allow: 'GET, HEAD' }),
  );
  return app;
};
