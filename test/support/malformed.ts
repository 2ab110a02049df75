/** What a reader of foreign bytes may throw: its code for malformed bytes, and nothing else. */
import assert from 'node:assert/strict';
import fc from 'fast-check';
import { type ErrorCode, SigilloError } from '../../config/errors.ts';

export const isMalformedAs =
  (code: ErrorCode) =>
  (error: unknown): true => {
    assert.ok(error instanceof SigilloError, String(error));
    assert.equal(error.code, code);
    return true;
  };
export const isMalformed = isMalformedAs('LANE_ENTRY_MALFORMED');

/** Truncates, extends and changes `right` bytes, and tries noise: each is read or refused. */
export const checkHostileBytes = (right: Buffer, read: (bytes: Buffer) => unknown, code: ErrorCode = 'LANE_ENTRY_MALFORMED'): void => {
  const isRefusal = isMalformedAs(code);
  const attempt = (bytes: Buffer): void => {
    try {
      read(bytes);
    } catch (error) {
      isRefusal(error);
    }
  };
  for (let length = 0; length < right.length; length += 1) assert.throws(() => read(right.subarray(0, length)), isRefusal, String(length));
  for (const tail of [[0], [1], [0xff, 0xff], [...right]]) assert.throws(() => read(Buffer.concat([right, Buffer.from(tail)])), isRefusal);
  const changes = fc.array(fc.tuple(fc.nat(right.length - 1), fc.nat(255)), { minLength: 1, maxLength: 8 });
  const noise = fc.uint8Array({ maxLength: 200 });
  fc.assert(
    fc.property(changes, noise, (edits, octets) => {
      const changed = Buffer.from(right);
      for (const [at, octet] of edits) changed[at] = octet;
      attempt(changed);
      attempt(Buffer.from(octets));
      attempt(Buffer.concat([right.subarray(0, 3), octets]));
    }),
    { numRuns: 2_000 },
  );
};
