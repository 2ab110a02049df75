/** The journal process. */
import { startJournal } from '../observability/journal/service.ts';
import { createLogger } from '../observability/log.ts';
import { runChild } from './child.ts';

await runChild((config) => startJournal(config, createLogger(config.log, 'journal')));
