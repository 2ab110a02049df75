/** Two SoftHSM tokens with a key each, for the tests of a file, and the faulty module in front of them: in this process and in others. */
import { after, before, type TestContext } from 'node:test';
import pkcs11 from 'pkcs11js';
import type { SigilloError } from '../../../config/errors.ts';
import { keyScheme } from '../../../pki/algorithms.ts';
import { ensureEmbeddedTokens } from '../../../signer/embedded-token.ts';
import { type KeySession, openKeySession } from '../../../signer/key-session.ts';
import { type HsmModule, type HsmSlot, openModule, resolveHsm, slotForPurpose } from '../../../signer/pkcs11-module.ts';
import { generateKeyPair } from '../../../signer/token-keys.ts';
import { configOf, temporaryFolder } from '../token-home.ts';
import { withoutFaultyModule } from './build.ts';
import { FaultyModule } from './faulty-module.ts';
import type { FaultyToken } from './faulty-token.ts';
import { TokenUser } from './user-process.ts';

export const scheme = keyScheme('ec-p256');
export const keyLabel = 'signing';
export const hash = Buffer.alloc(32, 7);
export const ecdsa = { mechanism: pkcs11.CKM_ECDSA };

/** A session and its key, as pkcs11js has them. */
export interface SigningLane {
  readonly session: Buffer;
  readonly key: Buffer;
}

/** The module opened in this process, and logged in. */
export interface OpenedModule {
  readonly faulty: FaultyModule;
  readonly token: FaultyToken;
  readonly module: HsmModule;
  readonly lib: pkcs11.PKCS11;
  readonly slotHandle: Buffer;
  readonly open: (label?: string) => SigningLane;
  readonly keySession: () => KeySession;
}

export class TokenWorld {
  readonly home = temporaryFolder();
  slot!: HsmSlot;
  neighbour!: HsmSlot;

  /** Makes the tokens and their keys. */
  prepare(): void {
    const config = configOf(this.home.path);
    ensureEmbeddedTokens(config);
    const hsm = resolveHsm(config);
    this.slot = slotForPurpose(hsm, 'timestamp');
    this.neighbour = slotForPurpose(hsm, 'journal');
    const module = openModule(this.slot);
    for (const each of [this.slot, this.neighbour]) {
      module.login(each);
      generateKeyPair(module.openSession(each.label, { readWrite: true }), { label: keyLabel, scheme });
    }
    module.close();
  }

  /** A faulty module with a control file of its own, for the time of the test; `users` are closed when nothing hangs any more. */
  script(t: TestContext, users: { close: () => void }[] = []): FaultyModule {
    const folder = temporaryFolder();
    const faulty = new FaultyModule(this.slot, folder.path);
    t.after(() => {
      faulty.reset();
      for (const user of users) user.close();
      faulty.close();
      folder.remove();
    });
    return faulty;
  }

  open(t: TestContext): OpenedModule {
    const { slot } = this;
    const users: HsmModule[] = [];
    const faulty = this.script(t, users);
    const token = faulty.token(slot.label);
    const module = openModule(faulty);
    const { lib } = module;
    users.push(module);
    module.login(slot);
    const handleOf = (label: string): Buffer => module.findSlot(label).handle;
    const open = (label = slot.label): SigningLane => {
      const session = lib.C_OpenSession(handleOf(label), pkcs11.CKF_SERIAL_SESSION);
      lib.C_FindObjectsInit(session, [
        { type: pkcs11.CKA_CLASS, value: pkcs11.CKO_PRIVATE_KEY },
        { type: pkcs11.CKA_LABEL, value: keyLabel },
      ]);
      const [key] = lib.C_FindObjects(session, 1);
      lib.C_FindObjectsFinal(session);
      return { session, key: key! };
    };
    const keySession = (): KeySession =>
      openKeySession({
        modulePath: faulty.modulePath,
        slot: handleOf(slot.label),
        keyLabel,
        purpose: 'timestamp',
        scheme,
        digest: 'sha256',
      });
    return { faulty, token, module, lib, slotHandle: handleOf(slot.label), open, keySession };
  }

  /** Another process on the token of `slot`. */
  startUser(t: TestContext, { modulePath, environment }: FaultyModule, sessions: number): Promise<TokenUser> {
    return TokenUser.start(t, { modulePath, environment, slot: this.slot, keyLabel, sessions });
  }
}

export const tokenWorld = (): TokenWorld => {
  const world = new TokenWorld();
  before(() => {
    if (withoutFaultyModule === false) world.prepare();
  });
  after(world.home.remove);
  return world;
};

export const sign = (lib: pkcs11.PKCS11, { session, key }: SigningLane): Buffer => {
  lib.C_SignInit(session, ecdsa, key);
  return lib.C_Sign(session, hash, Buffer.alloc(64));
};

/** What pkcs11js throws for this code. */
export const ckr = (name: `CKR_${string}`) => ({ code: (pkcs11 as unknown as Record<string, number>)[name]! });

export const sigillo =
  (code: string, message = /./) =>
  (error: SigilloError) =>
    error.code === code && message.test(error.message);
