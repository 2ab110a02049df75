/** The commands `sigillo tsu ...` and their help; each loads its own parts when it runs. */
import type { Command } from 'commander';
import type { CompromiseOptions, RetireOptions, RotateOptions, TsuListOptions } from './commands/tsu.ts';

const exitFailure = 1;

const example = (...lines: readonly string[]): string => `\nExample:\n${lines.map((line) => `  $ sigillo ${line}`).join('\n')}`;
const wait = ['--wait <seconds>', 'how long to wait until it is done', '60'] as const;

const addChanges = (tsu: Command): void => {
  tsu
    .command('rotate')
    .description('make a new key and switch to it now, whatever the calendar says; the old one stands by until it is retired')
    .option('--token <label>', 'only in this token (default: in every one)')
    .option(...wait)
    .addHelpText('after', example('tsu rotate', 'tsu rotate --token tsa-2026'))
    .action(async (options: RotateOptions) => {
      const { rotateCommand } = await import('./commands/tsu.ts');
      if (!(await rotateCommand(options))) process.exitCode = exitFailure;
    });
  tsu
    .command('retire')
    .argument('<tsu>', 'key label, or first characters of the id')
    .description('retire a TSU before its time; its key is destroyed after the grace period, its certificate is not revoked')
    .option('--force', 'also when no other one stamps')
    .addHelpText('after', example('tsu retire tsu-ec-p256-3'))
    .action(async (name: string, options: RetireOptions) => {
      const { retireCommand } = await import('./commands/tsu.ts');
      await retireCommand(name, options);
    });
  tsu
    .command('compromise')
    .argument('<tsu>', 'key label, or first characters of the id')
    .description('stop a TSU at once and for good, revoke its certificate, and print what to tell clients')
    .requiredOption('--reason <text>', 'what happened, for journal and clients')
    .option(...wait)
    .addHelpText('after', example('tsu compromise tsu-ec-p256-3 --reason "the HSM was opened"'))
    .action(async (name: string, options: CompromiseOptions) => {
      const { compromiseCommand } = await import('./commands/tsu.ts');
      if (!(await compromiseCommand(name, options))) process.exitCode = exitFailure;
    });
};

/** Adds `tsu` with all that belongs to it. */
export const addTsuCommands = (program: Command): void => {
  const tsu = program
    .command('tsu')
    .description('the timestamping units: keys, certificates, and from when to when each may stamp (docs/key-lifecycle.md)');
  tsu
    .command('list')
    .description('list every TSU with state, time of use, days left and certificate')
    .option('--stamps', 'count the timestamps of each in the journal; this reads the journal for the time of its use')
    .option('--json', 'as JSON')
    .addHelpText('after', example('tsu list', 'tsu list --stamps --json'))
    .action(async (options: TsuListOptions) => {
      const { listTsusCommand } = await import('./commands/tsu.ts');
      await listTsusCommand(options);
    });
  addChanges(tsu);
};
