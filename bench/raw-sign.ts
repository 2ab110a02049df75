/**
 * The yardstick for the token: C_Sign in synchronous calls on as many threads as the service's workers, one session each, and
 * nothing else. A process of its own, since CPU time is counted for the process. Ends with its parent.
 */
import { Worker } from 'node:worker_threads';
import pkcs11js from 'pkcs11js';
import { readSecretFile } from '../config/secrets.ts';
import { disturbanceOf, machineCpuBetween, readMachineCpu } from './process-tree.ts';

/** Where the key is and how it signs; `data` is what C_Sign takes, its last octets vary. */
export interface RawSignSetup {
  readonly module: string;
  readonly tokenLabel: string;
  readonly pinFile: string;
  /** The last key in order whose label starts with this. */
  readonly keyLabelPrefix: string;
  readonly mechanism: pkcs11js.Mechanism;
  readonly data: Uint8Array;
  readonly signatureOctets: number;
  readonly threads: number;
}

export type RawSignRequest = { readonly setup: RawSignSetup } | { readonly durationMs: number };

export interface RawSignResult {
  readonly signatures: number;
  readonly perSecond: number;
  /** CPU microseconds for one signature, all threads together. */
  readonly cpuMicros: number;
  /** Share of the machine that anything else used meanwhile. */
  readonly disturbance: number;
}

export type RawSignAnswer =
  /** A signature over `data` as it was given, to check that the right key signs. */
  | { readonly ready: { readonly keyLabel: string; readonly signature: Uint8Array } }
  | { readonly result: RawSignResult }
  | { readonly failure: string };

/** What a thread gets at its start. */
export interface RawSignThreadData extends RawSignSetup {
  readonly slot: Uint8Array;
  readonly key: Uint8Array;
}
export interface ThreadCount {
  readonly signatures: number;
  readonly seconds: number;
}

/** Loads the module for the life of the process, and finds token and key by their labels. */
const openToken = (setup: RawSignSetup): { slot: Buffer; key: Buffer; keyLabel: string; signature: Buffer } => {
  const module = new pkcs11js.PKCS11();
  module.load(setup.module);
  module.C_Initialize({ flags: pkcs11js.CKF_OS_LOCKING_OK });
  const slot = module.C_GetSlotList(true).find((id) => module.C_GetTokenInfo(id).label.trimEnd() === setup.tokenLabel);
  if (slot === undefined) throw new Error(`no token labelled ${setup.tokenLabel}`);
  const session = module.C_OpenSession(slot, pkcs11js.CKF_SERIAL_SESSION);
  module.C_Login(session, pkcs11js.CKU_USER, readSecretFile(setup.pinFile));
  module.C_FindObjectsInit(session, [{ type: pkcs11js.CKA_CLASS, value: pkcs11js.CKO_PRIVATE_KEY }]);
  const keys: { key: Buffer; keyLabel: string }[] = [];
  for (let key = module.C_FindObjects(session); key !== null; key = module.C_FindObjects(session)) {
    const [label] = module.C_GetAttributeValue(session, key, [{ type: pkcs11js.CKA_LABEL }]);
    const keyLabel = Buffer.from(label?.value as Buffer).toString('utf8');
    if (keyLabel.startsWith(setup.keyLabelPrefix)) keys.push({ key, keyLabel });
  }
  module.C_FindObjectsFinal(session);
  const last = keys.toSorted((a, b) => a.keyLabel.localeCompare(b.keyLabel, 'en', { numeric: true })).at(-1);
  if (last === undefined) throw new Error(`no key labelled ${setup.keyLabelPrefix}… in ${setup.tokenLabel}`);
  module.C_SignInit(session, setup.mechanism, last.key);
  const signature = module.C_Sign(session, Buffer.from(setup.data), Buffer.alloc(setup.signatureOctets));
  return { slot, ...last, signature };
};

let threads: Worker[] = [];

const once = (thread: Worker): Promise<unknown> =>
  new Promise((resolve, reject) => {
    thread.once('message', resolve);
    thread.once('error', reject);
  });

const start = async (setup: RawSignSetup): Promise<RawSignAnswer> => {
  const { slot, key, keyLabel, signature } = openToken(setup);
  // One after the other: some modules do not take sessions that open at the same time.
  for (let i = 0; i < setup.threads; i += 1) {
    const workerData: RawSignThreadData = { ...setup, slot, key };
    const thread = new Worker(new URL('./raw-sign-thread.ts', import.meta.url), { workerData });
    await once(thread);
    threads = [...threads, thread];
  }
  return { ready: { keyLabel, signature } };
};

const sign = async (durationMs: number): Promise<RawSignAnswer> => {
  const machineBefore = readMachineCpu();
  const before = process.cpuUsage();
  const answers = threads.map(once) as Promise<ThreadCount>[];
  for (const thread of threads) thread.postMessage({ durationMs });
  const counts = await Promise.all(answers);
  const used = process.cpuUsage(before);
  const machine = machineCpuBetween(machineBefore, readMachineCpu());
  const signatures = counts.reduce((sum, count) => sum + count.signatures, 0);
  return {
    result: {
      signatures,
      perSecond: counts.reduce((sum, count) => sum + count.signatures / count.seconds, 0),
      cpuMicros: (used.user + used.system) / signatures,
      disturbance: disturbanceOf(machine, used.user + used.system),
    },
  };
};

process.on('message', (request: RawSignRequest) => {
  ('setup' in request ? start(request.setup) : sign(request.durationMs)).then(
    (answer) => void process.send?.(answer),
    (error: unknown) => void process.send?.({ failure: error instanceof Error ? (error.stack ?? error.message) : String(error) }),
  );
});
process.on('disconnect', () => process.exit(0));
process.on('SIGINT', () => undefined);
