/** Every configuration in docs/hsm.md is one that the schema takes. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { parse } from 'yaml';
import { parseConfig } from '../../config/load.ts';

const page = readFileSync(new URL('../../docs/hsm.md', import.meta.url), 'utf8');
/** What an HSM of one's own needs besides: certificates of an outside CA. */
const rest = { tsu: { source: 'installed', keyLabel: 'tsu-1', chainFile: '/etc/sigillo/chain.pem' } };

const sections = page.split(/^## /m).flatMap((section) => {
  const title = section.split('\n')[0] as string;
  return [...section.matchAll(/^```yaml\n(.*?)^```/gms)].map((match) => ({ title, yaml: match[1] as string }));
});

test('there is one for each product', () => {
  assert.deepEqual(
    sections.map(({ title }) => title),
    ['Connecting one', 'SoftHSM', 'Luna (Thales)', 'nShield (Entrust)', 'Utimaco', 'AWS CloudHSM', 'YubiHSM 2'],
  );
});

for (const { title, yaml } of sections) {
  test(`the configuration of ${title}`, () => {
    const tree = parse(yaml) as { timestamp?: Record<string, unknown> };
    const config = parseConfig({
      home: '/nonexistent',
      ...tree,
      timestamp: { ...tree.timestamp, ...rest },
      trust: { rootsFile: '/roots.pem' },
    });
    assert.equal(config.hsm.mode, 'module');
  });
}
