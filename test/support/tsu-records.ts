/** Records of the register of TSUs, as tests need them; keys and certificates are made on the fly, in software. */
import { generateKeyPairSync, hash } from 'node:crypto';
import { tsuChangeTeller } from '../../observability/journal/tsu-events.ts';
import type { TsuRecord } from '../../queue/tsu-register.ts';

export const tellTsu = tsuChangeTeller({ role: 'system', actor: 'tester' });

const day = 86_400_000;

/** A record without a certificate, of a key of its own. */
export const generatedRecord = (change: Partial<TsuRecord> = {}): TsuRecord => {
  const spki = generateKeyPairSync('ec', { namedCurve: 'P-256' }).publicKey.export({ format: 'der', type: 'spki' });
  return {
    version: 1,
    id: hash('sha256', spki, 'hex'),
    token: 'sigillo-timestamp',
    keyLabel: 'tsu-ec-p256-1',
    algorithm: 'ec-p256',
    state: 'generated',
    spki: spki.toString('base64'),
    generatedAt: '2026-11-22T10:00:00.000Z',
    ...change,
  };
};

/** A record that is in use from an instant on for some days; its chain is no certificate, which the calendar does not look at. */
export const activeRecord = (activateAt: string, days = 90, change: Partial<TsuRecord> = {}): TsuRecord =>
  generatedRecord({
    state: 'active',
    chain: ['MAA='],
    generatedAt: activateAt,
    certifiedAt: activateAt,
    activateAt,
    usableUntil: new Date(Date.parse(activateAt) + days * day).toISOString(),
    ...change,
  });
