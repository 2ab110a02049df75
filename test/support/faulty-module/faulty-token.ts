/** The script of one token: what its calls meet, and what was counted of them. */
import type { ControlFile, StateNumber } from './control-file.ts';
import { type Rule, RuleSet, type StrikeOptions, type TokenFunction } from './rules.ts';

/** What was counted on a token since the last reset, in all processes, also in those that are dead now. */
export interface TokenCounters {
  /** Calls of C_Login. */
  readonly loginCalls: number;
  /** Logins that were refused; CKR_USER_ALREADY_LOGGED_IN is no refusal. */
  readonly loginsRefused: number;
  /** Calls of C_Sign, refused ones too. */
  readonly signCalls: number;
  readonly signatures: number;
  /** Time spent in C_Sign, with all waiting. */
  readonly signNanoseconds: number;
  /** The most sessions open at once. */
  readonly sessionsMost: number;
  /** The most that any one process had open at once: that is what a token's limits are about. */
  readonly sessionsOfOneMost: number;
  /** The same of read-write sessions. */
  readonly writingOfOneMost: number;
  /** The most C_Sign at work at once; those that wait for their turn do not count. */
  readonly signingMost: number;
  /** Sessions that living processes have open now. */
  readonly sessions: number;
  /** C_Sign at work now. */
  readonly signing: number;
  /** C_Sign that wait for their turn now. */
  readonly waiting: number;
  /** Calls that a rule holds now. */
  readonly hanging: number;
}

/**
 * What a token has lost when it is back:
 * - `nothing`: everything goes on where it was;
 * - `sessions-and-logins`: those of before are dead for good, until the process finalises and initialises the module.
 *   Sessions answer CKR_DEVICE_REMOVED, C_Login says CKR_USER_ALREADY_LOGGED_IN and C_Sign CKR_USER_NOT_LOGGED_IN;
 * - `until-reinitialised`: for the processes of before it is not back, until they do so.
 */
export type Loss = 'nothing' | 'sessions-and-logins' | 'until-reinitialised';

/** Those that only grow. */
const growing = ['loginCalls', 'loginsRefused', 'signCalls', 'signatures', 'signNanoseconds'] as const satisfies readonly StateNumber[];
type Growing = Record<(typeof growing)[number], number>;

export class FaultyToken {
  readonly #control: ControlFile;
  readonly #token: number;
  readonly #rules: RuleSet;
  #atReset: Growing;

  constructor(control: ControlFile, token: number) {
    this.#control = control;
    this.#token = token;
    this.#rules = new RuleSet(control, token);
    this.#atReset = this.#grown();
  }

  /** Answers calls of a function with a CKR code; the token never hears of them, and C_Sign ends its operation all the same. */
  fail(name: TokenFunction, ckr: number, options?: StrikeOptions): Rule {
    return this.#rules.fail(name, ckr, options);
  }

  /** Holds calls of a function until the rule is cleared. Then they go on, unless their session is dead by that time. */
  hang(name: TokenFunction, options?: StrikeOptions): Rule {
    return this.#rules.hang(name, options);
  }

  /** Adds this much to each C_Sign. */
  delaySigning(micros: number): void {
    this.#control.setScript(this.#token, 'signLatencyMicros', micros);
  }

  /** Lets at most so many C_Sign work at once, in all processes together; the others wait in the order they came. 0 is no limit. */
  limitSigning(parallelMax: number): void {
    this.#control.setScript(this.#token, 'signParallelMax', parallelMax);
  }

  /**
   * Lets at most so many sessions be open at once, in all processes together; further ones are CKR_SESSION_COUNT. 0 is no limit.
   *
   * @param options.reported C_GetTokenInfo tells the limit, and how many the asking process has open (ulMaxSessionCount)
   */
  limitSessions(max: number, options: { reported: boolean } = { reported: false }): void {
    this.#control.setScript(this.#token, 'sessionsMax', max);
    this.tellSessions(options.reported ? max : 0);
  }

  /** C_GetTokenInfo tells this limit of sessions, though nothing keeps it: to see whether it is believed. 0: it tells none. */
  tellSessions(max: number): void {
    this.#control.setScript(this.#token, 'sessionsTold', max);
  }

  /** Each process may have so many read-write sessions open at once, and is told so (ulMaxRwSessionCount). 0 is no limit. */
  limitWriting(max: number): void {
    this.#control.setScript(this.#token, 'writingMax', max);
  }

  /**
   * Every session that is open now is dead: CKR_SESSION_HANDLE_INVALID. Calls under way end well.
   *
   * @param options.login `lost`, as the standard has it when the last session on a token is closed, or `kept`: until the
   *   process itself closes the last of its new ones
   */
  killSessions(options: { login: 'kept' | 'lost' } = { login: 'kept' }): void {
    this.#control.setScript(this.#token, 'killKeepsLogin', Number(options.login === 'kept'));
    this.#increment('killGeneration');
  }

  /** C_Sign says CKR_USER_NOT_LOGGED_IN, in each process until its next C_Login. */
  logOut(): void {
    this.#increment('logoutGeneration');
  }

  /** The token is out of its slot: CKR_TOKEN_NOT_PRESENT, and CKR_DEVICE_REMOVED on its sessions. */
  vanish(): void {
    this.#increment('awayGeneration');
    this.#control.setScript(this.#token, 'away', 1);
  }

  /** The token is back in its slot. */
  giveBack(lost: Loss = 'nothing'): void {
    const generation = this.#control.script(this.#token, 'awayGeneration');
    if (lost === 'sessions-and-logins') this.#control.setScript(this.#token, 'sessionsLostBefore', generation);
    if (lost === 'until-reinitialised') this.#control.setScript(this.#token, 'tokenLostBefore', generation);
    this.#control.setScript(this.#token, 'away', 0);
  }

  get counters(): TokenCounters {
    const grown = this.#grown();
    const { sessions, sessionsOfOne, writingOfOne, running, waiting, hanging } = this.#control.holding(this.#token);
    const since = Object.fromEntries(growing.map((name) => [name, grown[name] - this.#atReset[name]])) as unknown as Growing;
    // The modules start their maxima anew when they next have one to note; until then the present is the most.
    const fresh = this.#control.state(this.#token, 'mostGeneration') !== this.#control.script(this.#token, 'mostGeneration');
    const most = (name: StateNumber, now: number): number => (fresh ? now : this.#control.state(this.#token, name));
    return {
      ...since,
      sessionsMost: most('sessionsMost', sessions),
      sessionsOfOneMost: most('sessionsOfOneMost', sessionsOfOne),
      writingOfOneMost: most('writingOfOneMost', writingOfOne),
      signingMost: most('runningMost', running),
      sessions,
      signing: running,
      waiting,
      hanging,
    };
  }

  /** See `FaultyModule.reset`. */
  reset(): void {
    this.#rules.clear();
    for (const name of ['signLatencyMicros', 'signParallelMax', 'sessionsMax', 'sessionsTold', 'writingMax', 'away'] as const) {
      this.#control.setScript(this.#token, name, 0);
    }
    this.#increment('mostGeneration');
    this.#atReset = this.#grown();
  }

  #grown(): Growing {
    return Object.fromEntries(growing.map((name) => [name, this.#control.state(this.#token, name)])) as unknown as Growing;
  }

  #increment(name: 'killGeneration' | 'logoutGeneration' | 'awayGeneration' | 'mostGeneration'): void {
    this.#control.setScript(this.#token, name, this.#control.script(this.#token, name) + 1);
  }
}
