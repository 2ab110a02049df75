/** A P-256 timestamping key in a SoftHSM token of its own, certified by a CA made for it: what a stamper needs. */
import { generateKeyPairSync, sign } from 'node:crypto';
import { type CertificateSigner, issueCertificate } from '../../authority/issue.ts';
import { keyScheme } from '../../pki/algorithms.ts';
import { createCallMemory } from '../../signer/call-watch.ts';
import { createClockMemory } from '../../signer/clock-memory.ts';
import { ensureEmbeddedTokens } from '../../signer/embedded-token.ts';
import { embeddedModule, type HsmModule, openModule, resolveHsm, slotForPurpose } from '../../signer/pkcs11-module.ts';
import { createPaceMemory } from '../../signer/session-pace.ts';
import { createTsuMemory } from '../../signer/shared-tsus.ts';
import type { StampWorkerData, Tsu } from '../../signer/stamp-task.ts';
import { generateKeyPair } from '../../signer/token-keys.ts';
import { createRefusalMemory } from '../../signer/token-refusals.ts';
import { testPolicy } from './software-tsu.ts';
import { configOf } from './token-home.ts';

/** Makes token, key and certificates in an empty home folder; the module is the caller's to close. */
export const createTokenTsu = async (home: string): Promise<{ module: HsmModule; tsu: Tsu; data: StampWorkerData }> => {
  const config = configOf(home);
  ensureEmbeddedTokens(config);
  const hsm = resolveHsm(config);
  const module = openModule(embeddedModule(config));
  const slot = slotForPurpose(hsm, 'timestamp');
  module.login(slot);
  const session = module.openSession(slot.label, { readWrite: true });
  const scheme = keyScheme('ec-p256');
  const { spki } = generateKeyPair(session, { label: 'stamper-test', scheme });

  const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-384' });
  const signer: CertificateSigner = {
    scheme: keyScheme('ec-p384'),
    spki: publicKey.export({ format: 'der', type: 'spki' }),
    sign: (tbs) => sign('sha384', tbs, privateKey),
  };
  const root = await issueCertificate({
    kind: 'root-ca',
    spki: signer.spki,
    issuer: { signer, certificate: undefined },
    now: new Date(),
  });
  const certificate = await issueCertificate({ kind: 'tsu', spki, issuer: { signer, certificate: root }, now: new Date() });
  const tsu: Tsu = {
    id: certificate.fingerprint256.replaceAll(':', '').toLowerCase(),
    tokenLabel: slot.label,
    keyLabel: 'stamper-test',
    scheme,
    signatureDigest: 'sha256',
    chain: [certificate.raw],
    activeFromMs: 0,
    usableUntilMs: Number.MAX_SAFE_INTEGER,
  };
  const data: StampWorkerData = {
    modulePath: slot.modulePath,
    slot: module.findSlot(slot.label).handle,
    node: 'node-1',
    tsuMemory: createTsuMemory([tsu]),
    timestamp: { policies: [testPolicy], accuracyMicros: 1_000_000, tsaName: 'none', qualified: false },
    time: config.time,
    clockMemory: createClockMemory(),
    callMemory: createCallMemory(),
    refusalMemory: createRefusalMemory(),
    paceMemory: createPaceMemory(0),
  };
  return { module, tsu, data };
};
