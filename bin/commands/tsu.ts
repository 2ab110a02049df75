/** `sigillo tsu list|rotate|retire|compromise`: the register of TSUs, as an operator sees and changes it. */
import { setTimeout as delay } from 'node:timers/promises';
import { readCrl } from '../../authority/crl.ts';
import { SigilloError } from '../../config/errors.ts';
import { loadConfig } from '../../config/load.ts';
import type { Config } from '../../config/schema.ts';
import { rotationOrderEvent, tsuChangeTeller } from '../../observability/journal/tsu-events.ts';
import { crlFileName } from '../../queue/keys.ts';
import type { RedisClient } from '../../queue/redis.ts';
import { changeTsu, findTsu, orderRotation, readTokens, readTsus, type TsuRecord, tsuRegisterKeys } from '../../queue/tsu-register.ts';
import { mayStamp } from '../../signer/tsu-calendar.ts';
import { certificateOf, TsuFolder } from '../../signer/tsu-folder.ts';
import { type CommandOperator, commandOperator, commandRedis } from './command-redis.ts';
import { table } from './table.ts';

const dayMs = 86_400_000;
const pollMs = 100;
/** A token that no process has worked on for so long gets no order: nobody would carry it out. */
const tokenAliveMs = 15 * 60_000;

const print = (text: string): void => void process.stdout.write(text);

/** Runs an action with the Redis of the configuration, for whoever runs the command. @throws REDIS_UNAVAILABLE */
export const withRegister = async <T>(
  action: (redis: RedisClient, config: Config, operator: CommandOperator) => Promise<T>,
): Promise<T> => {
  const config = loadConfig();
  const redis = await commandRedis(config);
  try {
    return await action(redis, config, await commandOperator(redis));
  } finally {
    redis.disconnect();
  }
};

/** Polls until something is there, or the time is over. */
export const awaitThat = async <T>(seconds: number, look: () => Promise<T | undefined>): Promise<T | undefined> => {
  const end = performance.now() + seconds * 1_000;
  for (;;) {
    const found = await look();
    if (found !== undefined || performance.now() >= end) return found;
    await delay(pollMs);
  }
};

const readSeconds = (text: string): number => {
  const seconds = Number(text);
  if (!Number.isFinite(seconds) || seconds < 0 || seconds > 3_600)
    throw new SigilloError('USAGE', '--wait is a number of seconds up to 3600');
  return seconds;
};

export interface TsuListOptions {
  readonly json?: true;
  readonly stamps?: true;
}

/** What the list says of one TSU. */
const describe = (record: TsuRecord, now: Date, stamps: ReadonlyMap<string, number> | undefined): Record<string, unknown> => {
  const certificate = certificateOf(record);
  const { spki: _spki, chain: _chain, version: _version, request, ...rest } = record;
  const leftMs = Date.parse(record.usableUntil ?? '') - now.getTime();
  const ends = record.state === 'certified' || record.state === 'active';
  return {
    ...rest,
    stampsNow: mayStamp(record, now),
    daysLeft: ends && Number.isFinite(leftMs) ? Math.max(0, Math.round((leftMs / dayMs) * 10) / 10) : null,
    certificate:
      certificate === undefined
        ? null
        : {
            subject: certificate.subject.replaceAll('\n', ', '),
            issuer: certificate.issuer.replaceAll('\n', ', '),
            serialNumber: certificate.serialNumber.toLowerCase(),
            validTo: certificate.validToDate.toISOString(),
            sha256: certificate.fingerprint256.replaceAll(':', '').toLowerCase(),
          },
    requestWaits: request !== undefined && certificate === undefined,
    ...(stamps !== undefined && { stamps: stamps.get(record.id) ?? 0 }),
  };
};

/** The state in one word, with what changes its meaning. */
const stateOf = (record: TsuRecord): string =>
  record.compromised === undefined
    ? record.request !== undefined && record.state === 'generated'
      ? 'requested'
      : record.state
    : `${record.state}!`;

/** A record that cannot be read is said, and keeps no operator from the others. */
const readReadable = async (redis: RedisClient): Promise<readonly TsuRecord[]> => {
  const { tsus } = await readTsus(redis, (_id, { message }) => process.stderr.write(`sigillo: left out: ${message}\n`));
  return tsus;
};

/** Lists every TSU. @throws REDIS_UNAVAILABLE; with --stamps also JOURNAL_STORE_UNAVAILABLE */
export const listTsusCommand = (options: TsuListOptions): Promise<void> =>
  withRegister(async (redis, config) => {
    const tsus = await readReadable(redis);
    const now = new Date();
    const stamps = options.stamps === true ? await (await import('./tsu-stamps.ts')).countStamps(config, tsus, now) : undefined;
    if (options.json === true) {
      print(
        `${JSON.stringify(
          tsus.map((record) => describe(record, now, stamps)),
          null,
          2,
        )}\n`,
      );
      return;
    }
    const day = (text: string | undefined): string => text?.slice(0, 16).replace('T', ' ') ?? '-';
    const rows = tsus.map((record) => {
      const { daysLeft } = describe(record, now, undefined) as { daysLeft: number | null };
      const certificate = certificateOf(record);
      return [
        record.id.slice(0, 12),
        record.keyLabel,
        record.token,
        stateOf(record) + (mayStamp(record, now) ? '*' : ''),
        day(record.activateAt),
        day(record.usableUntil),
        daysLeft === null ? '-' : String(daysLeft),
        ...(stamps === undefined ? [] : [String(stamps.get(record.id) ?? 0)]),
        certificate?.serialNumber.toLowerCase() ?? '-',
        certificate?.subject.split('\n').at(-1) ?? '-',
      ];
    });
    const stampsTitle = stamps === undefined ? [] : ['STAMPS'];
    print(table([['ID', 'KEY', 'TOKEN', 'STATE', 'FROM (UTC)', 'UNTIL (UTC)', 'DAYS', ...stampsTitle, 'SERIAL', 'CERTIFICATE'], ...rows]));
    if (tsus.length > 0) print('\n* may stamp now   ! compromised\n');
  });

export interface RotateOptions {
  readonly token?: string;
  readonly wait: string;
}

/** Orders a new key now, for one token or all. @throws TSU_UNKNOWN, USAGE, REDIS_UNAVAILABLE */
export const rotateCommand = (options: RotateOptions): Promise<boolean> =>
  withRegister(async (redis, config, operator) => {
    if (config.timestamp.tsu.source !== 'demonstration')
      throw new SigilloError('USAGE', 'with an outside CA a new key begins with `sigillo tsu request`');
    const seconds = readSeconds(options.wait);
    const now = new Date();
    const tokens = [...(await readTokens(redis))]
      .filter(
        ([name, at]) =>
          now.getTime() - at.getTime() < tokenAliveMs && (options.token === undefined || name.startsWith(`${options.token}/`)),
      )
      .map(([name]) => name);
    if (tokens.length === 0) throw new SigilloError('TSU_UNKNOWN', 'No lifecycle process works on such a token: start it first.');
    for (const name of tokens) {
      await orderRotation(redis, name, now, rotationOrderEvent(name, config.timestamp.algorithm, operator));
      print(`${name}: a new key is ordered.\n`);
    }
    if (config.dualControl !== undefined) {
      print('Operators must approve: sigillo approve --list\n');
      return true;
    }
    let done = true;
    for (const name of tokens) {
      const isNew = (record: TsuRecord): boolean =>
        name === `${record.token}/${record.tokenSerial ?? ''}` &&
        record.state === 'active' &&
        Date.parse(record.certifiedAt ?? '') >= now.getTime();
      const one = await awaitThat(seconds, async () => (await readTsus(redis, () => undefined)).tsus.find(isNew));
      print(
        one === undefined ? `${name}: not done yet; see sigillo tsu list\n` : `${name}: ${one.keyLabel} stamps since ${one.activateAt}\n`,
      );
      done &&= one !== undefined;
    }
    return done;
  });

/** Where its record is kept it says so from now on: a Redis that comes back empty, with no lifecycle process there, must not bring it back. */
const keep = (config: Config, record: TsuRecord): void => {
  const folder = new TsuFolder(config);
  if (!folder.hasRecord(record.keyLabel)) return;
  try {
    folder.save(record);
  } catch (error) {
    // The register has it, and the lifecycle process writes it down at its next look.
    process.stderr.write(`The record in the home folder was not written: ${(error as Error).message}\n`);
  }
};

export interface RetireOptions {
  readonly force?: true;
}

const isOver = ({ state }: TsuRecord): boolean => state === 'retired' || state === 'destroyed';

/** Retires a TSU before its time. @throws TSU_UNKNOWN, TSU_STATE when it is over, or the last that stamps */
export const retireCommand = (name: string, { force }: RetireOptions): Promise<void> =>
  withRegister(async (redis, config, operator) => {
    const tsus = await readReadable(redis);
    const { id } = findTsu(tsus, name);
    const now = new Date();
    if (force !== true && !tsus.some((record) => record.id !== id && mayStamp(record, now)))
      throw new SigilloError('TSU_STATE', 'No other one stamps: without it every request is refused (--force).');
    const destroyAfter = new Date(now.getTime() + config.tsu.graceDays * dayMs).toISOString();
    const record = await changeTsu(
      redis,
      id,
      (current) => {
        if (isOver(current)) throw new SigilloError('TSU_STATE', `${current.keyLabel} is ${current.state}.`);
        return [{ kind: 'retired', record: { ...current, state: 'retired', retiredAt: now.toISOString(), destroyAfter } }];
      },
      tsuChangeTeller(operator),
    );
    keep(config, record);
    print(
      `${record.keyLabel} is retired. Its key is destroyed after ${destroyAfter}; its certificate stays published and is not revoked.\n`,
    );
  });

export interface CompromiseOptions {
  readonly reason: string;
  readonly wait: string;
}

const adviceTo = (record: TsuRecord): string => {
  const certificate = certificateOf(record);
  if (certificate === undefined) return 'It has no certificate: there is nothing to revoke, and nobody to tell.\n';
  return [
    'Tell your clients, in these or better words:',
    '',
    `  On ${record.compromised?.at} the timestamping unit with the certificate ${certificate.serialNumber.toLowerCase()}`,
    `  (${certificate.subject.replaceAll('\n', ', ')}) was compromised: ${record.compromised?.reason}`,
    '  A timestamp of this unit proves a time only where something else proves that it was made before: the journal of the service',
    '  with a checkpoint that was published before, or a later timestamp of another unit over it.',
    '  Renew timestamps that matter with one of another unit, over document and old timestamp.',
    '',
    '`sigillo timestamp find` and `sigillo journal verify` show which timestamps the journal vouches for.',
    'EN 319 421 asks to tell also the supervisory body and relying parties. See docs/key-lifecycle.md.',
    '',
  ].join('\n');
};

const demand = (record: TsuRecord): string =>
  [
    'Its certificate is of an outside CA. Demand at once:',
    `  - revocation of the certificate ${certificateOf(record)?.serialNumber.toLowerCase() ?? ''}, with the reason keyCompromise and the time ${record.compromised?.at};`,
    '    a revocation without a reason voids every earlier timestamp as well (RFC 3161, section 4);',
    '  - a CRL with it, and its address, and that the entry stays in it after the certificate has ended;',
    '  - a certificate for a new key: sigillo tsu request',
    '',
  ].join('\n');

/** Stops a TSU for good, and has its certificate revoked. @returns false when the revocation is not published yet */
export const compromiseCommand = (name: string, options: CompromiseOptions): Promise<boolean> =>
  withRegister(async (redis, config, operator) => {
    const seconds = readSeconds(options.wait);
    const reason = options.reason.trim().slice(0, 500);
    if (reason === '') throw new SigilloError('USAGE', '--reason must say what happened');
    const { id } = findTsu(await readReadable(redis), name);
    const compromised = { at: new Date().toISOString(), reason };
    const record = await changeTsu(
      redis,
      id,
      (current) => (current.compromised === undefined ? [{ kind: 'compromised', reason, record: { ...current, compromised } }] : []),
      tsuChangeTeller(operator),
    );
    keep(config, record);
    print(
      `${record.keyLabel} (${id.slice(0, 12)}) is compromised since ${record.compromised?.at}. Signers drop it at their next look at the register.\n`,
    );
    const certificate = certificateOf(record);
    let published = true;
    if (certificate !== undefined && config.timestamp.tsu.source === 'demonstration') {
      const serial = certificate.serialNumber.toLowerCase();
      const crl = await awaitThat(seconds, async () => {
        const der = await redis.hgetBuffer(tsuRegisterKeys.crls, crlFileName);
        const read = der === null ? undefined : readCrl(der);
        return read?.revoked.some((one) => one.serial === serial) === true ? read : undefined;
      });
      published = crl !== undefined;
      print(
        crl === undefined
          ? `The revocation is not published yet: a lifecycle process with the timestamp CA does it.\n`
          : `Revoked (keyCompromise) in CRL ${crl.number}, at /repository/${crlFileName}.\n`,
      );
    } else if (certificate !== undefined) print(`\n${demand(record)}`);
    print(`\n${adviceTo(record)}`);
    return published;
  });
