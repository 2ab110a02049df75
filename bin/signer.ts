/** The signer process, of the slot that SIGILLO_SLOT names, or of the first one. */
import { createLogger } from '../observability/log.ts';
import { startSigner } from '../signer/service.ts';
import { runChild } from './child.ts';

await runChild((config) => startSigner(config, createLogger(config.log, 'signer'), { slot: process.env['SIGILLO_SLOT'] }));
