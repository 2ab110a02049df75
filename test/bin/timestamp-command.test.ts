import assert from 'node:assert/strict';
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import { retryAfterMs } from '../../bin/commands/timestamp-client.ts';
import { encode, tag } from '../../pki/der.ts';
import { type CommandResult, runSigillo } from '../support/run-sigillo.ts';
import { type Identity, makeToken, TestPki } from '../support/timestamp-fixtures.ts';

interface BulkRequest {
  readonly hashes: readonly { readonly algorithm: string; readonly hash: string; readonly nonce: string }[];
  readonly certReq: boolean;
  readonly policy?: string;
}
type Reply = { readonly status: number; readonly headers?: Record<string, string>; readonly body: unknown };

const nonceContents = (decimal: string): Buffer => {
  const hex = BigInt(decimal).toString(16);
  const octets = Buffer.from(hex.padStart(hex.length + (hex.length % 2), '0'), 'hex');
  return (octets[0] as number) >= 0x80 ? Buffer.concat([Buffer.of(0), octets]) : octets;
};

describe('sigillo timestamp', () => {
  const pki = new TestPki();
  let root: Identity;
  let tsu: Identity;
  let server: Server;
  let origin: string;
  let folder: string;
  let requests: { authorization: string | undefined; body: BulkRequest }[];
  let script: ((request: BulkRequest) => Reply | undefined)[];

  const grant = (request: BulkRequest): Reply => ({
    status: 200,
    body: {
      timestamps: request.hashes.map(({ hash, nonce }) => ({
        status: 'granted',
        token: Buffer.from(
          makeToken({
            signer: tsu,
            hashedMessage: Buffer.from(hash, 'base64'),
            nonce: nonceContents(nonce),
            certificates: request.certReq ? [tsu.certificate] : [],
          }),
        ).toString('base64'),
      })),
    },
  });
  const answer = async (request: IncomingMessage): Promise<Reply> => {
    const pieces: Buffer[] = [];
    for await (const piece of request) pieces.push(piece as Buffer);
    const body = JSON.parse(Buffer.concat(pieces).toString()) as BulkRequest;
    requests.push({ authorization: request.headers.authorization, body });
    return script.shift()?.(body) ?? grant(body);
  };

  before(async () => {
    root = pki.issue('root', { extensions: ['basicConstraints=critical,CA:TRUE', 'keyUsage=critical,keyCertSign'] });
    tsu = pki.issue('tsu', { issuer: root, extensions: ['keyUsage=critical,digitalSignature', 'extendedKeyUsage=critical,timeStamping'] });
    server = createServer((request, response) => {
      void answer(request).then(({ status, headers, body }) => {
        response.writeHead(status, { 'content-type': 'application/json', ...headers });
        response.end(JSON.stringify(body));
      });
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  });
  after(() => {
    server.close();
    server.closeAllConnections();
    pki.close();
  });
  beforeEach(() => {
    requests = [];
    script = [];
    folder = mkdtempSync(join(tmpdir(), 'sigillo-stamp-'));
  });
  afterEach(() => rmSync(folder, { recursive: true, force: true }));

  const run = (...parameters: string[]): Promise<CommandResult> =>
    runSigillo(['timestamp', '--server', origin, ...parameters], { SIGILLO_HOME: folder }, folder);
  const verify = (...parameters: string[]): Promise<CommandResult> =>
    runSigillo(['timestamp', 'verify', ...parameters], { SIGILLO_HOME: folder }, folder);
  const put = (name: string, content: string | Buffer = name): string => {
    writeFileSync(join(folder, name), content);
    return name;
  };

  test('a file is stamped, and verified by openssl and by us', async () => {
    put('contract.pdf', Buffer.alloc(1_000_000, 7));
    const stamped = await run('contract.pdf');
    assert.equal(stamped.code, 0, stamped.stderr);
    assert.equal(stamped.stdout, 'stamped  contract.pdf\n1 stamped, 0 skipped, 0 failed\n');
    const out = pki.openssl(
      'ts',
      '-verify',
      '-data',
      join(folder, 'contract.pdf'),
      '-in',
      join(folder, 'contract.pdf.tsr'),
      '-CAfile',
      root.certificateFile,
    );
    assert.match(out.toString(), /Verification: OK/);
    const verified = await verify('--trust', root.certificateFile, 'contract.pdf');
    assert.equal(verified.code, 0, verified.stdout);
    assert.match(
      verified.stdout,
      /^contract\.pdf: valid\n {2}time {4}\d{4}-.*Z \(to 1 s\)\n {2}by .*CN=tsu\n {2}serial {2}4d\n {2}policy {2}1\.3\.6/,
    );
    const [json] = JSON.parse((await verify('--trust', root.certificateFile, '--json', 'contract.pdf')).stdout) as {
      kind: string;
      digest: string;
      path: string[];
    }[];
    assert.deepEqual([json?.kind, json?.digest, json?.path.length], ['valid', 'sha256', 2]);
  });

  test('verification says what is wrong', async () => {
    put('a');
    await run('--no-cert', 'a');
    assert.match((await verify('--trust', root.certificateFile, 'a')).stdout, /NOT VALID: signer-certificate-missing/);
    assert.equal((await verify('--trust', root.certificateFile, '--chain', tsu.certificateFile, 'a')).code, 0);
    put('a', 'changed');
    const changed = await verify('--trust', root.certificateFile, '--chain', tsu.certificateFile, 'a', 'missing');
    assert.equal(changed.code, 1);
    assert.match(changed.stdout, /^a: NOT VALID: imprint-mismatch.*\nmissing: NOT VALID: ENOENT/);
    const untrusting = await verify('a');
    assert.equal(untrusting.code, 64);
    assert.match(untrusting.stderr, /--trust/);
  });

  test('a folder: everything in it once, no timestamps, no links', async () => {
    mkdirSync(join(folder, 'in', 'deep'), { recursive: true });
    for (const name of ['in/a', 'in/b.txt', 'in/deep/c', 'in/empty']) put(name, name === 'in/empty' ? '' : name);
    symlinkSync('/etc', join(folder, 'in/link'));
    symlinkSync('a', join(folder, 'in/link-to-file'));
    const first = await run('in');
    assert.equal(first.code, 0, first.stderr);
    assert.match(first.stdout, /4 stamped, 2 skipped, 0 failed\n$/);
    assert.deepEqual(
      readdirSync(join(folder, 'in'))
        .filter((name) => name.endsWith('.tsr'))
        .sort(),
      ['a.tsr', 'b.txt.tsr', 'empty.tsr'],
    );
    assert.equal(requests.length, 1, 'one request for all');
    const before = readFileSync(join(folder, 'in/a.tsr'));
    put('in/new');
    const second = await run('in');
    assert.match(second.stdout, /skipped {2}in\/a: has a timestamp/);
    assert.match(second.stdout, /1 stamped, 6 skipped, 0 failed\n$/);
    assert.deepEqual(readFileSync(join(folder, 'in/a.tsr')), before);
    assert.match((await run('--force', 'in/a')).stdout, /1 stamped/);
    assert.notDeepEqual(readFileSync(join(folder, 'in/a.tsr')), before);
    assert.match((await run('in/a.tsr')).stdout, /skipped {2}in\/a\.tsr: is a timestamp/);
  });

  test('2,500 files go in batches of 1,000, each with a nonce of its own', async () => {
    mkdirSync(join(folder, 'many'));
    for (let i = 0; i < 2_500; i += 1) put(`many/${i}`);
    const result = await run('--digest', 'sha256', 'many');
    assert.match(result.stdout, /2500 stamped, 0 skipped, 0 failed\n$/);
    assert.deepEqual(requests.map(({ body }) => body.hashes.length).sort(), [1_000, 1_000, 500].sort());
    assert.equal(new Set(requests.flatMap(({ body }) => body.hashes.map(({ nonce }) => nonce))).size, 2_500);
  });

  test('options reach the service; secrets come from files', async () => {
    put('a');
    put('secret', 's3cret\n');
    put('key', 'bank-1.s3cret\n');
    await run('--user', 'bank-1', '--secret-file', 'secret', '--policy', '1.2.3', '--digest', 'sha3-512', 'a');
    assert.equal(requests[0]?.authorization, `Basic ${Buffer.from('bank-1:s3cret').toString('base64')}`);
    assert.deepEqual(
      [requests[0]?.body.policy, requests[0]?.body.certReq, requests[0]?.body.hashes[0]?.algorithm],
      ['1.2.3', true, 'sha3-512'],
    );
    assert.equal(Buffer.from(requests[0]?.body.hashes[0]?.hash ?? '', 'base64').length, 64);
    await run('--bearer-file', 'key', '--no-cert', '--force', 'a');
    assert.equal(requests[1]?.authorization, 'Bearer bank-1.s3cret');
    assert.equal(requests[1]?.body.certReq, false);
    for (const wrong of [
      ['--user', 'x'],
      ['--secret-file', 'secret'],
      ['--bearer-file', 'key', '--user', 'x', '--secret-file', 'secret'],
    ]) {
      assert.equal((await run(...wrong, 'a')).code, 64, wrong.join(' '));
    }
    const inUrl = await runSigillo(['timestamp', '--server', 'http://u:p@127.0.0.1:1', 'a'], {}, folder);
    assert.equal(inUrl.code, 64);
    assert.ok(!inUrl.stderr.includes('u:p'));
  });

  test('a busy service is asked again after Retry-After', async () => {
    put('a');
    script = [() => ({ status: 503, headers: { 'retry-after': '1' }, body: {} })];
    const start = performance.now();
    const result = await run('a');
    assert.match(result.stdout, /1 stamped/);
    assert.ok(performance.now() - start >= 1_000);
    assert.equal(requests.length, 2);
  });

  test('an imprint that fails in passing is asked again alone', async () => {
    put('a');
    put('b');
    script = [
      (request) => {
        const reply = grant(request) as { body: { timestamps: object[] }; status: number };
        reply.body.timestamps[1] = { status: 'rejection', failInfo: 'systemFailure' };
        return reply;
      },
    ];
    const result = await run('a', 'b');
    assert.match(result.stdout, /2 stamped/);
    assert.deepEqual(
      requests.map(({ body }) => body.hashes.length),
      [2, 1],
    );
  });

  test('a refusal and a wrong answer fail their file, and exit with 1', async () => {
    for (const name of ['a', 'b', 'c', 'd']) put(name);
    script = [
      (request) => {
        const reply = grant(request) as { body: { timestamps: object[] }; status: number };
        const hashedMessage = Buffer.from(request.hashes[1]?.hash ?? '', 'base64');
        reply.body.timestamps[0] = { status: 'rejection', failInfo: 'badAlg' };
        reply.body.timestamps[1] = {
          status: 'granted',
          token: Buffer.from(makeToken({ signer: tsu, hashedMessage, nonce: Buffer.of(1) })).toString('base64'),
        };
        reply.body.timestamps[2] = { status: 'granted', token: Buffer.from(encode(tag.sequence)).toString('base64') };
        return reply;
      },
    ];
    const result = await run('a', 'b', 'c', 'd', 'missing');
    assert.equal(result.code, 1);
    assert.match(result.stdout, /1 stamped, 0 skipped, 4 failed\n$/);
    assert.match(result.stderr, /: rejection badAlg\n/);
    assert.match(result.stderr, /: wrong answer: nonce-mismatch/);
    assert.match(result.stderr, /: wrong answer: malformed/);
    assert.match(result.stderr, /failed +missing: ENOENT/);
    assert.equal(readdirSync(folder).filter((name) => name.endsWith('.tsr')).length, 1);
  });

  test('a refusal of everything ends the run at once', async () => {
    put('a');
    script = [() => ({ status: 401, body: { error: 'UNAUTHENTICATED' } })];
    const refused = await run('a');
    assert.equal(refused.code, 1);
    assert.match(refused.stderr, /stopped: HTTP 401: .*UNAUTHENTICATED/);
    const nobody = await runSigillo(['timestamp', '--server', 'http://127.0.0.1:1', 'a'], {}, folder);
    assert.equal(nobody.code, 1);
    assert.match(nobody.stderr, /ECONNREFUSED/);
    script = [() => ({ status: 200, body: { timestamps: [] } })];
    assert.match((await run('a')).stderr, /0 answers to 1 imprints/);
  });

  test('a folder that cannot be written leaves nothing behind', {
    skip: process.getuid?.() === 0 ? 'root may write everywhere' : false,
  }, async () => {
    mkdirSync(join(folder, 'closed'));
    put('closed/a');
    chmodSync(join(folder, 'closed'), 0o500);
    assert.equal((await run('closed')).code, 1);
    assert.deepEqual(readdirSync(join(folder, 'closed')), ['a']);
  });

  test('Retry-After in seconds and as a date', () => {
    const now = Date.parse('2026-11-22T10:00:00Z');
    assert.equal(retryAfterMs('3', now), 3_000);
    assert.equal(retryAfterMs('Sun, 22 Nov 2026 10:00:05 GMT', now), 5_000);
    assert.equal(retryAfterMs('Sun, 22 Nov 2026 09:00:05 GMT', now), 0);
    assert.equal(retryAfterMs('soon', now), undefined);
    assert.equal(retryAfterMs(undefined, now), undefined);
  });
});
