/** The programs of clients, ours and others, that stamp with the service, verify what they got, and say who they are. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { crc32 } from 'node:zlib';
import type { RelyingParty } from '../support/openssl-ts.ts';
import { programMissing, runProgram, runWell, type Service, ServiceFolder, until } from '../support/service.ts';
import { count, newParty, stamp, withoutInterop } from '../support/timestamp-interop.ts';

const home = new ServiceFolder();
after(home.remove);

describe('programs that stamp', { skip: withoutInterop }, () => {
  let service: Service;
  let party: RelyingParty;
  before(async () => {
    service = await home.start();
    party = await newParty(home, 'programs', service);
  });
  after(() => service?.stop());

  test('sigillo timestamp: files and folders, verified by OpenSSL and by sigillo timestamp verify', async () => {
    const archive = join(party.folder, 'archive');
    mkdirSync(join(archive, 'inner'), { recursive: true });
    const names = ['archive/a.pdf', 'archive/inner/b with spaces.txt', 'archive/inner/empty', 'single.bin'];
    for (const [i, name] of names.entries()) party.write(name, i === 2 ? '' : randomBytes(10_000));
    const paths = names.map((name) => join(party.folder, name));
    const stamped = await home.command(service, 'timestamp', '--digest', 'sha3-512', join(party.folder, 'single.bin'), archive);
    assert.equal(stamped.code, 0, stamped.stderr);
    assert.match(stamped.stdout, /^4 stamped, 0 skipped, 0 failed$/m);
    for (const path of paths) {
      const verdict = await party.verify(`${path}.tsr`, ['-data', path], { withChain: true });
      assert.match(verdict.stdout, /Verification: OK/, `${path}: ${verdict.stderr}`);
    }
    const verified = await home.command(service, 'timestamp', 'verify', '--trust', join(party.folder, party.trust), ...paths);
    assert.equal(verified.code, 0, verified.stderr);
    assert.equal(count(verified.stdout, /: valid\n/g), 4);

    const again = await home.command(service, 'timestamp', archive);
    assert.match(again.stdout, /^0 stamped, 3 skipped, 0 failed$/m);
    writeFileSync(paths[0] as string, 'changed');
    const changed = await home.command(service, 'timestamp', 'verify', ...paths);
    assert.equal(changed.code, 1);
    assert.equal(count(changed.stdout, /NOT VALID/g), 1);
    // And the other way round: what OpenSSL got over HTTP is good for our verifier, with and without certificates.
    const { tsr } = await stamp(service, party, 'bare', ['-data', 'single.bin', '-sha512']);
    const bare = [join(party.folder, 'single.bin'), '--tsr', join(party.folder, tsr)];
    assert.equal((await home.command(service, 'timestamp', 'verify', ...bare)).code, 1, 'no certificate anywhere');
    assert.equal((await home.command(service, 'timestamp', 'verify', ...bare, '--chain', join(party.folder, party.chain))).code, 0);
  });

  /** A zip file with one stored member, which is all that a jar needs to be. */
  const jarOf = (name: string, content: Buffer): Buffer => {
    const common = Buffer.alloc(26); // version needed to extra length: the part that both headers share
    common.writeUInt16LE(20, 0);
    common.writeUInt16LE(0x21, 8); // 1 January 1980, the day that zip begins with
    common.writeUInt32LE(crc32(content), 10);
    common.writeUInt32LE(content.length, 14);
    common.writeUInt32LE(content.length, 18);
    common.writeUInt16LE(name.length, 22);
    const local = Buffer.concat([Buffer.from('504b0304', 'hex'), common, Buffer.from(name), content]);
    const central = Buffer.concat([Buffer.from('504b01021400', 'hex'), common, Buffer.alloc(14), Buffer.from(name)]);
    const end = Buffer.alloc(22);
    end.write('504b0506', 'hex');
    end.writeUInt16LE(1, 8);
    end.writeUInt16LE(1, 10);
    end.writeUInt32LE(central.length, 12);
    end.writeUInt32LE(local.length, 16);
    return Buffer.concat([local, central, end]);
  };

  test('jarsigner stamps with it and verifies', async (context) => {
    const missing =
      (await programMissing('jarsigner', 'default-jdk-headless')) || (await programMissing('keytool', 'default-jdk-headless'));
    if (missing) {
      context.skip(missing);
      return;
    }
    const java = (...call: [string, ...string[]]): Promise<string> =>
      runWell(call[0], call.slice(1), { cwd: party.folder, env: { ...process.env, LC_ALL: 'C' } });
    const store = ['-keystore', 'store.p12', '-storepass', 'not-a-secret'];
    await java('keytool', '-genkeypair', '-alias', 'code', '-keyalg', 'EC', '-dname', 'CN=Code', ...store);
    await java('keytool', '-importcert', '-noprompt', '-alias', 'root', '-file', party.trust, ...store);
    for (const digest of ['SHA-256', 'SHA-512']) {
      party.write('some.jar', jarOf('some.txt', Buffer.from('some text')));
      await java('jarsigner', ...store, '-tsa', `${service.origin}/tsa`, '-tsadigestalg', digest, 'some.jar', 'code');
      const verdict = await java('jarsigner', '-verify', '-verbose', '-certs', ...store, 'some.jar');
      assert.match(verdict, /jar verified\./);
      assert.match(verdict, new RegExp(`Timestamped by "CN=Sigillo Demonstration TSU [^]*Timestamp digest algorithm: ${digest}\\n`));
      assert.doesNotMatch(verdict, /TSA certificate chain is invalid/);
    }
  });

  /** A cabinet file with one stored member. */
  const cabinetOf = (content: Buffer): Buffer => {
    const head = Buffer.alloc(85 - 11 + content.length);
    head.write('MSCF', 0, 'latin1');
    head.writeUInt32LE(head.length, 8);
    head.writeUInt32LE(44, 16); // where the files are listed
    head.set([3, 1, 1, 0, 1, 0], 24); // version 1.3, one folder, one file
    head.writeUInt32LE(66, 36); // where the data are
    head.writeUInt16LE(1, 40);
    head.writeUInt32LE(content.length, 44);
    head.writeUInt16LE(0x5021, 54);
    head.writeUInt16LE(0x20, 58);
    head.write('a.txt\0', 60, 'latin1');
    head.writeUInt16LE(content.length, 70);
    head.writeUInt16LE(content.length, 72);
    head.set(content, 74);
    return head;
  };

  test('osslsigncode stamps with it and verifies', async (context) => {
    const missing = await programMissing('osslsigncode', 'osslsigncode');
    if (missing) {
      context.skip(missing);
      return;
    }
    await party.openssl(
      'req',
      '-x509',
      '-newkey',
      'rsa:2048',
      '-nodes',
      '-keyout',
      'code.key',
      '-out',
      'code.pem',
      '-subj',
      '/CN=Code',
      '-addext',
      'extendedKeyUsage=codeSigning',
    );
    party.write('some.cab', cabinetOf(Buffer.from('hello world')));
    const run = (...parameters: string[]): Promise<string> => runWell('osslsigncode', parameters, { cwd: party.folder });
    await run(
      'sign',
      '-certs',
      'code.pem',
      '-key',
      'code.key',
      '-h',
      'sha256',
      '-ts',
      `${service.origin}/tsa`,
      '-in',
      'some.cab',
      '-out',
      'stamped.cab',
    );
    const verdict = await run('verify', '-in', 'stamped.cab', '-CAfile', 'code.pem', '-TSA-CAfile', party.trust);
    assert.match(verdict, /Timestamp Server Signature verification: ok/);
    assert.match(verdict, /^Signature verification: ok$/m);
  });
});

describe('clients', { skip: withoutInterop }, () => {
  test('Basic and bearer through curl, refusals within a second, and counted stamps', async (context) => {
    const missing = await programMissing('curl', 'curl');
    if (missing) {
      context.skip(missing);
      return;
    }
    const service = await home.start({ environment: { SIGILLO__TIMESTAMP__ACCESS: 'clients' } });
    try {
      const party = await newParty(home, 'clients', service);
      const command = async (...parameters: string[]): Promise<string> => {
        const { code, stdout, stderr } = await home.command(service, 'client', ...parameters);
        assert.equal(code, 0, stderr);
        return stdout;
      };
      const added = await command('add', 'bank-1');
      const basic = /HTTP Basic +(bank-1:\S+)/.exec(added)?.[1] ?? assert.fail(added);
      const bearer = /Bearer key +(bank-1\.\S+)/.exec(added)?.[1] ?? assert.fail(added);
      const other = JSON.parse(await command('add', 'bank.2', '--json')) as { basic: string; bearer: string };

      const data = party.write('contract', randomBytes(1_000));
      await party.openssl('ts', '-query', '-data', data, '-sha256', '-cert', '-out', 'contract.tsq');
      const curl = async (...credential: string[]): Promise<number> => {
        const fixed = [
          '-sS',
          '-o',
          'contract.tsr',
          '-w',
          '%{http_code}',
          '-H',
          'Content-Type: application/timestamp-query',
          '--data-binary',
          '@contract.tsq',
        ];
        const { stdout } = await runProgram('curl', [...fixed, ...credential, `${service.origin}/tsa`], { cwd: party.folder });
        return Number(stdout);
      };
      const bearerOf = (key: string): string[] => ['-H', `Authorization: Bearer ${key}`];
      /** A change of the register is in force within a second; the program that made the change has ended already. */
      const within = async (status: number, what: string, ...credential: string[]): Promise<void> => {
        const startedAt = performance.now();
        await until(what, async () => (await curl(...credential)) === status, 5_000);
        const ms = performance.now() - startedAt;
        context.diagnostic(`${what}: after ${ms.toFixed(0)} ms`);
        assert.ok(ms < 1_500, `${what}: ${ms} ms`); // one second, and the time that curl and a busy machine take
      };
      const assertGranted = async (...credential: string[]): Promise<void> => {
        assert.equal(await curl(...credential), 200);
        const verdict = await party.verify('contract.tsr', ['-queryfile', 'contract.tsq'], { withChain: false });
        assert.match(verdict.stdout, /Verification: OK/, verdict.stderr);
      };
      const stampsOf = async (name: string): Promise<number | undefined> => {
        const list = JSON.parse(await command('list', '--json')) as { name: string; stamps: number }[];
        return list.find((client) => client.name === name)?.stamps;
      };

      await within(200, 'bank-1 is let in', '-u', basic);
      await within(200, 'bank.2 is let in', ...bearerOf(other.bearer));
      const before = { one: (await stampsOf('bank-1')) as number, two: (await stampsOf('bank.2')) as number };
      await assertGranted('-u', basic);
      await assertGranted(...bearerOf(bearer));
      await assertGranted('-u', other.basic);
      for (const credential of [
        [],
        ['-u', 'bank-1:wrong'],
        ['-u', `nobody:${basic.split(':')[1]}`],
        ['-u', 'bank-1:'],
        bearerOf(`${bearer}x`),
        bearerOf('x'),
        ['-H', 'Authorization: Digest x'],
      ]) {
        assert.equal(await curl(...credential), 401, credential.join(' '));
        assert.match(readFileSync(join(party.folder, 'contract.tsr'), 'utf8'), /^UNAUTHENTICATED: .*\n$/);
      }
      assert.match(await service.metrics(), /^client_authentication_failures_total\{reason="wrong"\} [1-9]/m);
      const challenge = await runWell(
        'curl',
        [
          '-sS',
          '-D',
          '-',
          '-o',
          'contract.tsr',
          '-H',
          'Content-Type: application/timestamp-query',
          '--data-binary',
          '@contract.tsq',
          `${service.origin}/tsa`,
        ],
        { cwd: party.folder },
      );
      assert.match(challenge, /^WWW-Authenticate: Basic realm="sigillo"/im);
      const json = await fetch(`${service.origin}/v1/timestamps`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: '{}',
      });
      assert.equal(json.status, 401);
      assert.equal(await stampsOf('bank-1'), before.one + 2);
      assert.equal(await stampsOf('bank.2'), before.two + 1);
      assert.match(await command('list'), /^bank-1 +client +enabled +\d{4}-\d\d-\d\d +\d+$/m);

      await command('disable', 'bank-1');
      await within(401, 'bank-1 is disabled', '-u', basic);
      assert.equal(await curl(...bearerOf(bearer)), 401);
      await assertGranted('-u', other.basic);
      await command('enable', 'bank-1');
      await within(200, 'bank-1 is enabled', '-u', basic);
      const renewed = /HTTP Basic +(bank-1:\S+)/.exec(await command('secret', 'bank-1'))?.[1] ?? assert.fail();
      assert.notEqual(renewed, basic, 'a new secret');
      await within(401, 'the old secret is refused', '-u', basic);
      await within(200, 'the new secret is let in', '-u', renewed);
      await command('remove', 'bank-1');
      await within(401, 'bank-1 is removed', '-u', renewed);
      const again = await home.command(service, 'client', 'add', 'bank-1');
      assert.match(again.stderr, /CLIENT_NAME_RETIRED/);
      assert.equal(await curl('-u', basic), 401, 'the old secret stays refused');
    } finally {
      assert.equal(await service.stop(), 0, service.lastOutput);
    }
  });
});
