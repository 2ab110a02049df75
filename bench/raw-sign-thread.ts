/** One thread of the raw C_Sign measurement: its own session, synchronous calls, the same buffers again and again. */
import { parentPort, workerData } from 'node:worker_threads';
import pkcs11js from 'pkcs11js';
import type { RawSignThreadData, ThreadCount } from './raw-sign.ts';

const setup = workerData as RawSignThreadData;
const module = new pkcs11js.PKCS11();
module.load(setup.module);
try {
  module.C_Initialize({ flags: pkcs11js.CKF_OS_LOCKING_OK });
} catch (error) {
  // The main thread was first, as it must be: initialisation and login are the process's.
  if (!(error instanceof pkcs11js.Pkcs11Error) || error.code !== pkcs11js.CKR_CRYPTOKI_ALREADY_INITIALIZED) throw error;
}
const session = module.C_OpenSession(Buffer.from(setup.slot), pkcs11js.CKF_SERIAL_SESSION);
const key = Buffer.from(setup.key);
const data = Buffer.from(setup.data);
const out = Buffer.alloc(setup.signatureOctets);
/** Looking at the clock costs a fraction of a percent of the fastest signature; once in a few is enough. */
const signaturesPerLook = 8;

const signFor = (durationMs: number): ThreadCount => {
  const startedAt = performance.now();
  const endsAt = startedAt + durationMs;
  let signatures = 0;
  let now = startedAt;
  while (now < endsAt) {
    for (let i = 0; i < signaturesPerLook; i += 1) {
      data.writeUInt32BE(signatures + i, data.length - 4);
      module.C_SignInit(session, setup.mechanism, key);
      module.C_Sign(session, data, out);
    }
    signatures += signaturesPerLook;
    now = performance.now();
  }
  return { signatures, seconds: (now - startedAt) / 1_000 };
};

parentPort?.on('message', ({ durationMs }: { durationMs: number }) => parentPort?.postMessage(signFor(durationMs)));
parentPort?.postMessage('ready');
