import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import * as asn1js from 'asn1js';
import { TimeStampResp } from 'pkijs';
import { grantedResponse } from '../../pki/tsp-granted.ts';
import { readTimeStampResp } from '../../pki/tsp-read.ts';
import { refusalResponse } from '../../pki/tsp-refusal.ts';
import type { FailInfo } from '../../pki/tsp-request.ts';
import { canonicalDer, parseAs } from '../support/strict-der.ts';
import { TestPki } from '../support/timestamp-fixtures.ts';

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

/** Bits of PKIFailureInfo (RFC 3161, 2.4.2), and how OpenSSL words them. */
const failInfos: Readonly<Record<FailInfo, readonly [number, RegExp]>> = {
  badAlg: [0, /Failure info: unrecognized or unsupported algorithm identifier/],
  badRequest: [2, /Failure info: transaction not permitted or supported/],
  badDataFormat: [5, /Failure info: the data submitted has the wrong format/],
  timeNotAvailable: [14, /Failure info: the TSA's time source is not available/],
  unacceptedPolicy: [15, /Failure info: the requested TSA policy is not supported by the TSA/],
  unacceptedExtension: [16, /Failure info: the requested extension is not supported by the TSA/],
  systemFailure: [25, /Failure info: the request cannot be handled due to system failure/],
};

let pki: TestPki;
before(() => {
  pki = new TestPki();
});
after(() => pki.close());

describe('TimeStampResp without a token', () => {
  for (const [failInfo, [bit, words]] of Object.entries(failInfos) as [FailInfo, readonly [number, RegExp]][]) {
    test(`${failInfo} is bit ${bit}, for asn1js, pkijs, OpenSSL and our own reader`, () => {
      const response = refusalResponse(failInfo);
      assert.equal(hex(canonicalDer(response)), hex(response));

      const top = parseAs(response, asn1js.Sequence).valueBlock.value;
      assert.equal(top.length, 1, 'no token');
      const [status, texts, bits, ...more] = (top[0] as asn1js.Sequence).valueBlock.value;
      assert.equal(more.length, 0);
      assert.equal((status as asn1js.Integer).valueBlock.valueDec, 2);
      const [text, ...others] = (texts as asn1js.Sequence).valueBlock.value;
      assert.ok(text instanceof asn1js.Utf8String && others.length === 0);
      assert.match(text.getValue(), /^[\x20-\x7e]{10,120}$/, 'one plain line');

      // A named-bit list: no trailing zero bits, so the last bit is the set one, and it is the only one.
      const { unusedBits, valueHexView } = (bits as asn1js.BitString).valueBlock;
      assert.equal(8 * valueHexView.length - unusedBits, bit + 1);
      const set = [...valueHexView].flatMap((octet, i) =>
        Array.from({ length: 8 }, (_, j) => ((octet & (0x80 >> j)) === 0 ? -1 : 8 * i + j)),
      );
      assert.deepEqual(
        set.filter((index) => index >= 0),
        [bit],
      );

      const parsed = TimeStampResp.fromBER(Uint8Array.from(response));
      assert.equal(parsed.status.status, 2);
      assert.equal(parsed.timeStampToken, undefined);

      const own = readTimeStampResp(response);
      assert.deepEqual([own.status, own.failInfo, own.timeStampToken], ['rejection', [failInfo], undefined]);

      const report = pki.openssl('ts', '-reply', '-in', pki.file(`${failInfo}.tsr`, response), '-text').toString();
      assert.match(report, /Status: Rejected\./);
      assert.match(report, words);
      assert.ok(report.includes(text.getValue()));
      assert.match(report, /TST info:\s*Not included\./);
    });
  }

  test('each reason has its own response, always the same', () => {
    const all = (Object.keys(failInfos) as FailInfo[]).map((failInfo) => hex(refusalResponse(failInfo)));
    assert.equal(new Set(all).size, all.length);
    assert.deepEqual(
      all,
      (Object.keys(failInfos) as FailInfo[]).map((failInfo) => hex(refusalResponse(failInfo))),
    );
  });
});

test('a granted TimeStampResp is status 0, the token, and nothing else', () => {
  for (const octets of [0, 1, 100, 120, 121, 122, 123, 124, 125, 126, 200, 250, 300, 65_530, 65_536]) {
    const token = new Uint8Array(new asn1js.Sequence({ value: [new asn1js.OctetString({ valueHex: new Uint8Array(octets) })] }).toBER());
    const response = grantedResponse(token);
    const oracle = new asn1js.Sequence({
      value: [new asn1js.Sequence({ value: [new asn1js.Integer({ value: 0 })] }), parseAs(token, asn1js.Sequence)],
    });
    assert.equal(hex(response), hex(new Uint8Array(oracle.toBER())));
    const { status, statusString, failInfo, timeStampToken } = readTimeStampResp(response);
    assert.deepEqual([status, statusString, failInfo, hex(timeStampToken ?? new Uint8Array())], ['granted', [], [], hex(token)]);
  }
});
