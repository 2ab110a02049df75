/** Preloaded into a process: says on stderr when it loads pkijs. */
import { registerHooks } from 'node:module';

registerHooks({
  resolve(specifier, context, next) {
    const resolved = next(specifier, context);
    if (resolved.url.includes('/node_modules/pkijs/')) process._rawDebug('pkijs is loaded');
    return resolved;
  },
});
