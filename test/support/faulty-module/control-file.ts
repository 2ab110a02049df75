/**
 * The control file of a faulty module, as control.h lays it out.
 *
 * Node has no shared mappings, but on a local disk a write is seen by every mapping at once. Numbers of the script are four
 * octets at a multiple of four, so nobody sees half of one; only this side writes them, and only the modules write the rest.
 */
import { closeSync, openSync, readFileSync, readSync, writeFileSync, writeSync } from 'node:fs';

const tokensMax = 8;
export const rulesMax = 16;
const processesMax = 32;
const waitersMax = 64;
const labelOctets = 32;
const functionOctets = 40;
const layout = {
  octets: 27_248,
  tokensNamed: 8,
  initializeCalls: 16,
  finalizeCalls: 24,
  scripts: { at: 64, octets: 1120, numbersAt: 32, rulesAt: 96, ruleOctets: 64, ruleFunctionAt: 24 },
  states: { at: 10_144, octets: 1232, ruleCallsAt: 80, waitersAt: 208, waiterOctets: 16 },
  processes: { at: 21_232, octets: 188, tokensAt: 8, tokenOctets: 20 },
} as const;

const scriptNumbers = [
  'signLatencyMicros',
  'signParallelMax',
  'sessionsMax',
  'sessionsTold',
  'killGeneration',
  'killKeepsLogin',
  'logoutGeneration',
  'away',
  'awayGeneration',
  'sessionsLostBefore',
  'tokenLostBefore',
  'rulesArmed',
  'mostGeneration',
  'writingMax',
] as const;
export type ScriptNumber = (typeof scriptNumbers)[number];

const stateNumbers = [
  'loginCalls',
  'loginsRefused',
  'signCalls',
  'signatures',
  'signNanoseconds',
  'sessionsMost',
  'runningMost',
  'mostGeneration',
  'sessionsOfOneMost',
  'writingOfOneMost',
] as const;
export type StateNumber = (typeof stateNumbers)[number];

/** What a process that lives holds on a token. */
export interface Holding {
  readonly sessions: number;
  /** Of the one process that has the most. */
  readonly sessionsOfOne: number;
  readonly writingOfOne: number;
  readonly running: number;
  readonly waiting: number;
  readonly hanging: number;
}

export interface RuleText {
  readonly kind: 'fail' | 'hang';
  readonly function: string;
  readonly ckr: number;
  readonly times: number;
  readonly every: number;
}

/** A zombie is dead too: in a container without an init process nobody may collect it. */
const alive = (pid: number): boolean => {
  try {
    process.kill(pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== 'ESRCH';
  }
  if (process.platform !== 'linux') return true;
  try {
    return !/^.*\) [ZX]/s.test(readFileSync(`/proc/${pid}/stat`, 'latin1'));
  } catch {
    return false; // it ended between the two looks
  }
};

/** A new control file, empty of rules. Entry 0 is the module itself, the others are tokens. */
export class ControlFile {
  readonly #file: number;
  #tokens = 0;

  constructor(path: string) {
    const content = Buffer.alloc(layout.octets);
    content.write('SIGFLT01', 'latin1');
    writeFileSync(path, content, { flag: 'wx', mode: 0o600 });
    this.#file = openSync(path, 'r+');
  }

  close(): void {
    closeSync(this.#file);
  }

  /** Makes an entry for the token with this label. */
  addToken(label: string): number {
    const text = Buffer.alloc(labelOctets, ' ');
    if (label === '' || Buffer.byteLength(label) > labelOctets) throw new RangeError(`no label of a token: "${label}"`);
    if (this.#tokens === tokensMax) throw new RangeError(`a control file has room for ${tokensMax} tokens`);
    text.write(label);
    this.#tokens += 1;
    this.#write(text, this.#scriptAt(this.#tokens));
    this.#writeNumber(this.#tokens, layout.tokensNamed);
    return this.#tokens;
  }

  setScript(token: number, name: ScriptNumber, value: number): void {
    this.#writeNumber(value, this.#scriptAt(token) + layout.scripts.numbersAt + 4 * scriptNumbers.indexOf(name));
  }

  script(token: number, name: ScriptNumber): number {
    return this.#read(this.#scriptAt(token) + layout.scripts.numbersAt + 4 * scriptNumbers.indexOf(name), 4).readUInt32LE();
  }

  /** Arms a rule. Its generation goes in last: until then no module looks at the rest. */
  setRule(token: number, index: number, generation: number, rule: RuleText): void {
    const { rulesAt, ruleOctets, ruleFunctionAt } = layout.scripts;
    const at = this.#scriptAt(token) + rulesAt + index * ruleOctets;
    const text = Buffer.alloc(ruleOctets);
    if (rule.function.length >= functionOctets) throw new RangeError(`no function of PKCS#11: ${rule.function}`);
    text.writeUInt32LE(rule.kind === 'fail' ? 1 : 2, 4);
    text.writeUInt32LE(rule.ckr, 8);
    text.writeUInt32LE(rule.times, 12);
    text.writeUInt32LE(rule.every, 16);
    text.write(rule.function, ruleFunctionAt, 'latin1');
    this.#writeNumber(0, at);
    this.#write(text.subarray(4), at + 4);
    this.#writeNumber(generation, at);
  }

  clearRule(token: number, index: number): void {
    this.#writeNumber(0, this.#scriptAt(token) + layout.scripts.rulesAt + index * layout.scripts.ruleOctets);
  }

  /** How many calls have met the rule that was armed with this generation. */
  ruleCalls(token: number, index: number, generation: number): number {
    const seen = this.#read(this.#stateAt(token) + layout.states.ruleCallsAt + 8 * index, 8);
    return seen.readUInt32LE(4) === generation ? seen.readUInt32LE(0) : 0;
  }

  state(token: number, name: StateNumber): number {
    return this.#readLong(this.#stateAt(token) + 8 * stateNumbers.indexOf(name));
  }

  get initializeCalls(): number {
    return this.#readLong(layout.initializeCalls);
  }

  get finalizeCalls(): number {
    return this.#readLong(layout.finalizeCalls);
  }

  /** Processes that have initialised the module, live, and have not finalised it. */
  processes(): number[] {
    return this.#living()
      .filter(({ entry }) => entry.readUInt32LE(4) !== 0)
      .map(({ entry }) => entry.readUInt32LE(0));
  }

  /** What the living hold on a token, all together. */
  holding(token: number): Holding {
    const killGeneration = this.script(token, 'killGeneration');
    const sum = { sessions: 0, sessionsOfOne: 0, writingOfOne: 0, running: 0, waiting: 0, hanging: 0 };
    const waiters = this.#waiters(token);
    for (const { index, entry } of this.#living()) {
      const at = layout.processes.tokensAt + token * layout.processes.tokenOctets;
      // A process that has not called since its sessions were killed has none, though it still counts them.
      if (entry.readUInt32LE(at + 4) === killGeneration) {
        sum.sessions += entry.readUInt32LE(at);
        sum.sessionsOfOne = Math.max(sum.sessionsOfOne, entry.readUInt32LE(at));
        sum.writingOfOne = Math.max(sum.writingOfOne, entry.readUInt32LE(at + 16));
      }
      sum.running += entry.readUInt32LE(at + 8);
      sum.hanging += entry.readUInt32LE(at + 12);
      sum.waiting += waiters.filter((process) => process === index + 1).length;
    }
    return sum;
  }

  #living(): { index: number; entry: Buffer }[] {
    const { at, octets } = layout.processes;
    const entries = Array.from({ length: processesMax }, (_, index) => ({ index, entry: this.#read(at + index * octets, octets) }));
    return entries.filter(({ entry }) => entry.readUInt32LE(0) !== 0 && alive(entry.readUInt32LE(0)));
  }

  /** The process of each call that waits for its turn to sign, as a number from 1. */
  #waiters(token: number): number[] {
    const { waitersAt, waiterOctets } = layout.states;
    const waiters = this.#read(this.#stateAt(token) + waitersAt, waitersMax * waiterOctets);
    const places = Array.from({ length: waitersMax }, (_, i) => waiters.subarray(i * waiterOctets));
    return places.filter((place) => place.readUInt32LE(0) === 1).map((place) => place.readUInt32LE(4));
  }

  #scriptAt(token: number): number {
    return layout.scripts.at + token * layout.scripts.octets;
  }

  #stateAt(token: number): number {
    return layout.states.at + token * layout.states.octets;
  }

  #read(at: number, octets: number): Buffer {
    const content = Buffer.alloc(octets);
    readSync(this.#file, content, 0, octets, at);
    return content;
  }

  #readLong(at: number): number {
    return Number(this.#read(at, 8).readBigUInt64LE());
  }

  #write(content: Buffer, at: number): void {
    writeSync(this.#file, content, 0, content.length, at);
  }

  #writeNumber(value: number, at: number): void {
    const content = Buffer.alloc(4);
    content.writeUInt32LE(value);
    this.#write(content, at);
  }
}
