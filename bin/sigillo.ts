/**
 * The command line: `sigillo COMMAND`. Each command loads its own parts when it runs, so that none pays for another.
 *
 * Exit codes: 0 done; 1 something failed, or a timestamp is not valid; 64 wrong usage and 78 wrong configuration (sysexits.h).
 */
import { Command, CommanderError } from 'commander';
import type { ClientCommandOptions } from './commands/client.ts';
import type { StampCommandOptions } from './commands/timestamp.ts';
import type { VerifyCommandOptions } from './commands/timestamp-verify.ts';

const exitFailure = 1;
const exitUsage = 64;
const exitConfig = 78;

const example = (...lines: readonly string[]): string => `\nExample:\n${lines.map((line) => `  $ sigillo ${line}`).join('\n')}`;

const addServiceCommands = (program: Command): void => {
  program
    .command('start')
    .description('set up the home folder if needed and run the whole service until SIGTERM or Ctrl-C')
    .addHelpText('after', example('start'))
    .action(async () => {
      const { startService } = await import('./commands/service.ts');
      process.exitCode = await startService();
    });
  program
    .command('init')
    .description('set up the home folder (tokens, keys, demonstration PKI) and stop; what is there is kept')
    .addHelpText('after', example('init'))
    .action(async () => {
      const { initHome } = await import('./commands/service.ts');
      await initHome();
    });
  program
    .command('gateway')
    .description('run one gateway alone: the public API in front of Redis')
    .addHelpText('after', example('gateway'))
    .action(async () => {
      await import('./gateway.ts');
    });
  program
    .command('signer')
    .description('run one signer alone: the process that owns the PKCS#11 module')
    .addHelpText('after', example('signer'))
    .action(async () => {
      await import('./signer.ts');
    });
};

const addConfigCommands = (program: Command): void => {
  const config = program.command('config').description('look at the configuration: file (SIGILLO_CONFIG) and environment');
  config
    .command('check')
    .description('say whether the configuration is right; otherwise name every bad key and exit with 78')
    .addHelpText('after', example('config check'))
    .action(async () => {
      const { checkConfig } = await import('./commands/config.ts');
      if (!checkConfig()) process.exitCode = exitConfig;
    });
  config
    .command('show')
    .description('print the configuration in force, defaults included, secrets masked')
    .option('--json', 'as JSON instead of YAML')
    .addHelpText('after', example('config show', 'config show --json'))
    .action(async (options: { json?: true }) => {
      const { showConfig } = await import('./commands/config.ts');
      showConfig(options);
    });
};

const addClientCommands = (program: Command): void => {
  const client = program.command('client').description('keep the register of clients, for timestamp.access: clients');
  client
    .command('add')
    .argument('<name>', '1 to 64 letters, digits, dots, hyphens or underscores')
    .description('add a client and print its secret, once')
    .option('--json', 'as JSON')
    .addHelpText('after', example('client add bank-1'))
    .action(async (name: string, options: ClientCommandOptions) => {
      const { addToRegister } = await import('./commands/client.ts');
      await addToRegister(name, options);
    });
  client
    .command('list')
    .description('list the clients with state, day of creation and stamps counted')
    .option('--json', 'as JSON')
    .addHelpText('after', example('client list'))
    .action(async (options: ClientCommandOptions) => {
      const { listRegister } = await import('./commands/client.ts');
      await listRegister(options);
    });
  for (const [verb, what] of [
    ['disable', 'refuse a client, within a second, until it is enabled again'],
    ['enable', 'let a disabled client in again, with its old secret'],
    ['remove', 'remove a client; its name can be given anew'],
  ] as const) {
    client
      .command(verb)
      .argument('<name>')
      .description(what)
      .addHelpText('after', example(`client ${verb} bank-1`))
      .action(async (name: string) => {
        const { changeRegister } = await import('./commands/client.ts');
        await changeRegister(verb, name);
      });
  }
};

const addTimestampCommands = (program: Command): void => {
  const timestamp = program
    .command('timestamp')
    .argument('<paths...>', 'files, and folders with all that is in them')
    .description('get a timestamp for each file and write it beside the file as FILE.tsr')
    .option('--server <url>', 'address of the service (default: the public address of the configuration)')
    .option('--digest <name>', 'sha256, sha384, sha512, sha3-256, sha3-384 or sha3-512', 'sha256')
    .option('--policy <oid>', 'policy to ask for (default: that of the service)')
    .option('--user <name>', 'client name for HTTP Basic; needs --secret-file')
    .option('--secret-file <file>', 'file with the secret of --user in its first line')
    .option('--bearer-file <file>', 'file with a bearer key in its first line')
    .option('--force', 'replace a .tsr file that exists')
    .option('--no-cert', 'ask for tokens without certificates')
    .addHelpText('after', example('timestamp contract.pdf', 'timestamp --user bank-1 --secret-file secret.txt archive/'))
    .action(async (paths: string[], options: StampCommandOptions) => {
      const { stampPaths } = await import('./commands/timestamp.ts');
      if (!(await stampPaths(paths, options))) process.exitCode = exitFailure;
    });
  timestamp
    .command('verify')
    .argument('<files...>', 'the files that were stamped')
    .description('verify each file against its timestamp FILE.tsr')
    .option('--tsr <file>', 'the timestamp, when it is not FILE.tsr; with one file only')
    .option('--trust <pem>', 'trusted root certificates (default: those of the configuration)')
    .option('--chain <pem>', 'further certificates, for timestamps without certificates; trusted for nothing')
    .option('--json', 'as JSON')
    .addHelpText('after', example('timestamp verify contract.pdf', 'timestamp verify --trust trust.pem archive/*.pdf'))
    .action(async (files: string[], options: VerifyCommandOptions) => {
      const { verifyFiles } = await import('./commands/timestamp-verify.ts');
      if (!(await verifyFiles(files, options))) process.exitCode = exitFailure;
    });
};

const buildProgram = (): Command => {
  const program = new Command('sigillo')
    .description('A trust-service engine: RFC 3161 timestamps with keys that never leave PKCS#11 hardware.')
    // Each command reads the options behind its own name: `timestamp` and `timestamp verify` have different ones.
    .enablePositionalOptions()
    .showHelpAfterError('(--help says more)')
    .exitOverride()
    .addHelpText('after', example('start', 'timestamp contract.pdf'));
  addServiceCommands(program);
  addConfigCommands(program);
  addClientCommands(program);
  addTimestampCommands(program);
  return program;
};

const exitCodeOf = async (error: unknown): Promise<number> => {
  // commander has printed its message already; asking for help is no error.
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : exitUsage;
  const { SigilloError } = await import('../config/errors.ts');
  if (!(error instanceof SigilloError)) {
    process.stderr.write(`sigillo: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`);
    return exitFailure;
  }
  process.stderr.write(`sigillo: ${error.code}: ${error.message}\nsigillo: what to do: ${error.entry.action}\n`);
  if (error.code === 'INTERNAL' && error.stack !== undefined) process.stderr.write(`${error.stack}\n`);
  if (error.code === 'USAGE') return exitUsage;
  return error.code.startsWith('CONFIG_') ? exitConfig : exitFailure;
};

try {
  await buildProgram().parseAsync(process.argv);
} catch (error) {
  process.exitCode = await exitCodeOf(error);
}
