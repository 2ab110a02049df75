/**
 * Serial numbers of tokens that never repeat (RFC 3161, 2.4.2: even after a crash), without a clock and without asking
 * anybody: 110 random bits drawn at each start of each thread, then a counter of 48 bits.
 *
 * Two starts draw the same prefix with a probability of 2^-110; after a million starts the chance that any two of them
 * ever did is 2^-71. The counter lasts 890 years at 10,000 stamps a second.
 */
import { randomBytes } from 'node:crypto';
import { invariant } from '../config/errors.ts';
import { serialOctets } from '../pki/token-template.ts';

const counterOctets = 6;

/** Returns a function that gives the next serial number; the returned buffer is reused by the next call. */
export const createSerialNumbers = (random: (octets: number) => Buffer = randomBytes): (() => Buffer) => {
  const serial = Buffer.alloc(serialOctets);
  serial.set(random(serialOctets - counterOctets));
  // 01xxxxxx: positive and never shortened by DER, so that all serial numbers have the same length.
  serial[0] = ((serial[0] as number) & 0x3f) | 0x40;
  let count = 0;
  return () => {
    count += 1;
    invariant(count < 2 ** (8 * counterOctets), 'serial numbers of this thread are used up');
    serial.writeUIntBE(count, serialOctets - counterOctets, counterOctets);
    return serial;
  };
};
