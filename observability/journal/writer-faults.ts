/** Why a writer ends. */
import { SigilloError } from '../../config/errors.ts';

export const anotherCame = (): SigilloError =>
  new SigilloError('JOURNAL_LEASE_LOST', 'The last block of an earlier writer came after all.');
export const hasEnded = (): SigilloError => new SigilloError('JOURNAL_LEASE_LOST', 'The writer has ended.');

/** Faults of the journal itself, which another try does not mend. */
export const isBroken = (error: unknown): error is SigilloError =>
  error instanceof SigilloError &&
  ['JOURNAL_FORKED', 'JOURNAL_SHORTENED', 'JOURNAL_SPOOL_DAMAGED', 'JOURNAL_LEASE_LOST'].includes(error.code);
