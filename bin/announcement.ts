/** What a person sees when the service is ready: where it is, and a line that proves it with tools which are not ours. */
import { isIPv6 } from 'node:net';
import type { Config } from '../config/schema.ts';

const wildcards: Readonly<Record<string, string>> = { '0.0.0.0': '127.0.0.1', '::': '::1' };

/** A URL that this machine can open, also when the service listens on every address. */
const localUrl = ({ host, port }: { readonly host: string; readonly port: number }): string => {
  const reachable = wildcards[host] ?? host;
  return `http://${isIPv6(reachable) ? `[${reachable}]` : reachable}:${port}`;
};

/** One line for bash: fetches a timestamp with curl and verifies it with OpenSSL, in a temporary folder. */
export const verificationLine = (config: Config): string => {
  const url = localUrl(config.public);
  const credential = config.timestamp.access === 'clients' ? `-u 'NAME:SECRET' ` : '';
  return [
    `cd "$(mktemp -d)" && date > note.txt`,
    `curl -sSfO ${url}/repository/trust.pem -O ${url}/repository/tsa-chain.pem`,
    `openssl ts -query -data note.txt -sha256 -cert | curl -sSf ${credential}-H 'Content-Type: application/timestamp-query' --data-binary @- -o note.tsr ${url}/tsa`,
    `openssl ts -verify -data note.txt -in note.tsr -CAfile trust.pem -untrusted tsa-chain.pem`,
  ].join(' && ');
};

/** The lines printed when gateway and signer are ready. */
export const announcement = (config: Config): string =>
  [
    '',
    'Sigillo is ready.',
    '',
    `  timestamps   ${localUrl(config.public)}/tsa`,
    `  certificates ${localUrl(config.public)}/repository/trust.pem  ${localUrl(config.public)}/repository/tsa-chain.pem`,
    `  operations   ${localUrl(config.ops)}/readyz  ${localUrl(config.ops)}/metrics`,
    '  journal      npx sigillo journal search  npx sigillo journal verify',
    '',
    config.timestamp.access === 'clients'
      ? 'To try it, put the name and secret of a client (npx sigillo client add NAME) into this line and paste it:'
      : 'To try it, paste this line:',
    '',
    `(${verificationLine(config)})`,
    '',
    '',
  ].join('\n');
