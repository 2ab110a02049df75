/**
 * The configuration of every process, in one schema: names, meanings, defaults and limits.
 *
 * Unknown keys are refused, so that a typing error never becomes a silent default. Secrets appear only as paths of files.
 */
import { isIP } from 'node:net';
import { isDeepStrictEqual } from 'node:util';
import { z } from 'zod';
import { clickhouseUrl, port, redisSchema } from './connection-schema.ts';
import { checkTsuCalendar, dualControlSchema, tsuLifecycleSchema } from './lifecycle-schema.ts';

const path = z.string().min(1);
const label = z.string().min(1).max(32); // PKCS#11: a token label is a field of 32 bytes
/** 128 characters encode to at most 61 octets: short enough for one octet of length on the lane. */
export const oidSchema = z
  .string()
  .max(128)
  .regex(/^([01]\.[1-3]?\d|2\.(0|[1-9]\d{0,19}))(\.(0|[1-9]\d{0,19})){0,29}$/, 'must be an object identifier such as 1.3.6.1.4.1.1');

export const digestNames = ['sha256', 'sha384', 'sha512', 'sha3-256', 'sha3-384', 'sha3-512'] as const;

export const tsuAlgorithms = [
  'ec-p256',
  'ec-p384',
  'rsa-2048',
  'rsa-3072',
  'rsa-4096',
  'rsa-pss-2048',
  'rsa-pss-3072',
  'rsa-pss-4096',
] as const;
/** Key type, size and signature scheme of a timestamping key; `rsa-*` is PKCS#1 v1.5, `rsa-pss-*` is RSASSA-PSS. */
export type TsuAlgorithm = (typeof tsuAlgorithms)[number];

export const keyPurposes = ['timestamp', 'ocsp', 'authority', 'document', 'journal'] as const;
/** What a slot, and each key in it, may be used for; one key has exactly one purpose. */
export type KeyPurpose = (typeof keyPurposes)[number];

const publicSchema = z.strictObject({
  host: z.string().min(1).default('127.0.0.1'),
  port: port.default(8080),
  /** The second yes that serving anonymous clients beyond loopback needs. */
  anonymousOnPublicAddress: z.boolean().default(false),
  /** Longest time a client may take to send one request, headers and body. */
  requestTimeoutMs: z.int().min(100).max(120_000).default(10_000),
  /** Connections open at once; one more is closed at accept. */
  connectionsMax: z.int().min(1).max(100_000).default(4_096),
});

const opsSchema = z.strictObject({
  host: z.string().min(1).default('127.0.0.1'),
  port: port.default(8081),
});

/** Variables that a module reads when it is loaded (for example the path of its own configuration file). */
const moduleEnvironment = z.record(z.string().regex(/^[A-Za-z_][A-Za-z0-9_]*$/), z.string()); // Luna's is ChrystokiConfigurationPath

const slotSchema = z.strictObject({
  /** Slots are found by the label of their token, never by their number. */
  label,
  purposes: z.array(z.enum(keyPurposes)).min(1),
  pinFile: path,
  /** The module that the token is in; unset: hsm.module. */
  module: path.optional(),
  /** Variables for that module, besides those of hsm.environment. */
  environment: moduleEnvironment.optional(),
  /** Sessions for stamping at most; unset: 32, or fewer when the token says so. As many are opened as it makes use of. */
  sessions: z.int().min(1).max(1_000).optional(),
});

const hsmSchema = z
  .discriminatedUnion('mode', [
    /** SoftHSM tokens under the home folder, made at the first start. */
    z.strictObject({ mode: z.literal('embedded'), module: path.optional() }),
    /** Any PKCS#11 module with tokens that exist already. */
    z.strictObject({
      mode: z.literal('module'),
      module: path,
      slots: z.array(slotSchema).min(1),
      environment: moduleEnvironment.default({}),
    }),
  ])
  .default({ mode: 'embedded' });

const signerSchema = z.strictObject({
  /** Worker threads, each with a PKCS#11 session of its own; unset: the cores, shared out among the slots that stamp. */
  workers: z.int().min(1).max(256).optional(),
  /** Batches handed to one worker at once, all but one waiting in its memory rather than in Redis; or requests for each signature at once, if more. */
  batchesPerWorker: z.int().min(1).max(16).default(2),
  /** A signer that has not read for so long counts as dead, and its entries are claimed by a living one. */
  deadAfterMs: z.int().min(500).max(60_000).default(2_000),
  /** A call into the PKCS#11 module that takes longer will never end: the process is replaced, and others take over what it had. */
  callMsMax: z.int().min(200).max(120_000).default(1_500),
  /** A signer whose main thread does not answer its supervisor for so long is replaced; a lifecycle process has six times as long. */
  standstillMsMax: z.int().min(1_000).max(600_000).default(20_000),
  /** Longest pause before a slot whose token has failed is taken up again; the first is 100 ms, and each is twice the last. */
  reinitialiseMsMax: z.int().min(100).max(3_600_000).default(30_000),
  /** How often sessions are used when there is nothing to sign: network HSMs and firewalls close idle ones after minutes. */
  keepAliveMs: z.int().min(1_000).max(3_600_000).default(60_000),
  /** Pace at which sessions are opened; some tokens fail when many come at once. */
  sessionsPerSecond: z.int().min(1).max(1_000).default(20),
});

const tsuSchema = z
  .discriminatedUnion('source', [
    /** Key in the token and certificate by the demonstration timestamp CA, both made at start. */
    z.strictObject({ source: z.literal('demonstration') }),
    /** A key that is in the token, with its certificate chain (TSU first, then its CAs, without the root) in a PEM file. */
    z.strictObject({ source: z.literal('installed'), keyLabel: z.string().min(1), chainFile: path }),
  ])
  .default({ source: 'demonstration' });

const timestampSchema = z.strictObject({
  access: z.enum(['anonymous', 'clients']).default('anonymous'),
  tsu: tsuSchema,
  algorithm: z.enum(tsuAlgorithms).default('ec-p256'),
  /** Digest of the token's own signature; unset: SHA-384 for P-384, SHA-256 otherwise. */
  signatureDigest: z.enum(['sha256', 'sha384', 'sha512']).optional(),
  /** Policies a request may name; the first one is used when it names none. The default lies in the arc for documentation (RFC 5612). */
  policies: z.array(oidSchema).min(1).max(16).default(['1.3.6.1.4.1.32473.1.1']),
  /** Digests a messageImprint may carry; anything else is answered badAlg. */
  digests: z
    .array(z.enum(digestNames))
    .min(1)
    .default([...digestNames]),
  /** What the clock is trusted for, in microseconds; ETSI EN 319 422 asks for one second or better. */
  accuracyMicros: z.int().min(1_000).max(1_000_000).default(1_000_000),
  /** `subject` puts the TSU's subject name into the tsa field of each token. */
  tsaName: z.enum(['none', 'subject']).default('none'),
  /** Adds qcStatements with esi4-qtstStatement-1 (ETSI EN 319 422, 9.1): the claim to be a qualified timestamp. */
  qualified: z.boolean().default(false),
  bodyBytesMax: z.int().min(256).max(1_048_576).default(8_192),
  /** Time from the arrival of a request to its answer, granted or refused. */
  deadlineMs: z.int().min(100).max(60_000).default(5_000),
  /** Stamps in flight in one gateway; one more is refused with 503. */
  inFlightMax: z.int().min(1).max(100_000).default(4_096),
  /** Stream entries of one gateway without a reply, beyond which requests wait until they fill one that the tokens have room for, or for a reply. */
  entriesOutstandingMax: z.int().min(1).max(64).default(4),
  /** Requests in one stream entry at most, which one worker signs in one go; unset: as many as the algorithm signs in a few milliseconds (gateway/entry-sizes.ts). */
  batchMax: z.int().min(1).max(256).optional(),
  /** Imprints in one POST /v1/timestamps. */
  imprintsMax: z.int().min(1).max(10_000).default(1_000),
});

const timeServer = z.strictObject({ host: z.string().min(1).max(253), port: port.default(123) });

const timeSchema = z.strictObject({
  /**
   * NTP servers that the clock is held against; none: the time is unverified. With servers, stamping begins with the first quorum. Four
   * let one lie while another one is away.
   */
  servers: z.array(timeServer).max(64).default([]),
  /** Servers that must agree; unset: more than half of them. */
  quorum: z.int().min(1).max(64).optional(),
  /** Time between two rounds. Public servers want 16 s at least. */
  pollMs: z.int().min(250).max(1_024_000).default(16_000),
  /** A server that has not answered by then is silent in this round. */
  timeoutMs: z.int().min(50).max(10_000).default(1_000),
  /** Beyond this distance from UTC nothing is stamped. */
  offsetMsMax: z.int().min(1).max(1_000).default(1_000),
  /** The coarsest accuracy that may be stated: when the clock cannot prove even that, nothing is stamped. */
  accuracyMicrosMax: z.int().min(1_000).max(1_000_000).default(1_000_000),
  /**
   * Without servers: how far from UTC the clock can be, on the word of whoever configures it. No accuracy below it may be stated then,
   * because nothing proves one. The millisecond that genTime is cut to comes on top, up to one second in all.
   */
  unverifiedMicros: z.int().min(1_000).max(1_000_000).default(1_000_000),
  /** How long the last quorum counts when there is no new one: the clock drifts by 30 ms in the default. */
  holdoverMs: z.int().min(1_000).max(86_400_000).default(600_000),
  /** How fast the clock may run away from UTC unseen, between rounds: the frequency error that its daemon leaves, and what it slews. */
  driftPpm: z.int().min(1).max(100_000).default(50),
  /** Good rounds in a row until stamping resumes. */
  goodRounds: z.int().min(1).max(100).default(3),
  /** `refuse`: nothing is stamped around a leap second that most servers announce; `ignore`: for sources that smear it. */
  leapSeconds: z.enum(['refuse', 'ignore']).default('refuse'),
  /** Refuse to stamp while no server vouches for the clock; without servers that is always. */
  required: z.boolean().default(false),
  /** A change of the wall clock against the monotonic one beyond this is a step, and stops stamping. */
  stepMsMax: z.int().min(10).max(1_000).default(500),
  /** How long the clock must run evenly after a step before stamping resumes. */
  settleMs: z.int().min(100).max(3_600_000).default(10_000),
});

const months = z.int().min(1).max(1_200);

const checkpointSchema = z.strictObject({
  /** A checkpoint is made when so much time has passed, or so many entries have come, since the last. */
  seconds: z.int().min(1).max(86_400).default(10),
  events: z.int().min(1).max(10_000_000).default(100_000),
});
/** How often checkpoints are made when the configuration says nothing: what is assumed of a journal from elsewhere. */
export const checkpointDefaults = checkpointSchema.parse({});

const journalSchema = z.strictObject({
  /**
   * What a granted answer means: `fsync`, its entry is on the disk of Redis; `everysec`, it is there within a second. The embedded
   * Redis is started accordingly (appendfsync); of another one it is checked, and told when it does less.
   */
  durability: z.enum(['fsync', 'everysec']).default('fsync'),
  /** Name of the journal in its checkpoints, for ever: a host name and path without scheme (C2SP tlog-checkpoint). */
  origin: z
    .string()
    .regex(/^[!-*,-~]{1,200}$/, 'must be visible ASCII without "+"')
    .default('sigillo.invalid/journal'),
  /** ClickHouse server, http:// or https://, without a password in it; unset: the engine is embedded in the journal process. */
  url: clickhouseUrl.optional(),
  username: z.string().min(1).optional(),
  passwordFile: path.optional(),
  /** Certificates that the server's must lead to, when they are not those of the system. */
  caFile: path.optional(),
  database: z
    .string()
    .regex(/^[A-Za-z_][A-Za-z0-9_]{0,63}$/)
    .default('default'),
  /** Name of the cluster whose replicas keep the tables; unset: one server does. */
  replicatedCluster: z
    .string()
    .regex(/^[A-Za-z0-9_.-]{1,64}$/)
    .optional(),
  block: z
    .strictObject({
      /**
       * Entries of a block, which goes into ClickHouse in one go: the larger, the fewer files and merges. At 20,000 events a second the
       * journal process had at most 527 MB resident with 3,000, 542 with 5,000 and 554 with 6,000.
       */
      rowsMax: z.int().min(1).max(100_000).default(5_000),
      /** How long entries are collected; with it the journal lags behind the answers. */
      ageMs: z.int().min(1).max(60_000).default(500),
    })
    .prefault({}),
  /** Entries of a stream in Redis that the journal has not taken yet; beyond, new work is refused. One holds the answers of one batch. */
  waitingMax: z.int().min(16).max(10_000_000).default(20_000),
  spool: z
    .strictObject({
      /** Unset: `journal/spool` in the home folder. */
      folder: path.optional(),
      /** Bound of the folder, in MB: an hour at 13,000 stamps a second takes 9,000. */
      megabytesMax: z.int().min(1).max(10_000_000).default(16_384),
    })
    .prefault({}),
  checkpoint: checkpointSchema.prefault({}),
  /** How long entries are kept, in months by class; `certificate` at least as long as the others, which it is needed to explain. */
  retentionMonths: z
    .strictObject({
      certificate: months.default(240),
      timestamp: months.default(240),
      mail: months.default(30),
      service: months.default(6),
    })
    .prefault({}),
});

const trustSchema = z.strictObject({
  /** PEM file of the root certificates to publish; unset: the demonstration root. */
  rootsFile: path.optional(),
});

const logSchema = z.strictObject({
  level: z.enum(['debug', 'info', 'warn', 'error']).default('info'),
  /** `text` for people at a terminal, `json` for log collectors. */
  format: z.enum(['text', 'json']).default('text'),
});

/** Address checks need both halves of the configuration, so they live on the whole. */
const crossChecks = (config: z.infer<typeof objectSchema>, context: z.RefinementCtx): void => {
  checkTsuCalendar(config.tsu, (key, message) => context.addIssue({ code: 'custom', path: ['tsu', key], message }));
  if (config.timestamp.inFlightMax < config.timestamp.imprintsMax) {
    context.addIssue({
      code: 'custom',
      path: ['timestamp', 'inFlightMax'],
      message: `must be at least timestamp.imprintsMax (${config.timestamp.imprintsMax}), or a full request could never be taken`,
    });
  }
  if (config.journal.url === undefined) {
    for (const key of ['username', 'passwordFile', 'caFile', 'replicatedCluster'] as const) {
      if (config.journal[key] !== undefined)
        context.addIssue({ code: 'custom', path: ['journal', key], message: 'is for a server: set journal.url' });
    }
  }
  const { certificate, ...others } = config.journal.retentionMonths;
  const longest = Math.max(...Object.values(others));
  if (certificate < longest) {
    context.addIssue({
      code: 'custom',
      path: ['journal', 'retentionMonths', 'certificate'],
      message: `must be at least that of every other class (${longest}): it holds the certificates and checkpoints that prove the others`,
    });
  }
  if (config.hsm.mode === 'module') {
    const labels = config.hsm.slots.map((slot) => slot.label);
    const twice = labels.findIndex((one, index) => labels.indexOf(one) !== index);
    if (twice >= 0) {
      context.addIssue({ code: 'custom', path: ['hsm', 'slots', twice, 'label'], message: 'names a token that another slot names' });
    }
    const { module, environment, slots } = config.hsm;
    const loaded = slots.map((slot) => ({ module: slot.module ?? module, environment: { ...environment, ...slot.environment } }));
    const odd = loaded.findIndex((one) => {
      const first = loaded.find((other) => other.module === one.module);
      return !isDeepStrictEqual(one.environment, first?.environment);
    });
    if (odd >= 0) {
      context.addIssue({
        code: 'custom',
        path: ['hsm', 'slots', odd, 'environment'],
        message: 'must be that of every slot with the same module, which a process loads once; a copy of the file is another module',
      });
    }
  }
  if (config.hsm.mode === 'module' && !config.hsm.slots.some(({ purposes }) => purposes.includes('journal'))) {
    context.addIssue({ code: 'custom', path: ['hsm', 'slots'], message: 'none has the purpose journal' });
  }
  if (config.hsm.mode === 'embedded' && config.timestamp.tsu.source === 'installed') {
    context.addIssue({ code: 'custom', path: ['timestamp', 'tsu', 'source'], message: 'installed needs hsm.mode: module' });
  }
  if (config.timestamp.tsu.source === 'installed' && config.trust.rootsFile === undefined) {
    context.addIssue({ code: 'custom', path: ['trust', 'rootsFile'], message: 'is needed when timestamp.tsu.source is installed' });
  }
};

/** What the watch over the clock could never fulfil. */
const timeChecks = ({ time, timestamp }: z.infer<typeof objectSchema>, context: z.RefinementCtx): void => {
  const refuse = (key: keyof typeof time, message: string): void => context.addIssue({ code: 'custom', path: ['time', key], message });
  if (time.quorum !== undefined && time.quorum > time.servers.length) {
    refuse('quorum', `must be at most the number of time.servers (${time.servers.length})`);
  }
  const names = time.servers.map(({ host, port: at }) => `${host.toLowerCase()} ${at}`);
  if (new Set(names).size < names.length) refuse('servers', 'names a server twice: it would be counted as two');
  if (time.timeoutMs > time.pollMs) refuse('timeoutMs', `must be at most time.pollMs (${time.pollMs})`);
  if (time.holdoverMs < 2 * time.pollMs) {
    refuse('holdoverMs', `must be at least twice time.pollMs (${time.pollMs}), or one lost round would stop stamping`);
  }
  if (time.servers.length === 0 && timestamp.accuracyMicros < time.unverifiedMicros) {
    const message = `nothing proves it: name time.servers, or vouch for the clock with time.unverifiedMicros (${time.unverifiedMicros})`;
    context.addIssue({ code: 'custom', path: ['timestamp', 'accuracyMicros'], message });
  }
  // genTime is cut to the millisecond; the error that a token states holds that too (signer/clock.ts).
  const provenMicros = Math.min(time.unverifiedMicros + 1_000, 1_000_000);
  if (time.servers.length === 0 && time.accuracyMicrosMax < provenMicros) {
    refuse('accuracyMicrosMax', `must be at least what time.unverifiedMicros and the millisecond of genTime make (${provenMicros})`);
  }
  if (time.accuracyMicrosMax < timestamp.accuracyMicros) {
    refuse('accuracyMicrosMax', `must be at least timestamp.accuracyMicros (${timestamp.accuracyMicros})`);
  }
};

const objectSchema = z.strictObject({
  /** Folder of everything that the embedded parts keep. */
  home: path.default('./var'),
  public: publicSchema.prefault({}),
  ops: opsSchema.prefault({}),
  redis: redisSchema,
  hsm: hsmSchema,
  signer: signerSchema.prefault({}),
  timestamp: timestampSchema.prefault({}),
  tsu: tsuLifecycleSchema.prefault({}),
  dualControl: dualControlSchema,
  time: timeSchema.prefault({}),
  journal: journalSchema.prefault({}),
  trust: trustSchema.prefault({}),
  log: logSchema.prefault({}),
  /** Longest time a process takes to stop cleanly; longer than timestamp.deadlineMs, so that what was accepted is answered. */
  shutdownMs: z.int().min(1_000).max(120_000).default(15_000),
});

export const configSchema = objectSchema
  .superRefine(crossChecks)
  .superRefine(timeChecks)
  .superRefine((config, context) => {
    if (config.shutdownMs <= config.timestamp.deadlineMs) {
      context.addIssue({ code: 'custom', path: ['shutdownMs'], message: 'must be longer than timestamp.deadlineMs' });
    }
  });

/** The checked configuration; every optional part has its default. */
export type Config = z.output<typeof configSchema>;

/** True for addresses that only this machine can reach. */
export const isLoopback = (host: string): boolean =>
  host === 'localhost' || host === '::1' || (isIP(host) === 4 && host.startsWith('127.'));
