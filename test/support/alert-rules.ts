/** The alert rules that are shipped, and the metrics that they ask for. */
import { resolve } from 'node:path';
import { parse } from 'yaml';

export const rulesFile = resolve(import.meta.dirname, '../../deploy/prometheus/rules.yml');

/** Names of all metrics in the expressions of rules, each once. Metrics of ours have an underscore; functions without one are no matter. */
export const metricsInRules = (yaml: string): readonly string[] => {
  const { groups } = parse(yaml) as { groups: readonly { readonly rules: readonly { readonly expr: string }[] }[] };
  const names = groups
    .flatMap(({ rules }) => rules.map(({ expr }) => expr))
    .flatMap((expr) =>
      expr
        .replaceAll(/\{[^}]*\}|\[[^\]]*\]|"[^"]*"/g, ' ')
        .replaceAll(/\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)/g, ' ')
        .match(/[a-z]+(_[a-z0-9]+)+/g),
    )
    .filter((name) => name !== null);
  return [...new Set(names)].toSorted();
};
