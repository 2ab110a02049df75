import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { GrowingBuffer } from '../../signer/growing-buffer.ts';

describe('growing buffer', () => {
  test('holds what was written into each reserved part, batch after batch', () => {
    const parts = fc.array(fc.uint8Array({ maxLength: 500 }), { maxLength: 40 });
    fc.assert(
      fc.property(fc.integer({ min: 64, max: 300 }), fc.array(fc.tuple(fc.nat(60), parts), { maxLength: 6 }), (initial, batches) => {
        const buffer = new GrowingBuffer(initial);
        for (const [front, written] of batches) {
          buffer.clear(front);
          let expectedAt = front;
          for (const part of written) {
            const at = buffer.reserve(part.length);
            assert.equal(at, expectedAt);
            assert.ok(buffer.bytes.length >= at + part.length);
            buffer.bytes.set(part, at);
            expectedAt += part.length;
          }
          buffer.bytes.fill(0x11, 0, front);
          const copy = Buffer.from(buffer.copy());
          assert.equal(copy.toString('hex'), Buffer.concat([Buffer.alloc(front, 0x11), ...written]).toString('hex'));
        }
      }),
    );
  });

  test('grows by doubling, so that filling it costs a few copies only', () => {
    const buffer = new GrowingBuffer(64);
    const seen = new Set<Buffer>();
    buffer.clear(0);
    for (let i = 0; i < 100_000; i += 1) {
      buffer.reserve(10);
      seen.add(buffer.bytes);
    }
    assert.ok(seen.size < 20, `${seen.size} buffers`);
  });

  test('does not allocate again for a batch that fits', () => {
    const buffer = new GrowingBuffer(64);
    buffer.reserve(1_000);
    const { bytes } = buffer;
    buffer.clear(0);
    buffer.reserve(1_000);
    assert.equal(buffer.bytes, bytes);
  });

  test('room in front that is more than the whole buffer', () => {
    const buffer = new GrowingBuffer(4);
    buffer.clear(10);
    const at = buffer.reserve(3);
    assert.equal(at, 10);
    buffer.bytes.set([1, 2, 3], at);
    assert.deepEqual([...buffer.copy().subarray(10)], [1, 2, 3]);
  });

  test('the copy has an ArrayBuffer of its own, and stays as it was', () => {
    const buffer = new GrowingBuffer(16);
    buffer.clear(0);
    buffer.bytes.set([1, 2, 3], buffer.reserve(3));
    const copy = buffer.copy();
    assert.equal(copy.buffer.byteLength, 3);
    buffer.bytes.fill(9);
    assert.deepEqual([...copy], [1, 2, 3]);
    const { port1, port2 } = new MessageChannel();
    port1.postMessage(copy, [copy.buffer as ArrayBuffer]);
    assert.equal(copy.length, 0, 'transferred');
    port1.close();
    port2.close();
    buffer.clear(0);
    buffer.bytes.set([7], buffer.reserve(1));
    assert.deepEqual([...buffer.copy()], [7]);
  });
});
