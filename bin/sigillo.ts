/**
 * The command line: `sigillo COMMAND`. Each command loads its own parts when it runs, so that none pays for another.
 *
 * Exit codes: 0 done; 1 something failed, was not found, is not valid, or not signed; 64 wrong usage and 78 wrong configuration (sysexits.h).
 */
import { Command, CommanderError } from 'commander';
import type { AddClientOptions, ClientCommandOptions } from './commands/client.ts';
import type { ExportCommandOptions } from './commands/journal-export.ts';
import type { SearchCommandOptions } from './commands/journal-search.ts';
import type { StatsCommandOptions } from './commands/journal-stats.ts';
import type { VerifyJournalOptions } from './commands/journal-verify.ts';
import type { StampCommandOptions } from './commands/timestamp.ts';
import type { FindCommandOptions } from './commands/timestamp-find.ts';
import type { VerifyCommandOptions } from './commands/timestamp-verify.ts';
import { addHsmCommands } from './hsm-program.ts';
import { addCeremonyCommands, addTsuCommands } from './tsu-program.ts';

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
  program
    .command('lifecycle')
    .description('run one lifecycle process alone: it makes, certifies, retires and destroys the keys of its tokens by the calendar')
    .addHelpText('after', example('lifecycle'))
    .action(async () => {
      await import('./lifecycle.ts');
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
  config
    .command('digest')
    .description('print the SHA-256 of the configuration in force, as the journal has it in service.started (configSha256)')
    .option('--text', 'print the text that it is the digest of instead, secrets not masked')
    .addHelpText('after', example('config digest', 'config digest --text | sha256sum'))
    .action(async (options: { text?: true }) => {
      const { showConfigDigest } = await import('./commands/config.ts');
      showConfigDigest(options);
    });
};

const addClientCommands = (program: Command): void => {
  const client = program.command('client').description('keep the register of clients and auditors');
  client
    .command('add')
    .argument('<name>', '1 to 64 letters, digits, dots, hyphens or underscores')
    .description('add a client and print its secret, once')
    .option('--role <role>', 'client: stamps, and reads its own stamps; auditor: reads archive and journal, and stamps nothing', 'client')
    .option('--json', 'as JSON')
    .addHelpText('after', example('client add bank-1', 'client add --role auditor ms-rossi'))
    .action(async (name: string, options: AddClientOptions) => {
      const { addToRegister } = await import('./commands/client.ts');
      await addToRegister(name, options);
    });
  client
    .command('secret')
    .argument('<name>')
    .description('give a client a new secret and print it, once; the old one is refused within a second')
    .option('--json', 'as JSON')
    .addHelpText('after', example('client secret bank-1'))
    .action(async (name: string, options: ClientCommandOptions) => {
      const { renewSecret } = await import('./commands/client.ts');
      await renewSecret(name, options);
    });
  client
    .command('list')
    .description('list the clients with role, state, day of creation and stamps counted')
    .option('--json', 'as JSON')
    .addHelpText('after', example('client list'))
    .action(async (options: ClientCommandOptions) => {
      const { listRegister } = await import('./commands/client.ts');
      await listRegister(options);
    });
  client
    .command('role')
    .argument('<name>')
    .argument('<role>', 'client or auditor')
    .description('give a client another role; it holds within a second')
    .addHelpText('after', example('client role ms-rossi auditor'))
    .action(async (name: string, role: string) => {
      const { changeRole } = await import('./commands/client.ts');
      await changeRole(name, role);
    });
  for (const [verb, what] of [
    ['disable', 'refuse a client, within a second, until it is enabled again'],
    ['enable', 'let a disabled client in again, with its old secret'],
    ['remove', 'remove a client for ever; its name is not given again'],
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
  addFindCommand(timestamp);
};

const addFindCommand = (timestamp: Command): void => {
  timestamp
    .command('find')
    .description('find timestamps in the archive, newest first, by all that is given')
    .option('--serial <hex>', 'serial number')
    .option('--file <file>', 'a file that was stamped, under any digest')
    .option('--imprint <digest:hex>', 'hash that was stamped, such as sha256:9f86d0...')
    .option('--client <name>', 'client that asked for it')
    .option('--from <time>', 'not before this time, ISO 8601')
    .option('--to <time>', 'before this time, ISO 8601')
    .option('--limit <number>', 'most timestamps to show', '100')
    .option('--out <folder>', 'write each as FOLDER/SERIAL.tsr')
    .option('--json', 'as JSON, with the tokens')
    .option('--offline', 'read the store of a stopped service; without Redis the reading is not recorded')
    .addHelpText(
      'after',
      example('timestamp find --file contract.pdf --out found', 'timestamp find --client bank-1 --from 2026-11-01 --json'),
    )
    .action(async (options: FindCommandOptions) => {
      const { findTimestamps } = await import('./commands/timestamp-find.ts');
      if (!(await findTimestamps(options))) process.exitCode = exitFailure;
    });
};

const storeOption = ['--store <folder>', 'a copy of the folder of an embedded store, instead of the journal of the configuration'] as const;
const repeated = (value: string, before: readonly string[] = []): string[] => [...before, value];

const addJournalReading = (journal: Command): void => {
  journal
    .command('search')
    .description('show entries that match all that is given, newest first; reading is itself recorded')
    .option('--kind <kind>', 'kind of event; time.* for all that begin with time.')
    .option('--actor <name>', 'client, operator or program that did it')
    .option('--subject <text>', 'what it was done to, such as a serial number; abc* for all that begin with abc')
    .option('--outcome <outcome>', 'success, refused or failure')
    .option('--node <host>', 'host that it happened on')
    .option('--from <time>', 'not before this time, ISO 8601')
    .option('--to <time>', 'before this time, ISO 8601')
    .option('--limit <number>', 'most entries to show', '100')
    .option('--oldest-first', 'the first entries instead of the newest')
    .option('--json', 'whole entries, one JSON object a line')
    .option(...storeOption)
    .addHelpText('after', example('journal search --kind authentication.failed --from 2026-11-01', "journal search --kind 'time.*' --json"))
    .action(async (options: SearchCommandOptions) => {
      const { searchJournal } = await import('./commands/journal-search.ts');
      if (!(await searchJournal(options))) process.exitCode = exitFailure;
    });
  journal
    .command('stats')
    .description('count entries, and the occurrences they stand for, by kind, outcome and time')
    .option('--from <time>', 'not before this time, ISO 8601')
    .option('--to <time>', 'before this time, ISO 8601')
    .option('--by <unit>', 'hour, day or month (default: what makes a readable picture)')
    .option('--picture <file>', 'draw it as SVG into this file')
    .option('--json', 'as JSON')
    .option(...storeOption)
    .addHelpText('after', example('journal stats --by day', 'journal stats --from 2026-11-01 --picture november.svg'))
    .action(async (options: StatsCommandOptions) => {
      const { showStatistics } = await import('./commands/journal-stats.ts');
      await showStatistics(options);
    });
};

const addJournalProof = (journal: Command): void => {
  journal
    .command('verify')
    .description('check chain, roots, signatures and timestamps, and name the first entry that is wrong')
    .option('--from <sequence>', 'first entry; the check begins at the checkpoint before it')
    .option('--to <sequence>', 'before this entry; the check ends at the checkpoint behind it')
    .option('--bundle <file>', 'an exported range instead of the store')
    .option(...storeOption)
    .option('--key <pem>', 'public key of the journal (default: that of the home folder); again for each key it had', repeated)
    .option('--origin <name>', 'name of the journal in its checkpoints (default: that of the configuration)')
    .option('--trust <pem>', 'trusted root certificates of timestamps (default: those of the configuration)')
    .option('--checkpoint <file>', 'a checkpoint that you have kept; may be given again', repeated)
    .option('--json', 'as JSON')
    .addHelpText('after', example('journal verify', 'journal verify --bundle november.bundle --key journal.pem --trust roots.pem'))
    .action(async (options: VerifyJournalOptions) => {
      const { verifyStoredJournal } = await import('./commands/journal-verify.ts');
      if (!(await verifyStoredJournal(options))) process.exitCode = exitFailure;
    });
  journal
    .command('export')
    .description('write a range as a bundle, which `journal verify --bundle` accepts elsewhere')
    .option('--from <place>', 'sequence number, or time in ISO 8601 (default: the first entry)')
    .option('--to <place>', 'before this entry or time (default: all that the newest checkpoint covers)')
    .requiredOption('--out <file>', 'file to write')
    .option('--recipient <pem>', 'encrypt to the holder of this certificate; openssl cms -decrypt reads it')
    .option('--force', 'replace the file if it exists')
    .option(...storeOption)
    .option('--key <pem>', 'public key of the journal (default: that of the home folder)')
    .option('--origin <name>', 'name of the journal in its checkpoints (default: that of the configuration)')
    .addHelpText('after', example('journal export --from 2026-11-01 --to 2026-12-01 --recipient auditor.pem --out november.cms'))
    .action(async (options: ExportCommandOptions) => {
      const { exportJournal } = await import('./commands/journal-export.ts');
      await exportJournal(options);
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
  addHsmCommands(program);
  addTsuCommands(program);
  addCeremonyCommands(program);
  const journal = program.command('journal').description('read the journal, and prove that nobody has changed it');
  journal
    .command('run')
    .description('run one journal process alone: it writes while no other does, and stands by otherwise')
    .addHelpText('after', example('journal run'))
    .action(async () => {
      await import('./journal.ts');
    });
  addJournalReading(journal);
  addJournalProof(journal);
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
