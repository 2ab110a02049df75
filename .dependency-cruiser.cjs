/**
 * The rooms of the house and who may enter which: bin -> gateway | signer | authority -> observability -> queue -> pki, config.
 * Type-only imports count: a room that needs another room's types depends on it just as much.
 */
const rooms = ['bin', 'gateway', 'signer', 'authority', 'observability', 'queue', 'pki', 'config'];
const mayImport = {
  bin: rooms,
  gateway: ['gateway', 'observability', 'queue', 'pki', 'config'],
  signer: ['signer', 'observability', 'queue', 'pki', 'config'],
  authority: ['authority', 'observability', 'queue', 'pki', 'config'],
  observability: ['observability', 'queue', 'pki', 'config'],
  queue: ['queue', 'pki', 'config'],
  config: ['config'],
  pki: ['pki'],
};
const everyone = [...rooms, 'test', 'bench'];

const roomRules = Object.entries(mayImport).map(([room, allowed]) => ({
  name: `room-${room}`,
  comment: `${room} may import only: ${allowed.join(', ')}`,
  severity: 'error',
  from: { path: `^${room}/` },
  to: { path: `^(${everyone.filter((other) => !allowed.includes(other)).join('|')})/` },
}));

/** @type {import('dependency-cruiser').IConfiguration} */
module.exports = {
  forbidden: [
    ...roomRules,
    {
      name: 'no-cycles',
      comment: 'Modules that import each other cannot be understood, tested or started one at a time.',
      severity: 'error',
      from: {},
      to: { circular: true },
    },
    { name: 'resolvable', comment: 'Every import must lead somewhere.', severity: 'error', from: {}, to: { couldNotResolve: true } },
    {
      name: 'pki-is-pure',
      comment: 'pki is values in, values out: of Node it may use only what computes (crypto for digests, buffer, util).',
      severity: 'error',
      from: { path: '^pki/' },
      to: { dependencyTypes: ['core'], pathNot: '^(node:)?(crypto|buffer|util|assert)$' },
    },
    {
      name: 'no-dev-dependency-in-service',
      comment: 'What runs in production must be a dependency, not a devDependency.',
      severity: 'error',
      from: { pathNot: '^(test|bench)/' },
      to: { dependencyTypes: ['npm-dev', 'npm-no-pkg', 'npm-unknown'], dependencyTypesNot: ['type-only'] },
    },
  ],
  options: {
    // TypeScript 7 has no JavaScript API to parse with; swc reads the same syntax.
    parser: 'swc',
    tsPreCompilationDeps: true,
    doNotFollow: { path: 'node_modules' },
    enhancedResolveOptions: { exportsFields: ['exports'], conditionNames: ['node', 'import', 'types', 'default'] },
  },
};
