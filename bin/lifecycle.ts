/** The process for the life of timestamping keys. */
import { setPriority } from 'node:os';
import { createLogger } from '../observability/log.ts';
import { createApprovals } from '../signer/dual-control.ts';
import { startLifecycle } from '../signer/lifecycle-service.ts';
import { runChild } from './child.ts';
import { openEmbeddedAuthority } from './embedded-authority.ts';

/** Behind the stamps: a software token makes an RSA key in seconds of a whole core. */
setPriority(5);
await runChild((config) => {
  const log = createLogger(config.log, 'lifecycle');
  return startLifecycle(config, log, {
    openAuthority:
      config.timestamp.tsu.source === 'demonstration' ? (module, hsm) => openEmbeddedAuthority(config, module, hsm) : undefined,
    approvals: (redis, clock) =>
      createApprovals({ config, redis, log, now: () => new Date(), by: { role: 'system', actor: 'lifecycle', clock } }),
  });
});
