import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createHash, generateKeyPairSync, type KeyObject, sign } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { checkpointText, signedCheckpoint, verifyCheckpoint } from '../../../observability/journal/checkpoint.ts';
import { temporaryFolder } from '../../support/token-home.ts';

const origin = 'tsa.example.com/journal';
const keyPair = (): { spki: Buffer; privateKey: KeyObject } => {
  const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  return { spki: publicKey.export({ format: 'der', type: 'spki' }), privateKey };
};
const key = keyPair();
const checkpoint = { origin, size: 20_852_163, root: createHash('sha256').update('root').digest() };
const signedBy = ({ spki, privateKey }: ReturnType<typeof keyPair>, of = checkpoint): string =>
  signedCheckpoint(of, spki, sign('sha256', Buffer.from(checkpointText(of)), privateKey));
const judge = (note: string) => verifyCheckpoint(note, { name: origin, spki: key.spki });

describe('a checkpoint', () => {
  const folder = temporaryFolder();
  after(() => folder.remove());
  const note = signedBy(key);

  test('has the form of the specification', () => {
    const [text, signature] = note.split('\n\n') as [string, string];
    assert.deepEqual(text.split('\n'), [origin, '20852163', checkpoint.root.toString('base64')]);
    assert.match(signature, /^\u2014 tsa\.example\.com\/journal [A-Za-z0-9+/]+=*\n$/);
    const octets = Buffer.from(signature.trim().split(' ')[2] as string, 'base64');
    assert.equal(octets.subarray(0, 4).toString('hex'), createHash('sha256').update(key.spki).digest('hex').slice(0, 8));
  });

  test('is verified by us, and by openssl', () => {
    assert.deepEqual(judge(note), { kind: 'valid', checkpoint: { ...checkpoint, root: Buffer.from(checkpoint.root) } });
    const [text, signature] = note.split('\n\n') as [string, string];
    const file = (name: string, content: string | Buffer): string => {
      writeFileSync(join(folder.path, name), content);
      return join(folder.path, name);
    };
    const der = Buffer.from(signature.trim().split(' ')[2] as string, 'base64').subarray(4);
    const pem = `-----BEGIN PUBLIC KEY-----\n${key.spki.toString('base64')}\n-----END PUBLIC KEY-----\n`;
    const parts = ['dgst', '-sha256', '-verify', file('key.pem', pem), '-signature', file('signature', der), file('text', `${text}\n`)];
    assert.match(execFileSync('openssl', parts, { encoding: 'utf8' }), /Verified OK/);
  });

  test('of an empty journal, and of the largest', () => {
    for (const size of [0, Number.MAX_SAFE_INTEGER]) {
      const verdict = judge(signedBy(key, { ...checkpoint, size }));
      assert.equal(verdict.kind === 'valid' && verdict.checkpoint.size, size);
    }
  });

  test('signatures of others are passed over; of this key all must hold', () => {
    const [text, own] = note.split('\n\n') as [string, string];
    const [, other] = signedBy(keyPair()).split('\n\n') as [string, string];
    const [, wrong] = signedBy(key, { ...checkpoint, size: 1 }).split('\n\n') as [string, string];
    assert.equal(judge(`${text}\n\n${other}${own}`).kind, 'valid');
    assert.deepEqual(judge(`${text}\n\n${other}`), { kind: 'invalid', why: 'this key has not signed it' });
    assert.deepEqual(judge(`${text}\n\n${own}${wrong}`), { kind: 'invalid', why: 'its signature is wrong' });
  });

  for (const [what, change] of [
    ['size', (text: string) => text.replace('20852163', '20852164')],
    ['root', (text: string) => text.replace(checkpoint.root.toString('base64'), Buffer.alloc(32).toString('base64'))],
    ['origin', (text: string) => text.replaceAll(origin, 'tsa.example.com/other')],
    ['size with a leading zero', (text: string) => text.replace('20852163', '020852163')],
    ['size beyond 2^53', (text: string) => text.replace('20852163', '9007199254740992')],
    ['root of another length', (text: string) => text.replace(checkpoint.root.toString('base64'), Buffer.alloc(31).toString('base64'))],
    ['no signature', (text: string) => text.slice(0, text.indexOf('\n\n') + 2)],
    ['no separator', (text: string) => text.replace('\n\n', '\n')],
    ['a signature line of another form', (text: string) => text.replace('\u2014', '-')],
    ['a signature that is not base64', (text: string) => `${text.trimEnd()}!\n`],
    ['a cut end', (text: string) => text.slice(0, -1)],
    ['too much', (text: string) => `${'x'.repeat(70_000)}\n${text}`],
    ['too many signatures', (text: string) => text + text.slice(text.indexOf('\u2014')).repeat(64)],
  ] as const) {
    test(`refused: ${what}`, () => {
      const changed = change(note);
      assert.notEqual(changed, note);
      assert.equal(judge(changed).kind, 'invalid');
    });
  }

  test('an origin that could frame another checkpoint is not written', () => {
    for (const bad of ['', 'a b', 'a+b', 'a\n1', 'ä'])
      assert.throws(() => checkpointText({ ...checkpoint, origin: bad }), { code: 'JOURNAL_MALFORMED' });
  });
});
