/**
 * The accuracy that a token states (RFC 3161, 2.4.2): never better than what the clock can prove for that stamp. Where the configured
 * one cannot be proved, the next coarser step of a fixed ladder is, so that tokens differ in a few encodings and not in microseconds.
 */

const ladderMicros = [1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000];

/** The accuracies that tokens can state, finest first: the configured one, then the coarser steps up to the maximum. Microseconds. */
export const accuracySteps = (configuredMicros: number, maximumMicros: number): readonly number[] => {
  const between = ladderMicros.filter((step) => step > configuredMicros && step < maximumMicros);
  return configuredMicros < maximumMicros ? [configuredMicros, ...between, maximumMicros] : [configuredMicros];
};

/** Index of the finest step that holds an error; the last one at the worst, which the guarded clock never exceeds. */
export const stepFor = (steps: readonly number[], errorMs: number): number => {
  const last = steps.length - 1;
  let index = 0;
  while (index < last && errorMs * 1_000 > (steps[index] as number)) index += 1;
  return index;
};
