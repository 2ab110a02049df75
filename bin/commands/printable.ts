/** Text from outside on a terminal: what somebody else wrote must not move the cursor or colour the screen. */

/** The text with what is not printable replaced. */
export const printable = (text: string): string => text.replace(/[^\x20-\x7e\u00a0-\u167f\u1681-\u1fff\u2030-\u205e\u2070-\ud7ff]+/g, '?');

/** Cuts a text that is longer in its middle. */
export const shorten = (text: string, charactersMax: number): string => {
  if (text.length <= charactersMax) return text;
  const half = Math.max(1, Math.floor((charactersMax - 1) / 2));
  return `${text.slice(0, charactersMax - 1 - half)}…${text.slice(-half)}`;
};
