/** `sigillo start` and `sigillo init`. */
import { loadConfig } from '../../config/load.ts';

/** Runs the whole service; the exit code of the process when it has stopped. */
export const startService = async (): Promise<number> => {
  const config = loadConfig();
  const { superviseService } = await import('../supervisor.ts');
  return superviseService(config);
};

/** Sets up the home folder and says what it does. */
export const initHome = async (): Promise<void> => {
  const config = loadConfig();
  const { firstStart } = await import('../prepare-home.ts');
  await firstStart(config, (line) => process.stdout.write(`${line}\n`));
};
