/** Rules about single functions: which calls of it fail with which code, or hang. */
import type pkcs11 from 'pkcs11js';
import { type ControlFile, rulesMax } from './control-file.ts';

type Pkcs11Function = Exclude<Extract<keyof pkcs11.PKCS11, `C_${string}`>, `${string}Async` | `${string}Callback`>;
/** Functions that concern the module and no token. */
export type ModuleFunction = Extract<Pkcs11Function, 'C_Initialize' | 'C_Finalize' | 'C_GetInfo' | 'C_GetSlotList' | 'C_WaitForSlotEvent'>;
/** Functions on a slot or a session, and so on a token. */
export type TokenFunction = Exclude<Pkcs11Function, ModuleFunction>;

/** Which of the calls after this are struck. */
export interface StrikeOptions {
  /** How many are struck. @defaultValue all, until the rule is cleared */
  readonly times?: number;
  /** Only each n-th call is struck. @defaultValue 1 */
  readonly every?: number;
}

/** A rule that is armed until it is cleared. */
export interface Rule {
  /** Calls that it was about. */
  readonly calls: number;
  /** Calls that it struck. */
  readonly struck: number;
  /** Disarms it, and releases what hangs in it. */
  clear(): void;
}

/** The rules of one entry of a control file. */
export class RuleSet {
  readonly #control: ControlFile;
  readonly #token: number;
  readonly #armed = new Map<number, number>();
  #generation = 0;

  constructor(control: ControlFile, token: number) {
    this.#control = control;
    this.#token = token;
  }

  fail(name: string, ckr: number, options: StrikeOptions = {}): Rule {
    if (!Number.isInteger(ckr) || ckr <= 0) throw new RangeError(`no code of an error: ${ckr}`);
    return this.#arm('fail', name, ckr, options);
  }

  hang(name: string, options: StrikeOptions = {}): Rule {
    return this.#arm('hang', name, 0, options);
  }

  clear(): void {
    for (const [index, generation] of this.#armed) this.#disarm(index, generation);
  }

  #arm(kind: 'fail' | 'hang', name: string, ckr: number, { times = 0, every = 1 }: StrikeOptions): Rule {
    if (times < 0 || every < 1) throw new RangeError(`times: ${times}, every: ${every}`);
    const index = Array.from({ length: rulesMax }, (_, i) => i).find((i) => !this.#armed.has(i));
    if (index === undefined) throw new RangeError(`a token has at most ${rulesMax} rules at a time`);
    this.#generation += 1;
    const generation = this.#generation;
    this.#control.setRule(this.#token, index, generation, { kind, function: name, ckr, times, every });
    this.#armed.set(index, generation);
    this.#control.setScript(this.#token, 'rulesArmed', this.#armed.size);
    const control = this.#control;
    const token = this.#token;
    return {
      get calls() {
        return control.ruleCalls(token, index, generation);
      },
      get struck() {
        const reached = Math.floor(this.calls / every);
        return times === 0 ? reached : Math.min(times, reached);
      },
      clear: () => this.#disarm(index, generation),
    };
  }

  #disarm(index: number, generation: number): void {
    if (this.#armed.get(index) !== generation) return; // cleared already, and the place may be another rule's
    this.#control.clearRule(this.#token, index);
    this.#armed.delete(index);
    this.#control.setScript(this.#token, 'rulesArmed', this.#armed.size);
  }
}
