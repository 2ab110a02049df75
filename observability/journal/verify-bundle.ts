/** Verifies a bundle (bundle.ts) with the key of the journal and nothing else. */
import { SigilloError } from '../../config/errors.ts';
import { type BundleHeader, type OpenBundle, openBundle } from './bundle.ts';
import type { Checkpoint } from './checkpoint.ts';
import { hashOctets } from './event-encoding.ts';
import { MerkleTree, verifyConsistency } from './merkle.ts';
import { faultAt, type JournalFault, JournalPass, verifyByAny } from './verify-places.ts';
import { type JournalValid, judgeAlone, judgePartitions, type PlacesRules, runPass, validOf } from './verify-run.ts';
import { type TokenVerifier, tokenVerifier } from './verify-token.ts';

export interface VerifyBundleOptions extends Omit<PlacesRules, 'anchors' | 'verifyToken'> {
  /** Trusted certificates, DER; unset: the timestamp of the checkpoint is not looked at. */
  readonly roots?: readonly Uint8Array[];
}

export interface BundleValid extends JournalValid {
  readonly header: BundleHeader;
  /** That covers the range. */
  readonly checkpoint: Checkpoint;
  /** genTime of its timestamp. */
  readonly checkpointTime: Date | undefined;
}

const isMalformed = (error: unknown): error is SigilloError => error instanceof SigilloError && error.code === 'JOURNAL_MALFORMED';

interface CheckedHeader {
  readonly kind: 'checked';
  readonly checkpoint: Checkpoint;
  readonly checkpointTime: Date | undefined;
  readonly tree: MerkleTree;
}

const checkHeader = (
  header: BundleHeader,
  { keys }: VerifyBundleOptions,
  verifyToken: TokenVerifier | undefined,
): CheckedHeader | JournalFault => {
  const { from, to, origin, left, token } = header;
  const verdict = verifyByAny(header.checkpoint, keys);
  if (verdict.kind === 'invalid') return faultAt('checkpoint-signature', from, `the checkpoint of the bundle: ${verdict.why}`, to);
  const { checkpoint } = verdict;
  if (checkpoint.origin !== origin)
    return faultAt('bundle', from, `it says that it is of ${origin}, its checkpoint is of ${checkpoint.origin}`, to);
  if (checkpoint.size < to) return faultAt('bundle', from, `its checkpoint covers ${checkpoint.size} entries, not ${to}`, to);
  const stamped = token === null ? undefined : verifyToken?.(token, Buffer.from(header.checkpoint));
  if (stamped?.kind === 'invalid') return faultAt('checkpoint-timestamp', from, `the timestamp of its checkpoint: ${stamped.why}`, to);
  try {
    return { kind: 'checked', checkpoint, checkpointTime: stamped?.genTime, tree: MerkleTree.resume(from, left) };
  } catch (error) {
    if (error instanceof RangeError) return faultAt('bundle', from, error.message, to);
    throw error;
  }
};

const readPlaces = async (
  pass: JournalPass,
  { header, places }: OpenBundle,
  onProgress: PlacesRules['onProgress'],
): Promise<JournalFault | undefined> => {
  const { from, to } = header;
  try {
    const found = await runPass(pass, places, () => onProgress?.(pass.head.size - from, to - from));
    if (found !== undefined) return found;
  } catch (error) {
    if (!isMalformed(error)) throw error;
    return faultAt('bundle', pass.head.size, error.message, Math.max(to, pass.head.size + 1));
  }
  const { size } = pass.head;
  if (size < to) return faultAt('missing', size, `there are no entries from ${size} to ${to - 1}`);
  return size > to ? faultAt('bundle', to, `it holds entries behind ${to - 1}`, size) : undefined;
};

/**
 * Verifies a bundle while it is read.
 *
 * Expired entries in it are judged only when the event that tells of them is in it too, from the first entry on; otherwise
 * `expiryUnproven` names their partitions: their hashes are proven, not that they could go.
 */
export const verifyBundle = async (
  chunks: AsyncIterable<Uint8Array>,
  options: VerifyBundleOptions,
): Promise<BundleValid | JournalFault> => {
  const { keys, roots, onProgress } = options;
  let bundle: OpenBundle;
  try {
    bundle = await openBundle(chunks);
  } catch (error) {
    if (isMalformed(error)) return faultAt('bundle', 0, error.message, 0);
    throw error;
  }
  const { header } = bundle;
  const { from, to } = header;
  const verifyToken = roots === undefined ? undefined : tokenVerifier(roots, [Buffer.concat(header.certificates)]);
  const checked = checkHeader(header, options, verifyToken);
  if (checked.kind === 'fault') return checked;
  const { checkpoint, checkpointTime, tree } = checked;
  // The timestamps of checkpoints among the entries may be of other TSUs, whose chains the bundle does not bring.
  const pass = new JournalPass({ tree, hash: from === 0 ? new Uint8Array(hashOctets) : undefined }, { keys });
  const found = await readPlaces(pass, bundle, onProgress);
  if (found !== undefined) return found;
  if (!verifyConsistency({ size: to, root: pass.root() }, checkpoint, header.consistency)) {
    const begin = Math.max(from, pass.count.anchored);
    return faultAt('rewritten', begin, `entries ${begin} to ${to - 1} do not lead to the checkpoint of the bundle`, to);
  }
  pass.noteAnchored();
  const expiry = await judgePartitions(pass, options, judgeAlone(from));
  if (!Array.isArray(expiry)) return expiry;
  return { ...validOf(pass, from, expiry), header, checkpoint, checkpointTime };
};
