/**
 * The programs that come from the system and not from npm. On Debian and its relatives they are installed, each with its
 * reason; elsewhere the commands are printed, because guessing on a system we do not test on could do harm.
 */
import { spawnSync } from 'node:child_process';
import { accessSync, constants, existsSync, readFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';

/** Where Debian, Fedora, Alpine, Arch and Homebrew put the module. */
const softhsmModules = [
  '/usr/lib/softhsm/libsofthsm2.so',
  '/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so',
  '/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so',
  '/usr/lib64/pkcs11/libsofthsm2.so',
  '/usr/lib64/softhsm/libsofthsm2.so',
  '/usr/lib/pkcs11/libsofthsm2.so',
  '/usr/local/lib/softhsm/libsofthsm2.so',
  '/opt/homebrew/lib/softhsm/libsofthsm2.so',
];

const inPath = (program) =>
  (process.env['PATH'] ?? '').split(delimiter).some((folder) => {
    try {
      accessSync(join(folder, program), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });

/** Package names by package manager; one name stands for all of them. */
const needs = [
  {
    name: 'softhsm2',
    why: 'a PKCS#11 token in software, for keys until a real HSM is configured',
    packages: { dnf: 'softhsm', apk: 'softhsm', pacman: 'softhsm', brew: 'softhsm' },
    present: () => softhsmModules.some(existsSync),
  },
  {
    name: 'redis-server',
    why: 'the queue between gateway and signer; Sigillo runs a private one of its own',
    packages: { dnf: 'redis', apk: 'redis', pacman: 'redis', brew: 'redis' },
    present: () => inPath('redis-server'),
  },
  { name: 'openssl', why: 'verifies timestamps with a tool that is not ours', present: () => inPath('openssl') },
  { name: 'curl', why: 'fetches a timestamp from the command line', present: () => inPath('curl') },
  {
    name: 'python3',
    why: 'node-gyp needs it to compile pkcs11js',
    packages: { pacman: 'python' },
    compiling: true,
    present: () => inPath('python3'),
  },
  { name: 'make', why: 'node-gyp needs it to compile pkcs11js', compiling: true, present: () => inPath('make') },
  {
    name: 'g++',
    why: 'node-gyp needs it to compile pkcs11js',
    packages: { dnf: 'gcc-c++', pacman: 'gcc', brew: 'gcc' },
    compiling: true,
    present: () => inPath('g++'),
  },
];

/** What only a few tests need, which are skipped without it: Debian has it, others may not. */
const testNeeds = [
  {
    name: 'clickhouse-server',
    why: 'a ClickHouse server for the tests that stop and kill one; it is not run as a service',
    // Debian puts it where only root looks by itself.
    present: () => inPath('clickhouse-server') || existsSync('/usr/sbin/clickhouse-server'),
    service: 'clickhouse-server',
  },
  {
    name: 'chrony',
    why: 'NTP servers for the tests of the clock, on the loopback; it is not run as a service and sets no clock',
    present: () => inPath('chronyd') || existsSync('/usr/sbin/chronyd'),
    service: 'chrony',
  },
  {
    name: 'faketime',
    why: 'gives the tests of the clock a wrong time without setting that of the machine',
    present: () => inPath('faketime'),
  },
];

/** Install commands of the systems whose package names are known, by ID or ID_LIKE of os-release(5). */
const managers = [
  { ids: ['debian', 'ubuntu'], key: 'apt', command: 'apt-get install --yes --no-install-recommends' },
  { ids: ['fedora', 'rhel', 'centos'], key: 'dnf', command: 'dnf install --assumeyes' },
  { ids: ['alpine'], key: 'apk', command: 'apk add' },
  { ids: ['arch'], key: 'pacman', command: 'pacman -S --needed' },
  { ids: ['darwin'], key: 'brew', command: 'brew install' },
];

const systemIds = () => {
  if (process.platform !== 'linux') return [process.platform];
  try {
    const text = readFileSync('/etc/os-release', 'utf8');
    return [...text.matchAll(/^(?:ID|ID_LIKE)=(.*)$/gm)].flatMap((match) => match[1].replaceAll(/["']/g, '').split(/\s+/));
  } catch {
    return []; // a system that does not say what it is, is one we do not know
  }
};

const packageName = (need, key) => need.packages?.[key] ?? need.name;

const listed = (missing, key) => missing.map((need) => `  ${packageName(need, key).padEnd(14)} ${need.why}`).join('\n');

const byHand = (missing, manager, reason) => {
  const privileged = manager?.key === 'brew' ? '' : 'sudo ';
  const command =
    manager === undefined
      ? 'Install these programs with the package manager of your system.'
      : `Run this, then start again:\n\n  ${privileged}${manager.command} ${missing.map((need) => packageName(need, manager.key)).join(' ')}`;
  return new Error(
    `${reason}\n\nMissing:\n${listed(missing, manager?.key)}\n\n${command}\n\n` +
      'With an HSM and a Redis of your own, neither softhsm2 nor redis-server is needed: run `npm ci`, then `npx sigillo start`.',
  );
};

const isRoot = process.getuid?.() === 0;
/** A system service can be managed only where systemd is the init that runs. */
const systemdRuns = () => existsSync('/run/systemd/system') && inPath('systemctl');

/** @returns true when the command succeeded */
const asRoot = (command, args, { quiet } = { quiet: false }) => {
  // sudo drops the environment, so what apt needs is set on its far side.
  const line = ['env', 'DEBIAN_FRONTEND=noninteractive', command, ...args];
  if (!isRoot) line.unshift('sudo');
  const result = spawnSync(line[0], line.slice(1), { stdio: quiet ? ['inherit', 'ignore', 'ignore'] : 'inherit' });
  return result.status === 0;
};

/** Services that Debian starts as soon as their package is installed, and why nobody asked for them. */
const unwanted = {
  'redis-server': 'Redis service is kept off: Sigillo runs a private Redis on a unix socket instead.',
  'clickhouse-server': 'ClickHouse service is kept off: tests run one of their own.',
  chrony: 'time daemon is kept as it is: tests run chrony without it.',
};

/** Installs a package without its service. A service that was there before us is left alone. */
const installWithoutService = (name, install) => {
  const service = `${name}.service`;
  if (systemdRuns()) {
    console.log(`The system's own ${unwanted[name]}`);
    asRoot('systemctl', ['mask', '--runtime', service], { quiet: true });
    const installed = install();
    asRoot('systemctl', ['unmask', '--runtime', service], { quiet: true });
    asRoot('systemctl', ['disable', '--now', service], { quiet: true });
    return installed;
  }
  const installed = install();
  if (existsSync(`/etc/init.d/${name}`)) {
    console.log(`The system's own ${unwanted[name]}`);
    asRoot(`/etc/init.d/${name}`, ['stop'], { quiet: true });
    asRoot('update-rc.d', [name, 'disable'], { quiet: true });
  }
  return installed;
};

const aptInstall = (names) => asRoot('apt-get', ['install', '--yes', '--quiet', '--no-install-recommends', ...names]);

const installWithApt = (missing, manager) => {
  console.log(`Sigillo needs these packages of the system and installs them now:\n${listed(missing, 'apt')}\n`);
  // A failing update (one mirror of several) may still leave lists that are good enough; the install decides.
  asRoot('apt-get', ['update', '--quiet']);
  const names = missing.map((need) => need.name);
  const install = () => aptInstall(names);
  const installed = names.includes('redis-server') ? installWithoutService('redis-server', install) : install();
  if (!installed) throw byHand(missing, manager, 'apt-get failed; its lines above say why.');
};

/**
 * Makes sure that the system's programs are there. Throws with a message for the user when they are not and cannot be installed.
 *
 * @param {{ compiling: boolean }} options compiling: npm packages are going to be built
 */
export const ensurePrograms = ({ compiling }) => {
  const absent = () => needs.filter((need) => (compiling || need.compiling !== true) && !need.present());
  const missing = absent();
  if (missing.length === 0) return;
  const ids = systemIds();
  const manager = managers.find((one) => one.ids.some((id) => ids.includes(id)));
  if (manager === undefined) throw byHand(missing, undefined, 'This system is not one that Sigillo can set up by itself.');
  if (manager.key !== 'apt') throw byHand(missing, manager, 'On this system Sigillo installs nothing by itself.');
  if (!inPath('apt-get')) throw byHand(missing, manager, 'apt-get is not in PATH.');
  if (!isRoot && !inPath('sudo')) throw byHand(missing, manager, 'Installing packages needs root, and there is no sudo.');
  installWithApt(missing, manager);
  const still = absent();
  if (still.length > 0) throw byHand(still, manager, 'apt-get succeeded, but some programs are still not found.');
};

/** Installs what only tests need where that is simple; otherwise they say that they are skipped, and why. */
export const offerTestPrograms = () => {
  // Nobody is asked for a password for the sake of a test.
  const mayInstall = isRoot || (inPath('sudo') && spawnSync('sudo', ['-n', 'true'], { stdio: 'ignore' }).status === 0);
  if (!inPath('apt-get') || !mayInstall) return;
  for (const { name, why, service } of testNeeds.filter((need) => !need.present())) {
    const plan = spawnSync('apt-get', ['install', '--simulate', '--no-install-recommends', name], { encoding: 'utf8' });
    // Not every relative of Debian has it. And no test is worth another package: chrony would push out the time daemon of a machine.
    if (plan.status !== 0 || /^Remv /m.test(plan.stdout)) continue;
    console.log(`The tests use a package of the system, which is installed now:\n  ${name.padEnd(14)} ${why}\n`);
    if (service === undefined) aptInstall([name]);
    else installWithoutService(service, () => aptInstall([name]));
  }
};
