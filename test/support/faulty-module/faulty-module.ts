/**
 * A PKCS#11 module that does what a test says: it hands every call to the real module, unless its script has a rule for it.
 *
 * The script is a file that every process with the module has mapped, so a rule holds from the moment it is set, in all of
 * them, and counters outlive them. One object controls a file; processes that load the module need `environment`.
 */
import { join } from 'node:path';
import type { HsmSlot } from '../../../signer/pkcs11-module.ts';
import { buildFaultyModule } from './build.ts';
import { ControlFile } from './control-file.ts';
import { FaultyToken } from './faulty-token.ts';
import { type ModuleFunction, type Rule, RuleSet, type StrikeOptions } from './rules.ts';

const moduleEntry = 0;

export class FaultyModule implements Pick<HsmSlot, 'modulePath' | 'environment'> {
  readonly modulePath: string;
  readonly environment: Readonly<Record<string, string>>;
  readonly #control: ControlFile;
  readonly #rules: RuleSet;
  readonly #tokens = new Map<string, FaultyToken>();
  #callsAtReset = { initialize: 0, finalize: 0 };

  /**
   * @param real the module behind, with its variables (`resolveHsm` gives both)
   * @param folder where the control file goes; it must have none yet
   */
  constructor(real: Pick<HsmSlot, 'modulePath' | 'environment'>, folder: string) {
    const path = join(folder, 'faulty-module.control');
    this.modulePath = buildFaultyModule();
    this.environment = { ...real.environment, FAULTY_MODULE_REAL: real.modulePath, FAULTY_MODULE_CONTROL: path };
    this.#control = new ControlFile(path);
    this.#rules = new RuleSet(this.#control, moduleEntry);
  }

  /** The script of the token with this label. Ask before sessions are opened on it: those opened earlier are not counted. */
  token(label: string): FaultyToken {
    const known = this.#tokens.get(label);
    if (known !== undefined) return known;
    const token = new FaultyToken(this.#control, this.#control.addToken(label));
    this.#tokens.set(label, token);
    return token;
  }

  /** Answers a call that concerns no token with a CKR code. */
  fail(name: ModuleFunction, ckr: number, options?: StrikeOptions): Rule {
    return this.#rules.fail(name, ckr, options);
  }

  /** Holds a call that concerns no token until the rule is cleared. */
  hang(name: ModuleFunction, options?: StrikeOptions): Rule {
    return this.#rules.hang(name, options);
  }

  /** Calls of C_Initialize since the last reset, refused ones too. */
  get initializeCalls(): number {
    return this.#control.initializeCalls - this.#callsAtReset.initialize;
  }

  /** Calls of C_Finalize since the last reset. */
  get finalizeCalls(): number {
    return this.#control.finalizeCalls - this.#callsAtReset.finalize;
  }

  /** Calls that a rule of this module, not of a token, holds now. */
  get hanging(): number {
    return this.#control.holding(moduleEntry).hanging;
  }

  /** The processes that have the module initialised now. */
  get processes(): readonly number[] {
    return this.#control.processes();
  }

  /**
   * No rule is left, hung calls go on, away tokens are back, and counters start at nothing. What a process has lost by then
   * (sessions, logins) stays lost until it opens or logs in anew.
   */
  reset(): void {
    this.#rules.clear();
    for (const token of this.#tokens.values()) token.reset();
    this.#callsAtReset = { initialize: this.#control.initializeCalls, finalize: this.#control.finalizeCalls };
  }

  /** Resets, and lets go of the file; the module works on without rules. */
  close(): void {
    this.reset();
    this.#control.close();
  }
}
