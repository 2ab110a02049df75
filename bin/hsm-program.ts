/** The commands `sigillo hsm ...` and their help; each loads its own parts when it runs. */
import type { Command } from 'commander';
import type { DestroyOptions } from './commands/hsm-destroy.ts';
import type { KeygenOptions } from './commands/hsm-keygen.ts';
import type { HsmListOptions } from './commands/hsm-list.ts';
import type { SelftestOptions } from './commands/hsm-selftest.ts';

const exitFailure = 1;

const example = (...lines: readonly string[]): string => `\nExample:\n${lines.map((line) => `  $ sigillo ${line}`).join('\n')}`;
const slotOption = ['--slot <label>', 'label of the token, as in the configuration'] as const;

const addKeyCommands = (hsm: Command): void => {
  hsm
    .command('keygen')
    .description('make a key pair in a token: it never leaves it, and only signs; prints its fingerprint and public half')
    .requiredOption(...slotOption)
    .requiredOption('--label <key>', 'label of the new key; none of this label may be there')
    .requiredOption('--algorithm <name>', 'such as ec-p256, rsa-3072 or rsa-pss-3072')
    .addHelpText('after', example('hsm keygen --slot tsa-2026 --label tsu-1 --algorithm rsa-3072'))
    .action(async (options: KeygenOptions) => {
      const { keygenCommand } = await import('./commands/hsm-keygen.ts');
      await keygenCommand(options);
    });
  hsm
    .command('destroy')
    .description('destroy a key pair for good; never one of a TSU that stamps or will (dual control: operators must approve)')
    .requiredOption(...slotOption)
    .requiredOption('--label <key>', 'label of the key')
    .option('--yes', 'do not ask for the label again')
    .option('--force', 'also the key of the journal or of a CA')
    .addHelpText('after', example('hsm destroy --slot tsa-2026 --label tsu-1'))
    .action(async (options: DestroyOptions) => {
      const { destroyCommand } = await import('./commands/hsm-destroy.ts');
      await destroyCommand(options);
    });
};

/** Adds `hsm` with all that belongs to it. */
export const addHsmCommands = (program: Command): void => {
  const hsm = program.command('hsm').description('the slots of the HSM: state, keys, tests (docs/hsm.md)');
  hsm
    .command('list')
    .description('list the slots with state, sessions, last error and signatures a second, and the keys in them')
    .option('--no-login', 'do not open the tokens: only what the signers tell')
    .option('--json', 'as JSON')
    .addHelpText('after', example('hsm list', 'hsm list --no-login --json'))
    .action(async (options: HsmListOptions) => {
      const { listSlotsCommand } = await import('./commands/hsm-list.ts');
      await listSlotsCommand(options);
    });
  addKeyCommands(hsm);
  hsm
    .command('selftest')
    .description(
      'sign with every key, verify outside the token, and measure how fast the slots for timestamps are; exits with 1 when one fails',
    )
    .option('--slot <label>', 'only this one')
    .addHelpText('after', example('hsm selftest', 'hsm selftest --slot tsa-2026'))
    .action(async (options: SelftestOptions) => {
      const { selftestCommand } = await import('./commands/hsm-selftest.ts');
      if (!(await selftestCommand(options))) process.exitCode = exitFailure;
    });
};
