import assert from 'node:assert/strict';
import { execFile, spawnSync } from 'node:child_process';
import { describe, mock, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { createEntryProgress } from '../../bin/commands/entry-progress.ts';

const fixture = fileURLToPath(new URL('fixtures/entry-progress.ts', import.meta.url));
const noScript = spawnSync('script', ['--version']).status === 0 ? false : 'script (util-linux), which makes a terminal, is not installed';

describe('the progress of a pass over entries', () => {
  test('without a terminal: a line every five seconds, and none before', async () => {
    const lines: string[] = [];
    let nowMs = 1_000;
    const clock = mock.method(performance, 'now', () => nowMs);
    const terminal = Object.getOwnPropertyDescriptor(process.stderr, 'isTTY');
    Object.defineProperty(process.stderr, 'isTTY', { value: false, configurable: true });
    const written = mock.method(process.stderr, 'write', (text: string) => lines.push(text) > 0);
    try {
      const progress = await createEntryProgress('verified');
      for (const [seconds, count] of [
        [0, 0],
        [4.9, 9_000],
        [5, 10_000],
        [9.9, 20_000],
        [10, 1_000_000],
      ] as const) {
        nowMs = 1_000 + seconds * 1_000;
        progress.update(count, 2_000_000);
      }
      progress.close();
      progress.close();
    } finally {
      written.mock.restore();
      clock.mock.restore();
      if (terminal === undefined) Reflect.deleteProperty(process.stderr, 'isTTY');
      else Object.defineProperty(process.stderr, 'isTTY', terminal);
    }
    assert.deepEqual(lines, ['sigillo: verified 10,000 of 2,000,000 entries\n', 'sigillo: verified 1,000,000 of 2,000,000 entries\n']);
  });

  test('what is piped stays clean', async () => {
    const { stdout, stderr } = await promisify(execFile)(process.execPath, [fixture]);
    assert.deepEqual([stdout, stderr], ['the verdict\n', '']);
  });

  test('at a terminal: a bar, which gives the terminal back and leaves nothing', { skip: noScript }, async () => {
    const command = `'${process.execPath}' '${fixture}'`;
    const running = promisify(execFile)('script', ['-qec', command, '/dev/null'], { env: { ...process.env, TERM: 'xterm' } });
    running.child.stdin?.end();
    const { stdout } = await running;
    assert.match(stdout, /░{10,} 0% {2}0\/400 entries/);
    assert.match(stdout, /█+░+ 25% {2}100\/400 entries {2}\S+ left/);
    assert.match(stdout, /█+░+ 50% {2}400\/800 entries/);
    const [hidden, shown] = ['\u001b[?25l', '\u001b[?25h'].map((code) => stdout.lastIndexOf(code)) as [number, number];
    assert.ok(hidden !== -1 && shown > hidden, 'the cursor stays hidden');
    // Everything behind the bar is the verdict, at the begin of a line that was cleared.
    const rest = stdout.slice(stdout.lastIndexOf('entries'));
    assert.ok(rest.includes('\u001b[0K') || rest.includes('\u001b[0J') || rest.includes('\u001b[2K'), JSON.stringify(rest));
    assert.ok(rest.endsWith('the verdict\r\n'), JSON.stringify(rest));
  });
});
