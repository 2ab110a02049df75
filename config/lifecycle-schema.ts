/** The sections of the configuration about the life of timestamping keys: their calendar, and who must agree. */
import { z } from 'zod';

const dayMs = 86_400_000;
/** Days, with fractions, so that a drill can rotate every few seconds. */
const days = z.number().min(0).max(90);

export const tsuLifecycleSchema = z.strictObject({
  /** Longest use of a key, in milliseconds; never longer than the 90 days, or three calendar months, that hold anyway. */
  usageMsMax: z
    .int()
    .min(1_000)
    .max(90 * dayMs)
    .optional(),
  /** How long before its use the next key is made and certified. */
  leadDays: days.default(7),
  /** How long before the end of its use a key is followed by the next one. So long the old one still stands by. */
  switchDays: days.default(1),
  /** How long the private key of a retired TSU is kept. */
  graceDays: z.number().min(0).max(3_650).default(7),
  /** Validity of a TSU certificate: so long its timestamps can be verified without other means. */
  certificateYears: z.int().min(1).max(30).default(6),
  /** How often the calendar is looked at. */
  tickMs: z.int().min(50).max(3_600_000).default(10_000),
  /** How often the CRL of the embedded timestamp CA is issued, and how long each one holds. */
  crlMinutes: z.int().min(1).max(10_080).default(60),
  crlDays: z.int().min(1).max(366).default(7),
});

const operatorName = z.string().regex(/^(?!\.)[A-Za-z0-9._-]{1,64}$/, 'must be 1 to 64 letters, digits, dots, hyphens or underscores');

/** Absent: what the calendar says is done at once. */
export const dualControlSchema = z
  .strictObject({
    /** How many different operators must approve. */
    approvals: z.int().min(1).max(16),
    operators: z
      .array(
        z.strictObject({
          name: operatorName,
          /** Public key of the operator, PEM: Ed25519, or EC P-256 or P-384. */
          publicKeyFile: z.string().min(1),
        }),
      )
      .min(1)
      .max(64),
  })
  .superRefine(({ approvals, operators }, context) => {
    if (operators.length < approvals) {
      context.addIssue({ code: 'custom', path: ['approvals'], message: `more than there are operators (${operators.length})` });
    }
    const names = operators.map(({ name }) => name);
    const repeated = names.find((name, i) => names.indexOf(name) !== i);
    if (repeated !== undefined) context.addIssue({ code: 'custom', path: ['operators'], message: `${repeated} is there twice` });
  })
  .optional();

/** A successor must be ready before its predecessor has begun: otherwise keys would be made for a future that never comes. */
export const checkTsuCalendar = (
  { usageMsMax, leadDays, switchDays }: z.output<typeof tsuLifecycleSchema>,
  issue: (path: string, message: string) => void,
): void => {
  const usageMs = usageMsMax ?? 89 * dayMs;
  if ((leadDays + switchDays) * dayMs >= usageMs) {
    issue('leadDays', 'with switchDays it must be shorter than the use of a key (usageMsMax, or 89 days)');
  }
};
