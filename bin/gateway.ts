/** The gateway process. */
import { startGateway } from '../gateway/service.ts';
import { createLogger } from '../observability/log.ts';
import { runChild } from './child.ts';

await runChild((config) => startGateway(config, createLogger(config.log, 'gateway')));
