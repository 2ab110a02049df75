/** The commands `sigillo tsu ...` and their help; each loads its own parts when it runs. */
import type { Command } from 'commander';
import type { ApproveOptions } from './commands/approve.ts';
import type { MinutesOptions } from './commands/minutes.ts';
import type { CompromiseOptions, RetireOptions, RotateOptions, TsuListOptions } from './commands/tsu.ts';
import type { RequestOptions } from './commands/tsu-outside.ts';

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

const addOutside = (tsu: Command): void => {
  tsu
    .command('request')
    .description('make a key for an outside CA and write its PKCS#10 request; a key that waits for its certificate is used again')
    .requiredOption('--subject <name>', 'such as "C=IT,O=Example S.p.A.,CN=Example TSU 4"')
    .requiredOption('--out <file>', 'file to write, PEM')
    .option('--token <label>', 'the token (default: the first for timestamps)')
    .option('--force', 'replace the file if it exists')
    .addHelpText('after', example('tsu request --subject "C=IT,O=Example S.p.A.,CN=Example TSU 4" --out tsu-4.csr'))
    .action(async (options: RequestOptions) => {
      const { requestCommand } = await import('./commands/tsu-outside.ts');
      await requestCommand(options);
    });
  tsu
    .command('install')
    .argument('<pem>', 'the certificate of the TSU, then those of its CAs')
    .description('take the certificate of an outside CA: checks key, purpose, validity, chain to trust.rootsFile and profile')
    .addHelpText('after', example('tsu install tsu-4.pem'))
    .action(async (file: string) => {
      const { installCommand } = await import('./commands/tsu-outside.ts');
      await installCommand(file);
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
  addOutside(tsu);
};

/** Adds `approve` and `minutes`: dual control. */
export const addCeremonyCommands = (program: Command): void => {
  program
    .command('approve')
    .argument('[ceremony]', 'id of the ceremony')
    .description('approve a step with a key, as an operator with a key of your own (dualControl in the configuration)')
    .option('--list', 'show the ceremonies, and who has approved')
    .option('--operator <name>', 'who you are, as the configuration names you')
    .option('--key <pem>', 'your private key: Ed25519, or EC P-256 or P-384')
    .option('--passphrase-file <file>', 'file with the passphrase of --key in its first line')
    .option('--text', 'print what is to be signed, for a key that is elsewhere')
    .option('--signature <file>', 'signature over that text, instead of --key')
    .option('--json', 'as JSON, with --list')
    .addHelpText('after', example('approve --list', 'approve 4f0c2a7be19d3356 --operator anna --key anna.pem --passphrase-file anna.pass'))
    .action(async (id: string | undefined, options: ApproveOptions) => {
      const { approveCommand } = await import('./commands/approve.ts');
      await approveCommand(id, options);
    });
  program
    .command('minutes')
    .argument('<what...>', 'id of the ceremony, and the file to write; with --all only the file')
    .description('write the minutes of key ceremonies, signed with the key of the journal; openssl dgst verifies them')
    .option('--all', 'of every ceremony')
    .option('--force', 'replace the file if it exists')
    .addHelpText('after', example('minutes 4f0c2a7be19d3356 minutes.txt', 'minutes --all minutes-2026.txt'))
    .action(async (target: string[], options: MinutesOptions) => {
      const { minutesCommand } = await import('./commands/minutes.ts');
      await minutesCommand(target, options);
    });
};
