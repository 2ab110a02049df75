/** A service whose stamps come from tokens of an operator: SoftHSM's as they are, or slow ones. */
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TsuAlgorithm } from '../config/schema.ts';
import { FaultyModule } from '../test/support/faulty-module/faulty-module.ts';
import { OperatorTokens } from '../test/support/operator-tokens.ts';
import { softhsmPath } from '../test/support/token-home.ts';
import { onCleanup, removeAtEnd } from './child-process.ts';
import { type RunningService, type ServiceOptions, startService } from './service.ts';

/** What a token takes for a signature, and how many it makes at once. */
export interface SlowToken {
  readonly latencyMicros: number;
  readonly parallel: number;
}

export interface TokenServiceOptions extends Pick<ServiceOptions, 'threads' | 'durability' | 'resultsFolder'> {
  readonly algorithm: TsuAlgorithm;
  readonly labels: readonly string[];
  /** Unset: as fast as SoftHSM is. */
  readonly slow?: SlowToken | undefined;
  /** Of each slot; unset: the service's own default. */
  readonly sessions?: number;
}

type Module = Pick<FaultyModule, 'modulePath' | 'environment'>;

const slowModule = (real: Module, { folder, labels, slow }: { folder: string; labels: readonly string[]; slow: SlowToken }): Module => {
  const faulty = new FaultyModule(real, folder);
  onCleanup(() => faulty.close());
  for (const label of labels) {
    const token = faulty.token(label);
    token.delaySigning(slow.latencyMicros);
    token.limitSigning(slow.parallel);
  }
  return faulty;
};

/** Makes the tokens and starts the service. */
export const startTokenService = async ({ labels, slow, sessions, ...options }: TokenServiceOptions): Promise<RunningService> => {
  const folder = mkdtempSync(join(tmpdir(), 'sigillo-bench-'));
  removeAtEnd(folder);
  const tokens = new OperatorTokens(folder);
  for (const label of [...labels, 'authority']) await tokens.addToken(label);
  const real = { modulePath: softhsmPath as string, environment: tokens.environment };
  const { modulePath: module, environment } = slow === undefined ? real : slowModule(real, { folder, labels, slow });
  const { pinFile } = tokens;
  const slots = [
    ...labels.map((label) => ({ label, purposes: ['timestamp'], pinFile, ...(sessions !== undefined && { sessions }) })),
    { label: 'authority', purposes: ['authority', 'journal'], pinFile },
  ];
  return startService({ ...options, settings: { hsm: { mode: 'module', module, environment, slots } } });
};
