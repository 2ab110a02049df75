import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { test } from 'node:test';
import {
  disturbanceOf,
  isAlive,
  listTree,
  machineCpuBetween,
  readCpuMicros,
  readResidentBytes,
  residentBytesOfStatus,
  roleOf,
  startOfStat,
  ticksOfStat,
  totalOf,
} from '../../bench/process-tree.ts';

test('roleOf tells the parts apart by their command lines', () => {
  assert.equal(roleOf('/opt/node\0/srv/sigillo/bin/gateway.ts\0'), 'gateway');
  assert.equal(roleOf('/opt/node\0--max-semi-space-size=16\0/srv/sigillo/bin/signer.ts\0'), 'signer');
  assert.equal(roleOf('redis-server unixsocket:/tmp/x/redis.sock\0'), 'redis');
  assert.equal(roleOf('/usr/bin/redis-server *:6379'), 'redis');
  assert.equal(roleOf('redis-aof-rewrite unixsocket:/tmp/redis.sock\0'), 'redis');
  assert.equal(roleOf('/opt/node\0bin/sigillo.ts\0start\0'), 'other');
  assert.equal(roleOf('/opt/node\0/home/redis/start.ts\0'), 'other');
  assert.equal(roleOf(''), 'other');
});

// Field 14 to 17 are utime, stime, cutime, cstime; 22 is starttime (proc(5)).
const stat = '1234 (a) b (c) S 1 1234 1234 0 -1 4194560 100 200 0 0 70 30 5 2 20 0 11 0 987654 1000000 2000';

test('ticksOfStat survives a command name with brackets and spaces', () => {
  assert.equal(ticksOfStat(stat), 107);
  assert.equal(startOfStat(stat), '987654');
});

test('residentBytesOfStatus reads VmRSS, and nothing of a zombie', () => {
  assert.equal(residentBytesOfStatus('Name:\tx\nVmHWM:\t  900 kB\nVmRSS:\t  512 kB\nThreads:\t1\n'), 524_288);
  assert.equal(residentBytesOfStatus('Name:\tx\nState:\tZ (zombie)\n'), 0);
});

test('machineCpuBetween parts busy, stolen and idle time', () => {
  const before = 'cpu  100 0 100 1000 0 0 0 0 0 0';
  const after = 'cpu  140 0 120 1030 0 0 0 10 0 0';
  const machine = machineCpuBetween(before, after);
  const { busyMicros, stolenMicros, allMicros } = machine;
  assert.equal(busyMicros / allMicros, 0.6);
  assert.equal(stolenMicros / allMicros, 0.1);
  assert.equal(disturbanceOf(machine, busyMicros), 0.1);
  assert.equal(disturbanceOf(machine, busyMicros * 2), 0, 'clocks of different grain never make it negative');
});

test('a child that computes is found, counted, and still counted when it has ended', async () => {
  const before = totalOf(readCpuMicros(process.pid));
  const child = spawn(process.execPath, [
    '-e',
    'const end = Date.now() + 400; while (Date.now() < end); console.log("done"); setTimeout(() => {}, 60_000)',
  ]);
  try {
    await once(child.stdout, 'data');
    const found = listTree(process.pid).find(({ pid }) => pid === child.pid);
    assert.ok(found !== undefined);
    assert.ok(isAlive(found));
    assert.ok(readResidentBytes(child.pid ?? 0).other > 10_000_000);
    // 400 ms by the clock are less CPU on a busy machine; half of it tells the unit is right.
    assert.ok(totalOf(readCpuMicros(process.pid)) - before > 100_000);
    child.kill('SIGKILL');
    await once(child, 'exit');
    assert.ok(!isAlive(found));
    assert.ok(totalOf(readCpuMicros(process.pid)) - before > 100_000, 'time of a reaped child is in its parent');
  } finally {
    child.kill('SIGKILL');
  }
});
