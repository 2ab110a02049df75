import assert from 'node:assert/strict';
import { test } from 'node:test';
import pkcs11 from 'pkcs11js';
import { SigilloError } from '../../config/errors.ts';
import {
  ckrCode,
  ckrName,
  classifyLoginError,
  classifyPkcs11Error,
  classOfCkr,
  hsmError,
  type Pkcs11ErrorClass,
} from '../../signer/pkcs11-errors.ts';

const thrown = (code: number): Error => new pkcs11.Pkcs11Error(`${ckrName(code)}`, code, 'C_Sign');

const expected: Record<Pkcs11ErrorClass, [string, number][]> = {
  session: [
    ['closed', pkcs11.CKR_SESSION_CLOSED],
    ['handle', pkcs11.CKR_SESSION_HANDLE_INVALID],
    ['active', pkcs11.CKR_OPERATION_ACTIVE],
    ['count', pkcs11.CKR_SESSION_COUNT],
    ['object', pkcs11.CKR_OBJECT_HANDLE_INVALID],
    ['key', pkcs11.CKR_KEY_HANDLE_INVALID],
  ],
  device: [
    ['device', pkcs11.CKR_DEVICE_ERROR],
    ['removed', pkcs11.CKR_DEVICE_REMOVED],
    ['general', pkcs11.CKR_GENERAL_ERROR],
    ['token', pkcs11.CKR_TOKEN_NOT_PRESENT],
    ['no PIN looked at', pkcs11.CKR_USER_PIN_NOT_INITIALIZED],
    ['login lost', pkcs11.CKR_USER_NOT_LOGGED_IN],
    ['vendor', 0x8000_0123],
  ],
  credential: [
    ['incorrect', pkcs11.CKR_PIN_INCORRECT],
    ['locked', pkcs11.CKR_PIN_LOCKED],
    ['expired', pkcs11.CKR_PIN_EXPIRED],
    ['length', pkcs11.CKR_PIN_LEN_RANGE],
  ],
  request: [
    ['mechanism', pkcs11.CKR_MECHANISM_INVALID],
    ['size', pkcs11.CKR_KEY_SIZE_RANGE],
    ['data', pkcs11.CKR_DATA_LEN_RANGE],
    ['template', pkcs11.CKR_TEMPLATE_INCONSISTENT],
    ['sensitive', pkcs11.CKR_ATTRIBUTE_SENSITIVE],
    ['permitted', pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED],
  ],
  bug: [
    ['arguments', pkcs11.CKR_ARGUMENTS_BAD],
    ['buffer', pkcs11.CKR_BUFFER_TOO_SMALL],
    ['unknown', 0x7fff],
  ],
};

for (const [errorClass, codes] of Object.entries(expected)) {
  for (const [name, code] of codes) {
    test(`${name} (0x${code.toString(16)}) is of class ${errorClass}`, () => {
      assert.equal(classOfCkr(code), errorClass);
      assert.equal(classifyPkcs11Error(thrown(code)), errorClass);
    });
  }
}

test('the numbers of the table are those of the binding', () => {
  const constants = pkcs11 as unknown as Record<string, unknown>;
  for (const [name, code] of Object.entries(constants)) {
    if (!name.startsWith('CKR_') || typeof code !== 'number') continue;
    const known = ckrName(code);
    if (known.startsWith('CKR_')) assert.equal(known, name);
  }
});

test('a code is found behind wrappers, and in the text of the native error', () => {
  const wrapped = new Error('signing failed', { cause: new Error('again', { cause: thrown(pkcs11.CKR_DEVICE_REMOVED) }) });
  assert.equal(ckrCode(wrapped), pkcs11.CKR_DEVICE_REMOVED);
  assert.equal(ckrCode(new Error('CKR_PIN_INCORRECT:160 at C_Login')), pkcs11.CKR_PIN_INCORRECT);
});

test('what is not from PKCS#11 is a bug', () => {
  for (const error of [new TypeError('x is not a function'), 'text', undefined, Object.assign(new Error('no file'), { code: 'ENOENT' })]) {
    assert.equal(ckrCode(error), undefined);
    assert.equal(classifyPkcs11Error(error), 'bug');
  }
});

test('an error whose cause is itself ends', () => {
  const error = new Error('loop');
  error.cause = error;
  assert.equal(ckrCode(error), undefined);
});

test('each class has its code in the catalogue', () => {
  const codeOf = (code: number): string => hsmError(thrown(code), 'sign').code;
  assert.equal(codeOf(pkcs11.CKR_PIN_INCORRECT), 'HSM_PIN_REFUSED');
  assert.equal(codeOf(pkcs11.CKR_DEVICE_ERROR), 'HSM_DEVICE');
  assert.equal(codeOf(pkcs11.CKR_SESSION_CLOSED), 'HSM_DEVICE');
  assert.equal(codeOf(pkcs11.CKR_MECHANISM_INVALID), 'HSM_REQUEST');
  assert.equal(codeOf(pkcs11.CKR_ARGUMENTS_BAD), 'INTERNAL');
  const own = new SigilloError('HSM_KEY_MISSING');
  assert.equal(hsmError(own, 'sign'), own);
  assert.match(hsmError(thrown(pkcs11.CKR_PIN_LOCKED), 'log in').message, /log in: CKR_PIN_LOCKED/);
});

test('a failed login: only what came before the PIN lets it be tried again', () => {
  const of = (code: number, softhsm = false) => classifyLoginError(thrown(code), { softhsm });
  assert.deepEqual(
    [0xe0, 0xb3, 0x190, 0x102].map((code) => of(code)),
    Array(4).fill('untouched'),
  );
  assert.deepEqual(
    [0xb0, 0x30, 0x31, 0x32, 0x2].map((code) => of(code)),
    Array(5).fill('unclear'),
  );
  assert.deepEqual([of(0x5), of(0x5, true)], ['refused', 'untouched'], 'what SoftHSM means by CKR_GENERAL_ERROR is known');
  const known = new Set([0xe0, 0xb3, 0x190, 0x102, 0xb0, 0x30, 0x31, 0x32, 0x2]);
  for (let code = 1; code < 0x300; code += 1) if (!known.has(code)) assert.equal(of(code), 'refused', code.toString(16));
  assert.equal(of(0x80000042), 'refused');
  assert.equal(classifyLoginError(new Error('no code at all'), { softhsm: true }), 'refused');
});
