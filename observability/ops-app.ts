/**
 * The operations address: is the process alive, can the service do its job, what did it count.
 *
 * It never fails because a dependency fails: an unknown state is reported as a failed dependency.
 */
import { Hono } from 'hono';

/** One thing that the service needs, by name. */
export interface HealthItem {
  readonly name: string;
  readonly ok: boolean;
  readonly detail: string;
  /** false: the service does its job without it, because something else does the same. @defaultValue true */
  readonly needed?: boolean;
}

export interface OpsSources {
  /** The state of each dependency; an empty list means that nothing is needed. */
  readonly health: () => Promise<readonly HealthItem[]>;
  /** Prometheus text. */
  readonly metrics: () => Promise<string>;
}

const prometheusText = 'text/plain; version=0.0.4; charset=utf-8';
const paths = ['/healthz', '/readyz', '/metrics'];

/** The app of the operations address, over whatever the process can tell. */
export const createOpsApp = ({ health, metrics }: OpsSources): Hono => {
  const app = new Hono();
  app.use(async function noStore(context, next) {
    await next();
    context.header('Cache-Control', 'no-store');
  });
  app.get('/healthz', (context) => context.text('ok\n'));
  app.get('/readyz', async (context) => {
    const dependencies = await health().catch((): HealthItem[] => [{ name: 'health', ok: false, detail: 'the state cannot be told' }]);
    const ready = dependencies.every(({ ok, needed }) => ok || needed === false);
    return context.json({ ready, dependencies }, ready ? 200 : 503);
  });
  app.get('/metrics', async (context) => context.body(await metrics(), 200, { 'Content-Type': prometheusText }));
  for (const path of paths) {
    app.all(path, (context) => context.text('method not allowed: use GET\n', 405, { Allow: 'GET, HEAD' }));
  }
  app.notFound((context) => context.text(`not found: this address has ${paths.join(', ')}\n`, 404));
  app.onError((_error, context) => context.text('the metrics cannot be told\n', 500));
  return app;
};
