/**
 * Preloaded into a process: kills it with SIGKILL right before or right after its n-th call that changes something on disk
 * or in a token, so that a test can interrupt between any two steps. KILL_AT=0 only counts, and prints the count at exit.
 */
import fs from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import pkcs11 from 'pkcs11js';

const killAt = Number(process.env.KILL_AT);
const after = process.env.KILL_WHEN === 'after';
let calls = 0;

const stepped = (target, name) => {
  const original = target[name];
  target[name] = function step(...args) {
    if (name === 'openSync' && args[1] === 'r') return original.apply(this, args);
    calls += 1;
    if (calls === killAt && !after) process.kill(process.pid, 'SIGKILL');
    const result = original.apply(this, args);
    if (calls === killAt && after) process.kill(process.pid, 'SIGKILL');
    return result;
  };
};

for (const name of ['mkdirSync', 'openSync', 'writeFileSync', 'renameSync', 'rmSync', 'chmodSync']) stepped(fs, name);
syncBuiltinESMExports();

pkcs11.PKCS11 = class extends pkcs11.PKCS11 {
  constructor() {
    super();
    for (const name of ['C_Initialize', 'C_Finalize', 'C_InitToken', 'C_InitPIN', 'C_GenerateKeyPair', 'C_DestroyObject'])
      stepped(this, name);
  }
};

if (killAt === 0) process.on('exit', () => process._rawDebug(`steps: ${calls}`));
