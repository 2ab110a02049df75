/** The signer process. */
import { createLogger } from '../observability/log.ts';
import { startSigner } from '../signer/service.ts';
import { runChild } from './child.ts';

await runChild((config) => startSigner(config, createLogger(config.log, 'signer')));
