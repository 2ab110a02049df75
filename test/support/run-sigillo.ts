/** Runs the command line as a user would, in a process of its own. */
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const program = fileURLToPath(new URL('../../bin/sigillo.ts', import.meta.url));

export interface CommandResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/**
 * @param environment replaces every SIGILLO_* variable of the test's own environment
 * @param input what is typed; then the terminal is closed
 */
export const runSigillo = (
  parameters: readonly string[],
  environment: Readonly<Record<string, string>>,
  cwd?: string,
  input = '',
): Promise<CommandResult> =>
  new Promise((resolve, reject) => {
    const own = Object.entries(process.env).filter(([name]) => !name.startsWith('SIGILLO_') && name !== 'NODE_TEST_CONTEXT');
    const env = { ...Object.fromEntries(own), ...environment };
    const child = execFile(process.execPath, [program, ...parameters], { env, cwd, timeout: 60_000 }, (error, stdout, stderr) => {
      const code: unknown = error === null ? 0 : error.code;
      if (typeof code === 'number') resolve({ code, stdout, stderr });
      else reject(error ?? new Error('no exit code'));
    });
    child.stdin?.on('error', () => undefined); // most commands end without reading it
    child.stdin?.end(input);
  });
