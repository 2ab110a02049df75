/** Tokens, keys and certificates as an operator makes them: with SoftHSM's and OpenSSL's own programs. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { runWell } from './service.ts';

export const operatorsPin = 'operators-pin';

/** A folder with tokens and a SoftHSM configuration of its own. */
export class OperatorTokens {
  readonly path: string;
  readonly conf: string;
  readonly pinFile: string;
  readonly environment: { readonly SOFTHSM2_CONF: string };

  constructor(path: string) {
    this.path = path;
    mkdirSync(join(path, 'tokens'), { recursive: true });
    this.conf = join(path, 'softhsm2.conf');
    writeFileSync(this.conf, `directories.tokendir = ${join(path, 'tokens')}\nobjectstore.backend = file\nlog.level = ERROR\n`);
    this.pinFile = join(path, 'pin');
    writeFileSync(this.pinFile, `${operatorsPin}\n`, { mode: 0o600 });
    this.environment = { SOFTHSM2_CONF: this.conf };
  }

  async addToken(label: string): Promise<void> {
    await this.#softhsm('--init-token', '--free', '--label', label, '--pin', operatorsPin, '--so-pin', 'operators-so-pin');
  }

  /** Brings a private key (PKCS#8, PEM) into a token, as a backup of another would be. */
  async importKey(token: string, file: string, label: string): Promise<void> {
    await this.#softhsm('--import', file, '--token', token, '--label', label, '--id', 'a1', '--pin', operatorsPin);
  }

  async #softhsm(...parameters: readonly string[]): Promise<void> {
    await runWell('softhsm2-util', parameters, { env: { ...process.env, ...this.environment } });
  }
}

/** `openssl req` or `genpkey` options of a key. */
export const newKeyOptions = {
  'ec-p256': ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256'],
  'rsa-3072': ['-newkey', 'rsa:3072'],
} as const;

export interface OperatorPki {
  /** PKCS#8, PEM. */
  readonly keyFile: string;
  /** TSU certificate first, then the issuing CA. */
  readonly chainFile: string;
  readonly rootsFile: string;
}

/** Root, issuing CA and TSU in files of this folder. */
export const makeOperatorPki = (path: string, algorithm: keyof typeof newKeyOptions): OperatorPki => {
  mkdirSync(path, { recursive: true });
  const file = (name: string): string => join(path, name);
  const openssl = (...parameters: readonly string[]): void =>
    void execFileSync('openssl', parameters, { cwd: path, stdio: ['ignore', 'ignore', 'pipe'] });
  const issue = (name: string, issuer: string, ...extensions: readonly string[]): void => {
    writeFileSync(file(`${name}.ext`), extensions.join('\n'));
    openssl('req', '-new', '-key', `${name}.key`, '-subj', `/O=Operator/CN=${name}`, '-out', `${name}.csr`);
    const from = ['-CA', `${issuer}.pem`, '-CAkey', `${issuer}.key`, '-CAcreateserial', '-extfile', `${name}.ext`, '-days', '30'];
    openssl('x509', '-req', '-in', `${name}.csr`, ...from, '-out', `${name}.pem`);
  };
  const root = ['-keyout', 'root.key', '-out', 'root.pem', '-subj', '/O=Operator/CN=root', '-days', '30'];
  openssl('req', '-x509', '-newkey', 'rsa:2048', '-nodes', ...root);
  openssl('genpkey', '-algorithm', 'RSA', '-pkeyopt', 'rsa_keygen_bits:2048', '-out', 'issuing.key');
  issue('issuing', 'root', 'basicConstraints=critical,CA:true,pathlen:0', 'keyUsage=critical,keyCertSign,cRLSign');
  openssl('req', ...newKeyOptions[algorithm], '-nodes', '-keyout', 'tsu.key', '-out', 'unused.csr', '-subj', '/CN=unused');
  issue('tsu', 'issuing', 'keyUsage=critical,digitalSignature', 'extendedKeyUsage=critical,timeStamping');
  openssl('pkcs8', '-topk8', '-nocrypt', '-in', 'tsu.key', '-out', 'tsu.p8');
  writeFileSync(file('chain.pem'), readFileSync(file('tsu.pem'), 'utf8') + readFileSync(file('issuing.pem'), 'utf8'));
  return { keyFile: file('tsu.p8'), chainFile: file('chain.pem'), rootsFile: file('root.pem') };
};
