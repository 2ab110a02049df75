import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createLogger } from '../../observability/log.ts';

const logged = (write: (log: ReturnType<typeof createLogger>) => void): string => {
  let text = '';
  write(
    createLogger({ level: 'info', format: 'json' }, 'signer', {
      write(line: string) {
        text += line;
      },
    }),
  );
  return text;
};

test('secrets are cut out at every depth', () => {
  const secret = 'p4ssw0rd';
  const text = logged((log) => {
    log.info({ pin: secret, slot: { PIN: secret, login: { password: secret, deeper: { secret } } } }, 'a');
    log.info({ headers: { authorization: secret, Authorization: secret } }, 'b');
  });
  assert.doesNotMatch(text, new RegExp(secret));
  assert.equal(text.match(/\[secret\]/g)?.length, 6);
});

test('an error is logged with code, message and stack, and not with what a library hung on it', () => {
  const error = Object.assign(new Error('it failed'), { code: 'WRONGPASS', command: { name: 'auth', args: ['p4ssw0rd'] } });
  const text = logged((log) => log.error({ err: error }, 'c'));
  assert.doesNotMatch(text, /p4ssw0rd/);
  const line = JSON.parse(text);
  assert.equal(line.err.code, 'WRONGPASS');
  assert.equal(line.err.message, 'it failed');
  assert.match(line.err.stack, /log\.test\.ts/);
  assert.equal(line.name, 'signer');
});

test('lines below the level are not written', () => {
  assert.equal(
    logged((log) => log.debug('quiet')),
    '',
  );
});
