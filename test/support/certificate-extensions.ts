/** Certificates with other extensions, built octet by octet; the signature is then wrong, and matters to nobody here. */
import { type Der, DerReader, encode, sequence, tag } from '../../pki/der.ts';
import type { Identity } from './timestamp-fixtures.ts';

/** The certificate of `like` with these extensions in place of its own. */
export const withExtensions = (like: Identity, extensions: readonly Der[] | undefined, more: readonly Der[] = []): Der => {
  const outer = new DerReader(like.certificate.raw).enter(tag.sequence);
  const tbs = outer.enter(tag.sequence);
  const start = tbs.offset;
  tbs.next(tag.contextConstructed(0));
  tbs.integer();
  for (let i = 0; i < 5; i += 1) tbs.next(tag.sequence);
  const head = like.certificate.raw.subarray(start, tbs.offset);
  const tail = like.certificate.raw.subarray(outer.offset);
  const own = extensions === undefined ? [] : [encode(tag.contextConstructed(3), sequence(...extensions))];
  return sequence(sequence(head, ...more, ...own), tail);
};
