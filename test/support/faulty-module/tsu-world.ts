/** One key of a TSU in a token behind the faulty module, as a thread that stamps is told of it. */
import { join } from 'node:path';
import { after, afterEach, before } from 'node:test';
import { homePaths } from '../../../config/home.ts';
import { embeddedModule, type HsmModule, openModule } from '../../../signer/pkcs11-module.ts';
import type { StampWorkerData, Tsu } from '../../../signer/stamp-task.ts';
import { configOf, temporaryFolder } from '../token-home.ts';
import { createTokenTsu } from '../token-tsu.ts';
import { FaultyModule } from './faulty-module.ts';
import type { FaultyToken } from './faulty-token.ts';

const label = 'sigillo-timestamp';

export interface FaultyTsuWorld {
  readonly faulty: FaultyModule;
  readonly token: FaultyToken;
  readonly tsu: Tsu;
  readonly data: StampWorkerData;
}

/** For the tests of a suite; after each of them the token is whole again. */
export const faultyTsuWorld = (): FaultyTsuWorld => {
  const folder = temporaryFolder();
  const control = temporaryFolder();
  let faulty: FaultyModule;
  let module: HsmModule;
  let data: StampWorkerData;
  let tsu: Tsu;
  before(async () => {
    const made = await createTokenTsu(folder.path);
    made.module.close();
    const embedded = embeddedModule(configOf(folder.path));
    faulty = new FaultyModule(embedded, control.path);
    module = openModule(faulty);
    const pinFile = join(homePaths(folder.path).pinFolder, `${label}.pin`);
    module.login({ ...embedded, label, purposes: ['timestamp'], pinFile });
    tsu = made.tsu;
    data = { ...made.data, modulePath: faulty.modulePath, slot: module.findSlot(label).handle };
  });
  afterEach(() => faulty?.reset());
  after(() => {
    module?.close();
    faulty?.close();
    folder.remove();
    control.remove();
  });
  return {
    get faulty() {
      return faulty;
    },
    get token() {
      return faulty.token(label);
    },
    get tsu() {
      return tsu;
    },
    get data() {
      return data;
    },
  };
};
