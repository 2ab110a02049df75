/**
 * Carries out what the calendar says is due for the keys of one token: makes, certifies, schedules, activates, retires and destroys.
 *
 * Every step looks first and ends in one change of the register, so that a step which was interrupted anywhere, or is done by two
 * processes at once, is done once: a key is made under a name that was settled before; who comes second finds the record changed.
 * A lease keeps two processes from working on one token at the same time; nothing of the above depends on it but the order of events.
 *
 * Nothing here is needed for stamping to go on: when Redis, the CA or the token fails, the step is due again at the next look. Without
 * room for events in the journal no step begins.
 */
import type { X509Certificate } from 'node:crypto';
import type { Session } from 'graphene-pk11';
import { syncTree } from '../config/atomic-file.ts';
import { SigilloError } from '../config/errors.ts';
import { homePaths } from '../config/home.ts';
import type { Config } from '../config/schema.ts';
import { tsuChangeTeller } from '../observability/journal/tsu-events.ts';
import type { Logger } from '../observability/log.ts';
import { keyScheme } from '../pki/algorithms.ts';
import { parseTsuFileName, tsuKeyLabel } from '../pki/tsu-files.ts';
import { tsuUse } from '../pki/tsu-usage.ts';
import { journalKeys } from '../queue/keys.ts';
import type { Lease } from '../queue/lease.ts';
import type { RedisClient } from '../queue/redis.ts';
import {
  addTsu,
  changeTsu,
  type KeyPlan,
  noteToken,
  planKey,
  readKeyPlans,
  readRotationOrders,
  readTsus,
  type TellTsuChanges,
  type TsuChange,
  type TsuRecord,
  tokenName,
  tsuRegisterKeys,
} from '../queue/tsu-register.ts';
import type { Approvals, ApprovedStep } from './approvals.ts';
import { destroyCopies, destroyRemains, type OtherSlot, requireKeyPair } from './key-destruction.ts';
import { isTokenFailure } from './token-failures.ts';
import { findKey, generateKeyPair, keyState, selfTest, type TokenKey } from './token-keys.ts';
import { requireLogin } from './token-login.ts';
import { calendarPolicy, describeStep, dueSteps, stepKey, type TsuStep, type TsuUse } from './tsu-calendar.ts';
import { certificateIn, chainOctets, isOver, type TsuFolder, tsuId, useOfCertificate } from './tsu-folder.ts';
import { fillRegister } from './tsu-import.ts';

const dayMs = 86_400_000;
/** A life from nothing takes four looks; what is due after so many goes on at the next tick. */
const looksMax = 8;

/** The embedded timestamp CA: a certificate for the key, and the chain it belongs to. */
export type CertifyTsu = (request: {
  readonly spki: Uint8Array;
  readonly use: TsuUse;
  readonly validityYears: number;
  readonly now: Date;
}) => Promise<readonly X509Certificate[]>;

export interface TsuLifecycleOptions {
  readonly config: Config;
  readonly redis: RedisClient;
  readonly log: Logger;
  /** The token, and a session that is read-write and logged in. */
  readonly token: { readonly label: string; readonly serial: string; readonly session: Session };
  /** The other slots with the purpose, opened for an action: a key may lie in several. @defaultValue there are none */
  readonly withOtherSlots?: (action: (slots: readonly OtherSlot[]) => string[]) => string[];
  readonly folder: TsuFolder;
  /** undefined: certificates come from an outside CA. */
  readonly certify: CertifyTsu | undefined;
  readonly approvals: Approvals;
  readonly lease: Pick<Lease, 'acquire' | 'release' | 'heldForMs'>;
  /** Hands the chain of a TSU to gateways and journal, before its use is settled. */
  readonly publish: (record: TsuRecord) => Promise<void>;
  readonly now: () => Date;
  /** Whether `now` can be believed: what cannot be taken back waits for that. @defaultValue it can */
  readonly timeIsCertain?: () => boolean;
  /** A step has failed by a fault of the token's, or of the CA's. */
  readonly onTokenFailure?: (error: SigilloError) => void;
  readonly onStep?: (kind: TsuStep['kind'], outcome: 'done' | 'waiting' | 'failed') => void;
  /** Who does it, for the journal. @defaultValue the process `lifecycle` */
  readonly tell?: TellTsuChanges;
}

export class TsuLifecycle {
  readonly #options: TsuLifecycleOptions;
  readonly #tell: TellTsuChanges;
  readonly #name: string;

  constructor(options: TsuLifecycleOptions) {
    this.#options = options;
    this.#tell = options.tell ?? tsuChangeTeller({ role: 'system', actor: 'lifecycle' });
    this.#name = tokenName(options.token.label, options.token.serial);
  }

  /**
   * Does what is due now; a step that fails is said, and due again at the next look.
   * @returns false when another process works on this token, or the journal has no room
   * @throws HSM_LOGIN_LOST, HSM_DEVICE; what Redis says
   */
  async work(): Promise<boolean> {
    const { lease } = this.#options;
    if (!(await lease.acquire())) return false;
    try {
      if (!(await this.#journalHasRoom())) return false;
      // What follows concludes from keys that are not there.
      requireLogin(this.#options.token.session);
      await noteToken(this.#options.redis, this.#name, this.#options.now());
      const filled = await fillRegister({ ...this.#options, tell: this.#tell });
      const failed = new Set<string>();
      for (let look = 0; look < looksMax; look += 1) {
        const { steps, version } = await this.#due(filled);
        const open = steps.filter((step) => !failed.has(stepKey(step)));
        if (open.length === 0) break;
        for (const step of open) if (!(await this.#try(step, version))) failed.add(stepKey(step));
      }
      await this.#saveAgreed(await this.#records());
      return true;
    } finally {
      // Best effort: it ends by itself.
      await lease.release().catch(() => undefined);
    }
  }

  /** Makes a key by an operator's command, as the calendar would. @returns undefined while operators have not agreed */
  async generate(): Promise<TsuRecord | undefined> {
    const { version } = await readTsus(this.#options.redis);
    const plan = await this.#plan(version);
    if (plan === undefined || !(await this.#generate(plan))) return undefined;
    return (await this.#records()).find(({ keyLabel }) => keyLabel === plan.keyLabel);
  }

  get #timeIsCertain(): boolean {
    return this.#options.timeIsCertain?.() ?? true;
  }

  /** A token is ours by label and serial number: two hosts may have one of the same label each. */
  async #records(): Promise<TsuRecord[]> {
    return this.#own((await readTsus(this.#options.redis)).tsus);
  }

  #own(tsus: readonly TsuRecord[]): TsuRecord[] {
    const { label, serial } = this.#options.token;
    return tsus.filter(({ token, tokenSerial }) => token === label && (tokenSerial ?? serial) === serial);
  }

  /**
   * What is due, and the version of the register that says so. A register that has lost what it had a moment ago is that of a Redis
   * that came back empty: it is filled again at the next tick, and until then it does not tell that a key is needed.
   */
  async #due(filled: ReadonlySet<string>): Promise<{ readonly steps: readonly TsuStep[]; readonly version: string }> {
    const { config, redis, now } = this.#options;
    const { version, tsus } = await readTsus(redis);
    const present = new Set(tsus.map(({ id }) => id));
    if ([...filled].some((id) => !present.has(id))) return { version, steps: [] };
    const ordered = (await readRotationOrders(redis)).get(this.#name);
    const orderedAt = ordered === undefined ? undefined : new Date(ordered);
    return { version, steps: dueSteps({ records: this.#own(tsus), policy: calendarPolicy(config), orderedAt, now: now() }) };
  }

  async #journalHasRoom(): Promise<boolean> {
    const { redis, config, log } = this.#options;
    const [own, events] = await Promise.all([redis.xlen(tsuRegisterKeys.journal), redis.xlen(journalKeys.events)]);
    const hasRoom = Math.max(own, events) <= config.journal.waitingMax;
    if (!hasRoom) log.warn({ token: this.#options.token.label }, 'tsu: the journal is behind, nothing is done with keys');
    return hasRoom;
  }

  /** @returns false when it is not to be tried again at this tick */
  async #try(step: TsuStep, version: string): Promise<boolean> {
    const { log, onStep, onTokenFailure, token, lease } = this.#options;
    let outcome: 'done' | 'waiting' | 'failed';
    try {
      // A step before may have taken long: making a key of RSA 4096 blocks this process for up to a minute.
      if (!(await lease.acquire())) return false;
      const done = await this.#carryOut(step, version);
      // What it was decided by has changed meanwhile, as by the step before: the next look decides anew.
      if (done === 'overtaken') return true;
      outcome = done ? 'done' : 'waiting';
      if (outcome === 'done') log.info({ token: token.label, ...describeStep(step) }, `tsu: ${step.kind}`);
    } catch (error) {
      outcome = 'failed';
      if (isTokenFailure(error)) onTokenFailure?.(error);
      log.error({ token: token.label, err: error, ...describeStep(step) }, `tsu: ${step.kind} failed; it is tried again`);
    }
    onStep?.(step.kind, outcome);
    return outcome === 'done';
  }

  /** @returns false while operators have not agreed */
  async #carryOut(step: TsuStep, version: string): Promise<boolean | 'overtaken'> {
    switch (step.kind) {
      case 'generate': {
        const plan = await this.#plan(version);
        return plan === undefined ? 'overtaken' : this.#generate(plan);
      }
      case 'certify':
        return this.#certify(step.record, step.use);
      case 'schedule':
        return this.#schedule(step.record, step.use);
      case 'activate':
        return this.#activate(step.record);
      case 'retire':
        return this.#timeIsCertain && this.#retire(step.record);
      case 'destroy':
        return this.#timeIsCertain && this.#destroy(step.record);
      case 'remind':
        return this.#remind(step);
    }
  }

  /** One change of a record that is still in this state; who finds it in another has been overtaken by somebody who did the same. */
  async #change(of: TsuRecord, state: TsuRecord['state'], decide: (record: TsuRecord) => TsuChange): Promise<true> {
    const { redis } = this.#options;
    await changeTsu(redis, of.id, (record) => (record.state === state ? [decide(record)] : []), this.#tell);
    return true;
  }

  /** The key that is made next; its name is free in the token, in the register and among the files. */
  async #plan(version: string): Promise<KeyPlan | undefined> {
    const { config, redis, token, folder, now } = this.#options;
    const plans = await readKeyPlans(redis);
    const planned = plans.get(this.#name);
    if (planned !== undefined) return planned;
    const { algorithm } = config.timestamp;
    const { tsus } = await readTsus(redis);
    const labels = [...folder.labels(), ...[...tsus, ...plans.values()].map(({ keyLabel }) => keyLabel)];
    const numbers = labels
      .map((label) => parseTsuFileName(`${label}.pem`))
      .map((parsed) => (parsed?.algorithm === algorithm ? parsed.n : 0));
    let n = Math.max(0, ...numbers) + 1;
    // A whole key without a record is passed over: it cannot be told whether it was ever used.
    while (keyState(token.session, tsuKeyLabel(algorithm, n)) === 'whole') n += 1;
    return planKey(redis, this.#name, { keyLabel: tsuKeyLabel(algorithm, n), algorithm, at: now().toISOString() }, version);
  }

  async #generate(plan: KeyPlan): Promise<boolean> {
    const { redis, token, approvals, now } = this.#options;
    const step: ApprovedStep = { action: 'generate', token: token.label, keyLabel: plan.keyLabel, id: undefined };
    if (!(await approvals.permit(step))) return false;
    const scheme = keyScheme(plan.algorithm);
    // A whole key under the planned name was made by a run that was interrupted: the plan is older than the key, and no certificate is.
    const key = findKey(token.session, plan.keyLabel, scheme) ?? generateKeyPair(token.session, { label: plan.keyLabel, scheme });
    selfTest(key);
    this.#syncToken();
    const record: TsuRecord = {
      version: 1,
      id: tsuId(key.spki),
      token: token.label,
      tokenSerial: token.serial,
      keyLabel: plan.keyLabel,
      algorithm: plan.algorithm,
      state: 'generated',
      spki: Buffer.from(key.spki).toString('base64'),
      generatedAt: now().toISOString(),
    };
    await addTsu(redis, { kind: 'generated', record }, this.#tell, { plan: this.#name });
    this.#save([record]);
    await approvals.executed(step);
    return true;
  }

  /** SoftHSM writes its objects without fsync: the register must not know a key that a power cut takes away. */
  #syncToken(): void {
    const { config } = this.#options;
    if (config.hsm.mode === 'embedded') syncTree(homePaths(config.home).tokenFolder);
  }

  #keyOf(record: TsuRecord): TokenKey {
    const { token } = this.#options;
    const key = findKey(token.session, record.keyLabel, keyScheme(record.algorithm));
    if (key === undefined) throw new SigilloError('HSM_KEY_MISSING', `"${record.keyLabel}" in token ${token.label}`);
    if (tsuId(key.spki) !== record.id) throw new SigilloError('HSM_KEY_MISMATCH', `"${record.keyLabel}" in token ${token.label}`);
    return key;
  }

  async #certify(of: TsuRecord, use: TsuUse): Promise<boolean> {
    const { config, certify, now } = this.#options;
    if (certify === undefined) return false;
    const key = this.#keyOf(of);
    const chain = await certify({ spki: key.spki, use, validityYears: config.tsu.certificateYears, now: now() });
    const [certificate] = chain;
    if (certificate === undefined) throw new SigilloError('CERTIFICATE_INVALID', 'the CA has issued none');
    selfTest(key, certificate);
    if (certificate.validToDate <= use.usableUntil)
      throw new SigilloError('CERTIFICATE_INVALID', 'the timestamp CA ends too early to issue another timestamping unit');
    return this.#change(of, 'generated', (record) => ({
      kind: 'certified',
      by: 'embedded',
      record: { ...record, state: 'certified', certifiedAt: now().toISOString(), chain: chainOctets(chain) },
    }));
  }

  /** Settles the use within what certificate and rules permit; it is known everywhere before it begins. */
  async #schedule(of: TsuRecord, use: TsuUse): Promise<boolean> {
    const { config, redis, approvals, publish, token } = this.#options;
    const step: ApprovedStep = { action: 'activate', token: token.label, keyLabel: of.keyLabel, id: of.id };
    if (!(await approvals.permit(step))) return false;
    const stated = useOfCertificate(certificateIn(of));
    const { activateAt, usableUntil } = tsuUse(new Date(Math.max(use.activateAt.getTime(), stated.from.getTime())), config.tsu.usageMsMax);
    const until = new Date(Math.min(usableUntil.getTime(), stated.until.getTime()));
    if (until <= activateAt) {
      await this.#retire(of);
      throw new SigilloError('CERTIFICATE_INVALID', `of ${of.keyLabel}: its use would end before it begins; the key is retired unused`);
    }
    selfTest(this.#keyOf(of), certificateIn(of));
    const settled = { activateAt: activateAt.toISOString(), usableUntil: until.toISOString() };
    // Kept before it is told: nobody finds its use settled in the register, and its chain nowhere.
    this.#save([{ ...of, ...settled }]);
    await publish(of);
    const decide = (record: TsuRecord): TsuChange[] =>
      record.state === 'certified' && record.activateAt === undefined ? [{ kind: 'scheduled', record: { ...record, ...settled } }] : [];
    await changeTsu(redis, of.id, decide, this.#tell);
    await approvals.executed(step);
    return true;
  }

  /** That a use is settled says the register, in which others can write: what operators must agree to is not believed to it. */
  async #isAgreed(record: TsuRecord): Promise<boolean> {
    const { approvals, folder } = this.#options;
    const { token, keyLabel, id } = record;
    return folder.vouchesFor(record) || approvals.agreed({ action: 'activate', token, keyLabel, id });
  }

  async #activate(of: TsuRecord): Promise<boolean> {
    if (!(await this.#isAgreed(of))) return false;
    return this.#change(of, 'certified', (record) => ({ kind: 'activated', record: { ...record, state: 'active' } }));
  }

  #retire(of: TsuRecord): Promise<true> {
    const { config, now } = this.#options;
    const destroyAfter = new Date(now().getTime() + config.tsu.graceDays * dayMs).toISOString();
    return this.#change(of, of.state, (record) => ({
      kind: 'retired',
      record: { ...record, state: 'retired', retiredAt: now().toISOString(), destroyAfter },
    }));
  }

  async #destroy(of: TsuRecord): Promise<boolean> {
    const { token, approvals, now, log, withOtherSlots } = this.#options;
    const step: ApprovedStep = { action: 'destroy', token: token.label, keyLabel: of.keyLabel, id: of.id };
    if (!(await approvals.permit(step))) return false;
    const doomed = { label: of.keyLabel, scheme: keyScheme(of.algorithm), spki: Buffer.from(of.spki, 'base64') };
    if (of.destructionBegunAt === undefined) {
      requireKeyPair(token.session, doomed);
      await this.#noteDestruction(of);
    }
    // First the copies: as long as its own token has the key it is seen that this is not done.
    const copies = withOtherSlots?.((slots) => destroyCopies(slots, doomed)) ?? [];
    if (copies.length > 0) log.info({ key: of.keyLabel, tokens: copies }, 'tsu: destroyed in other slots too');
    destroyRemains(token.session, of.keyLabel, doomed);
    this.#syncToken();
    await this.#change(of, 'retired', (record) => ({
      kind: 'destroyed',
      record: { ...record, state: 'destroyed', destroyedAt: now().toISOString() },
    }));
    await approvals.executed(step);
    return true;
  }

  /** Written down, also where a Redis that comes back empty is filled from: a key that is gone afterwards was destroyed by us. */
  async #noteDestruction(of: TsuRecord): Promise<void> {
    const { redis, now } = this.#options;
    const destructionBegunAt = now().toISOString();
    const decide = (record: TsuRecord): TsuChange[] =>
      record.state === 'retired' ? [{ kind: 'destructionBegun', record: { ...record, destructionBegunAt } }] : [];
    this.#save([await changeTsu(redis, of.id, decide, this.#tell)]);
  }

  async #remind({ record: of, daysLeft, threshold }: Extract<TsuStep, { kind: 'remind' }>): Promise<boolean> {
    const { redis, log } = this.#options;
    log.error(
      { token: of.token, key: of.keyLabel, usableUntil: of.usableUntil, daysLeft },
      'tsu: the use of this key ends, and nothing follows it yet: see docs/key-lifecycle.md',
    );
    const decide = (record: TsuRecord): TsuChange[] =>
      (record.remindedDays ?? Number.POSITIVE_INFINITY) <= threshold
        ? []
        : [{ kind: 'reminded', daysLeft, record: { ...record, remindedDays: threshold } }];
    await changeTsu(redis, of.id, decide, this.#tell);
    return true;
  }

  /** Keeps what may be kept: from the files of the home folder signers take TSUs. */
  async #saveAgreed(records: readonly TsuRecord[]): Promise<void> {
    const { log } = this.#options;
    for (const record of records) {
      if (record.activateAt === undefined || isOver(record) || (await this.#isAgreed(record))) this.#save([record]);
      else log.error({ key: record.keyLabel, tsu: record.id }, 'tsu: the register says when it is used, and operators have not agreed');
    }
  }

  #save(records: readonly TsuRecord[]): void {
    const { folder, log } = this.#options;
    for (const record of records) {
      const other = folder.save(record);
      if (other !== undefined)
        log.error(
          { file: other, tsu: record.id },
          'tsu: this file has another certificate, or says that its use is over; it stays as it is',
        );
    }
  }
}
