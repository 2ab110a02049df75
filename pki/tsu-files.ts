/**
 * Names of the timestamping keys that Sigillo makes: the label in the token is the base name of the certificate's file,
 * `tsu-<algorithm>-<n>`, with n counting up from 1 for each algorithm.
 */

const pattern = /^tsu-([a-z]+(?:-[a-z0-9]+)+)-([1-9]\d{0,8})\.pem$/;

/** Label of the n-th key of an algorithm such as `ec-p256`. */
export const tsuKeyLabel = (algorithm: string, n: number): string => `tsu-${algorithm}-${n}`;

/** File with the certificate chain of the n-th key: the TSU certificate, then its CAs without the root, in PEM. */
export const tsuFileName = (algorithm: string, n: number): string => `${tsuKeyLabel(algorithm, n)}.pem`;

/** What a file name says, or undefined when it is not the name of a TSU file. */
export const parseTsuFileName = (
  name: string,
): { readonly algorithm: string; readonly n: number; readonly keyLabel: string } | undefined => {
  const match = pattern.exec(name);
  if (match === null) return undefined;
  return { algorithm: match[1] as string, n: Number(match[2]), keyLabel: name.slice(0, -'.pem'.length) };
};
