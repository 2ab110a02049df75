/** What keys are in a token, whoever made them, as it tells of them. */
import { ObjectClass, type Session, type SessionObject } from 'graphene-pk11';
import pkcs11 from 'pkcs11js';
import { SigilloError } from '../config/errors.ts';
import { tsuAlgorithms } from '../config/schema.ts';
import { algorithmName, type KeyScheme, keyScheme } from '../pki/algorithms.ts';
import { ecParameters } from '../pki/public-key.ts';
import { callingHsm } from './pkcs11-errors.ts';
import { attributeOf, describeScheme, findKey, findObjects, type TokenKey } from './token-keys.ts';

/** A private key in a token. What a token does not tell is undefined. */
export interface ListedKey {
  readonly label: string;
  /** Type and size: `EC P-256`, `RSA 3072`. */
  readonly type: string;
  /** Undefined for kinds that are not used here. Of an RSA key that is allowed more than PSS, PKCS#1 v1.5 is assumed. */
  readonly scheme: KeyScheme | undefined;
  /** CKA_EXTRACTABLE is false. */
  readonly nonExtractable: boolean | undefined;
  readonly sensitive: boolean | undefined;
  /** Made in this token. */
  readonly local: boolean | undefined;
  readonly signs: boolean | undefined;
  /** The pair; undefined when it cannot be used, for the reason in `fault`. */
  readonly key: TokenKey | undefined;
  readonly fault: string | undefined;
}

const schemes = tsuAlgorithms.map(keyScheme);

const flag = (object: SessionObject, type: number): boolean | undefined => {
  const value = attributeOf(object, type);
  return value === undefined ? undefined : value[0] === 1;
};

/** A CK_ULONG, whose low octets are enough for key types and mechanisms. */
const number = (value: Buffer | undefined): number | undefined =>
  value === undefined || value.length < 4 ? undefined : value.readUInt32LE(0);

const modulusBits = (object: SessionObject): number => {
  const modulus = attributeOf(object, pkcs11.CKA_MODULUS);
  if (modulus === undefined) return 0;
  return (modulus.length - modulus.findIndex((octet) => octet !== 0)) * 8;
};

/** Whether a key may do PSS only: nothing else tells the padding of an RSA key. */
const isForPss = (object: SessionObject): boolean => {
  const allowed = attributeOf(object, pkcs11.CKA_ALLOWED_MECHANISMS);
  return allowed?.length === 8 && number(allowed) === pkcs11.CKM_RSA_PKCS_PSS;
};

const typeOf = (object: SessionObject): Pick<ListedKey, 'type' | 'scheme'> => {
  const type = number(attributeOf(object, pkcs11.CKA_KEY_TYPE));
  if (type === pkcs11.CKK_EC) {
    const parameters = attributeOf(object, pkcs11.CKA_EC_PARAMS);
    const scheme = schemes.find((one) => one.kind === 'ecdsa' && parameters?.equals(ecParameters(one.curve)) === true);
    return { type: scheme === undefined ? 'EC, another curve' : describeScheme(scheme), scheme };
  }
  if (type === pkcs11.CKK_RSA) {
    const bits = modulusBits(object);
    const kind = isForPss(object) ? 'rsa-pss' : 'rsa-pkcs1';
    return { type: `RSA ${bits}`, scheme: schemes.find((one) => one.kind === kind && one.bits === bits) };
  }
  return { type: `type ${type ?? 'not told'}`, scheme: undefined };
};

const pairOf = (session: Session, label: string, scheme: KeyScheme | undefined): Pick<ListedKey, 'key' | 'fault'> => {
  if (scheme === undefined) return { key: undefined, fault: 'not a key that is used here' };
  if (label === '') return { key: undefined, fault: 'it has no label' };
  try {
    const key = findKey(session, label, scheme);
    return { key, fault: key === undefined ? 'a half of a pair, or unfinished' : undefined };
  } catch (error) {
    // Two of one label, or a pair whose halves do not fit: the others are listed all the same.
    if (error instanceof SigilloError && error.code === 'HSM_KEY_MISMATCH') return { key: undefined, fault: error.message };
    throw error;
  }
};

/** Every private key that the login shows, by label. @throws HSM_* */
export const listKeys = (session: Session): ListedKey[] =>
  callingHsm('list the keys', () =>
    findObjects(session, { class: ObjectClass.PRIVATE_KEY })
      .map((object): ListedKey => {
        const label = attributeOf(object, pkcs11.CKA_LABEL)?.toString('utf8') ?? '';
        const extractable = flag(object, pkcs11.CKA_EXTRACTABLE);
        const { type, scheme } = typeOf(object);
        return {
          label,
          type,
          scheme,
          nonExtractable: extractable === undefined ? undefined : !extractable,
          sensitive: flag(object, pkcs11.CKA_SENSITIVE),
          local: flag(object, pkcs11.CKA_LOCAL),
          signs: flag(object, pkcs11.CKA_SIGN),
          ...pairOf(session, label, scheme),
        };
      })
      .toSorted((a, b) => a.label.localeCompare(b.label)),
  );

/** Name of what a listed key is, as configurations name it; undefined for kinds that are not used here. */
export const algorithmOf = ({ scheme }: Pick<ListedKey, 'scheme'>): string | undefined =>
  scheme === undefined ? undefined : algorithmName(scheme);
