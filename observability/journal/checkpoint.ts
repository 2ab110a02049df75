/**
 * Checkpoints: a signed note (C2SP signed-note) whose text is a checkpoint of the journal's tree (C2SP tlog-checkpoint): origin,
 * size, RFC 6962 root. The signature is ECDSA with SHA-256 (signature type 0x02), which every HSM can make: DER, and the key ID
 * is the start of the SHA-256 of the SubjectPublicKeyInfo.
 */
import { createPublicKey, hash as digestOf, verify } from 'node:crypto';
import { SigilloError } from '../../config/errors.ts';
import { hashOctets } from './event-encoding.ts';

export interface Checkpoint {
  /** Name of the journal, for ever: a host name and path without scheme, such as `tsa.example.com/journal`. */
  readonly origin: string;
  /** Number of entries. */
  readonly size: number;
  /** Root of the tree of that size, 32 octets. */
  readonly root: Uint8Array;
}

/** The key of a journal, under the name that its signatures carry: the origin. */
export interface CheckpointKey {
  readonly name: string;
  /** SubjectPublicKeyInfo of a P-256, P-384 or P-521 key, DER. */
  readonly spki: Uint8Array;
}

const keyIdOctets = 4;
/** The specification asks for 16 at least; a note with more than so many octets is not looked at. */
const noteOctetsMax = 64 * 1024;
const signaturesMax = 64;
const signatureStart = '\u2014 ';
const originPattern = /^[!-*,-~]{1,255}$/; // visible ASCII without "+": also a key name
const sizePattern = /^(0|[1-9]\d{0,15})$/;

const malformed = (what: string): SigilloError => new SigilloError('JOURNAL_MALFORMED', `checkpoint: ${what}`);

/** Base64 that has one spelling (RFC 4648, section 3.5). */
const fromBase64 = (text: string, what: string): Buffer => {
  const octets = Buffer.from(text, 'base64');
  if (octets.length === 0 || octets.toString('base64') !== text) throw malformed(`${what} is not base64`);
  return octets;
};

/** The text that is signed. @throws JOURNAL_MALFORMED for an origin that is no key name */
export const checkpointText = ({ origin, size, root }: Checkpoint): string => {
  if (!originPattern.test(origin)) throw malformed('the origin must be visible ASCII without "+"');
  return `${origin}\n${size}\n${Buffer.from(root).toString('base64')}\n`;
};

const keyIdOf = (spki: Uint8Array): Buffer => digestOf('sha256', spki, 'buffer').subarray(0, keyIdOctets);

/** Puts text and signature together. @param signature ECDSA with SHA-256 over the text's octets, DER */
export const signedCheckpoint = (checkpoint: Checkpoint, spki: Uint8Array, signature: Uint8Array): string =>
  `${checkpointText(checkpoint)}\n${signatureStart}${checkpoint.origin} ${Buffer.concat([keyIdOf(spki), signature]).toString('base64')}\n`;

interface NoteSignature {
  readonly name: string;
  readonly keyId: Buffer;
  readonly signature: Buffer;
}

const readSignature = (line: string): NoteSignature => {
  const [name, base64, ...more] = line.slice(signatureStart.length).split(' ');
  if (!line.startsWith(signatureStart) || !name || base64 === undefined || more.length > 0)
    throw malformed('a signature line has another form');
  const octets = fromBase64(base64, 'a signature');
  if (octets.length <= keyIdOctets) throw malformed('a signature is cut off');
  return { name, keyId: octets.subarray(0, keyIdOctets), signature: octets.subarray(keyIdOctets) };
};

/** Reads the text of a note; lines of extensions are passed over. */
const readText = (text: string): Checkpoint => {
  const [origin, size, root, ...extensions] = text.slice(0, -1).split('\n');
  if (origin === undefined || !originPattern.test(origin)) throw malformed('the origin is missing');
  if (size === undefined || !sizePattern.test(size) || !Number.isSafeInteger(Number(size))) throw malformed('the size is no number');
  if (root === undefined) throw malformed('the root is missing');
  const octets = fromBase64(root, 'the root');
  if (octets.length !== hashOctets) throw malformed('the root is no SHA-256');
  if (extensions.some((line) => line === '')) throw malformed('a line is empty');
  return { origin, size: Number(size), root: octets };
};

/**
 * Reads a text that is to be signed: exactly what `checkpointText` makes, and nothing that could be taken for something else.
 * @throws JOURNAL_MALFORMED
 */
export const readCheckpointText = (text: string): Checkpoint => {
  const checkpoint = readText(text);
  if (checkpointText(checkpoint) !== text) throw malformed('the text is not in its one form');
  return checkpoint;
};

const splitNote = (note: string): { text: string; signatures: NoteSignature[] } => {
  if (Buffer.byteLength(note) > noteOctetsMax) throw malformed(`longer than ${noteOctetsMax} octets`);
  const end = note.lastIndexOf('\n\n');
  if (end === -1 || !note.endsWith('\n')) throw malformed('it is no signed note');
  const lines = note.slice(end + 2, -1).split('\n');
  if (lines.length > signaturesMax) throw malformed(`more than ${signaturesMax} signatures`);
  return { text: note.slice(0, end + 1), signatures: lines.map(readSignature) };
};

export type CheckpointVerdict =
  | { readonly kind: 'valid'; readonly checkpoint: Checkpoint }
  | { readonly kind: 'invalid'; readonly why: string };

const invalid = (why: string): CheckpointVerdict => ({ kind: 'invalid', why });

/**
 * Reads a checkpoint whose origin is the key's name and which that key has signed. Signatures of unknown keys, such as
 * witnesses, are passed over; a bad signature of this key condemns the note.
 */
export const verifyCheckpoint = (note: string, key: CheckpointKey): CheckpointVerdict => {
  try {
    const { text, signatures } = splitNote(note);
    const checkpoint = readText(text);
    if (checkpoint.origin !== key.name) return invalid(`it is of ${checkpoint.origin}, not of ${key.name}`);
    const keyId = keyIdOf(key.spki);
    const own = signatures.filter(({ name, keyId: id }) => name === key.name && id.equals(keyId));
    if (own.length === 0) return invalid('this key has not signed it');
    const publicKey = createPublicKey({ key: Buffer.from(key.spki), format: 'der', type: 'spki' });
    const good = own.every(({ signature }) => verify('sha256', Buffer.from(text), publicKey, signature));
    return good ? { kind: 'valid', checkpoint } : invalid('its signature is wrong');
  } catch (error) {
    if (error instanceof SigilloError) return invalid(error.message);
    throw error;
  }
};
