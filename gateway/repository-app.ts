/**
 * GET /repository/...: the certificates a relying party needs, for as long as the service exists. Roots come from a file
 * of the configuration; the others from the lane's certificates in Redis, and only those that lead to such a root: whoever
 * can write to Redis can still not publish a certificate.
 */
import { createHash, X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { type Context, Hono } from 'hono';
import { SigilloError } from '../config/errors.ts';
import { laneKeys } from '../queue/keys.ts';
import type { RedisClient } from '../queue/redis.ts';

/** How long a gateway, and a cache before it, may go on with what it has: a new TSU is published long before it signs. */
const freshMs = 5_000;
const shortCache = 'public, max-age=60';
const foreverCache = 'public, max-age=31536000, immutable';
const pathLengthMax = 8;

interface Published {
  readonly pem: string;
  readonly etag: string;
  readonly byDigest: ReadonlyMap<string, Buffer>;
}

const digestOf = (certificate: X509Certificate): string => certificate.fingerprint256.replaceAll(':', '').toLowerCase();
const etagOf = (text: string): string => `"${createHash('sha256').update(text).digest('base64url').slice(0, 22)}"`;

/** The root certificates in a PEM file. @throws CONFIG_UNREADABLE, CERTIFICATE_INVALID */
export const readRoots = (file: string): X509Certificate[] => {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (cause) {
    throw new SigilloError('CONFIG_UNREADABLE', file, { cause });
  }
  const blocks = text.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? [];
  if (blocks.length === 0) throw new SigilloError('CERTIFICATE_INVALID', `${file}: holds no certificate`);
  return blocks.map((pem) => new X509Certificate(pem));
};

const leadsToRoot = (certificate: X509Certificate, all: readonly X509Certificate[], roots: readonly X509Certificate[]): boolean => {
  let current = certificate;
  for (let depth = 0; depth < pathLengthMax; depth += 1) {
    const issued = current;
    const isIssuer = (candidate: X509Certificate): boolean => issued.checkIssued(candidate) && issued.verify(candidate.publicKey);
    if (roots.some(isIssuer)) return true;
    const next = all.find((candidate) => candidate.ca && candidate.fingerprint256 !== issued.fingerprint256 && isIssuer(candidate));
    if (next === undefined) return false;
    current = next;
  }
  return false;
};

const parsePublished = (pems: readonly string[]): X509Certificate[] =>
  pems.flatMap((pem) => {
    try {
      return [new X509Certificate(pem)];
    } catch {
      return []; // not ours: the signers write only what they have parsed themselves
    }
  });

const publish = (certificates: readonly X509Certificate[], roots: readonly X509Certificate[]): Published => {
  const trusted = certificates.filter((certificate) => leadsToRoot(certificate, certificates, roots));
  // Newest TSU first, authorities behind them.
  trusted.sort((a, b) => Number(a.ca) - Number(b.ca) || Date.parse(b.validFrom) - Date.parse(a.validFrom));
  const pem = trusted.map((certificate) => certificate.toString()).join('');
  const byDigest = new Map([...trusted, ...roots].map((certificate) => [digestOf(certificate), certificate.raw]));
  return { pem, etag: etagOf(pem), byDigest };
};

export const createRepositoryApp = (redis: RedisClient, roots: readonly X509Certificate[]): Hono => {
  const trustPem = roots.map((root) => root.toString()).join('');
  const trustEtag = etagOf(trustPem);
  let published: Published | undefined;
  let publishedAt = Number.NEGATIVE_INFINITY;

  /** What was read last stays published while Redis is away. */
  const current = async (): Promise<Published | undefined> => {
    if (performance.now() - publishedAt < freshMs) return published;
    try {
      const pems = Object.values(await redis.hgetall(laneKeys('timestamp').certificates));
      published = publish(parsePublished(pems), roots);
      publishedAt = performance.now();
    } catch {
      // Redis is away: /readyz says so
    }
    return published;
  };

  const send = (context: Context, body: string, type: string, etag: string, cache: string): Response => {
    const headers = { 'Content-Type': type, ETag: etag, 'Cache-Control': cache };
    if (context.req.header('if-none-match') === etag) return context.body(null, 304, headers);
    return context.body(body, 200, headers);
  };

  const app = new Hono();
  app.get('/repository/trust.pem', (context) => send(context, trustPem, 'application/x-pem-file', trustEtag, shortCache));
  app.get('/repository/tsa-chain.pem', async (context) => {
    const now = await current();
    if (now === undefined || now.pem === '') return context.text('REDIS_UNAVAILABLE: no signer has published its certificates yet\n', 503, { 'Retry-After': '1' });
    return send(context, now.pem, 'application/x-pem-file', now.etag, shortCache);
  });
  app.get('/repository/certificates/:name{[0-9a-f]{64}\\.cer}', async (context) => {
    const digest = context.req.param('name').slice(0, 64);
    const der = (await current())?.byDigest.get(digest);
    if (der === undefined) return context.text('NOT_FOUND: no such certificate is published here\n', 404);
    return context.body(new Uint8Array(der), 200, { 'Content-Type': 'application/pkix-cert', ETag: `"${digest}"`, 'Cache-Control': foreverCache });
  });
  app.get('/repository', async (context) => {
    const now = await current();
    const certificates = [...(now?.byDigest ?? new Map<string, Buffer>())].map(([digest, der]) => {
      const certificate = new X509Certificate(der);
      return { subject: certificate.subject, issuer: certificate.issuer, validFrom: certificate.validFrom, validTo: certificate.validTo, der: `/repository/certificates/${digest}.cer` };
    });
    return context.json({ trust: '/repository/trust.pem', chain: '/repository/tsa-chain.pem', certificates });
  });
  app.all('/repository/*', (context) =>
    context.req.method === 'GET' || context.req.method === 'HEAD'
      ? context.text('NOT_FOUND: see /repository for what is published\n', 404)
      : context.text('METHOD_NOT_ALLOWED: use GET\n', 405, { Allow: 'GET, HEAD' }),
  );
  return app;
};
