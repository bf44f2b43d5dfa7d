/**
 * The house rules that a machine can check: who imports whom, where `node:` may stand, how long a file may be, and that
 * the numbers shared by TypeScript and AssemblyScript are the same.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join, relative, sep } from 'node:path';
import { describe, expect, it } from 'vitest';

const root = new URL('..', import.meta.url).pathname;
const read = (path: string) => readFileSync(join(root, path), 'utf8');

function files(folder: string, end: string): string[] {
  return readdirSync(join(root, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith(end))
    .map((entry) => relative(root, join(entry.parentPath, entry.name)).split(sep).join('/'))
    .filter((path) => !path.includes('node_modules'));
}

/** Imports of a file: its own-room imports are left out by the caller. `typeOnly` for `import type` and all-type lists. */
function imports(path: string): { target: string; typeOnly: boolean }[] {
  const text = read(path)
    .replace(/\/\*[\s\S]*?\*\//g, '')
    .replace(/^\s*\/\/.*$/gm, '');
  const found: { target: string; typeOnly: boolean }[] = [];
  for (const match of text.matchAll(/(?:import|export)\s+(type\s+)?([^'";]*?)\s*from\s*'([^']+)'/g)) {
    const names = match[2]
      .replace(/[{}]/g, '')
      .split(',')
      .map((name) => name.trim())
      .filter(Boolean);
    const allTypes = names.length > 0 && names.every((name) => name.startsWith('type '));
    found.push({ target: match[3], typeOnly: match[1] !== undefined || allTypes });
  }
  for (const match of text.matchAll(/import\(\s*'([^']+)'\s*\)/g)) found.push({ target: match[1], typeOnly: false });
  return found;
}

/** The room of a file: its folder below src, kernels and backends told apart. */
function roomOf(path: string): string {
  const parts = path.replace(/^src\//, '').split('/');
  if (parts.length === 1) return parts[0].replace(/\.ts$/, '');
  if (parts[0] === 'kernels') return parts.length === 2 ? 'kernels/interface' : `kernels/${parts[1]}`;
  return parts[0];
}

/** room -> rooms it may import; `types:` marks rooms of which only types may be imported. */
const LAW: Record<string, readonly string[]> = {
  errors: [],
  numeric: [],
  tensors: ['errors', 'numeric'],
  formats: ['errors', 'tensors'],
  hub: ['errors'],
  tokenizer: ['errors'],
  sampling: ['errors', 'numeric'],
  'kernels/interface': ['types:tensors'],
  'kernels/ts': ['types:kernels/interface', 'tensors', 'numeric', 'errors'],
  'kernels/wasm': ['types:kernels/interface', 'tensors', 'numeric', 'errors'],
  'kernels/cuda': ['types:kernels/interface', 'tensors', 'numeric', 'errors'],
  'kernels/foreign': ['types:kernels/interface', 'tensors', 'errors'],
  'kernels/conformance': ['types:kernels/interface', 'kernels/ts', 'tensors', 'numeric'],
  model: ['types:kernels/interface', 'tensors', 'types:formats', 'numeric', 'errors'],
  convert: ['model', 'formats', 'tensors', 'tokenizer', 'numeric', 'errors'],
  platform: ['formats', 'types:kernels/wasm', 'types:kernels/cuda', 'errors'],
  engine: [
    'model',
    'tokenizer',
    'sampling',
    'formats',
    'types:kernels/interface',
    'kernels/ts',
    'kernels/wasm',
    'kernels/cuda',
    'kernels/foreign',
    'kernels/conformance', // for `inspect --kernels`: loaded by nobody else
    'platform',
    'errors',
  ],
  quality: ['types:engine', 'types:tokenizer', 'types:formats', 'sampling', 'numeric', 'errors'],
  oracle: [
    'engine',
    'model',
    'convert', // the models of the kit and of the conformance of graphs
    'tokenizer',
    'sampling',
    'types:kernels/interface',
    'kernels/ts', // the definition: expected vectors are its answers, and so is what a mistake would have given
    'kernels/conformance',
    'formats',
    'tensors',
    'numeric',
    'errors',
  ],
  index: ['engine', 'types:formats', 'types:kernels/interface', 'types:sampling', 'types:tokenizer', 'errors'],
};

describe('the import law', () => {
  const sources = files('src', '.ts');

  it('finds the sources', () => {
    expect(sources.length).toBeGreaterThan(80);
  });

  it.each(sources.filter((path) => roomOf(path) !== 'cli'))('%s', (path) => {
    const room = roomOf(path);
    const allowed = LAW[room];
    expect(allowed, `no law for room ${room}`).toBeDefined();
    for (const { target, typeOnly } of imports(path)) {
      if (!target.startsWith('.')) continue;
      const resolved = join('src', relative('src', join(path, '..', target)))
        .split(sep)
        .join('/');
      const other = roomOf(resolved);
      if (other === room) continue;
      const legal = allowed.includes(other) || (typeOnly && allowed.includes(`types:${other}`));
      expect(legal, `${path} must not import ${target}${typeOnly ? ' (types)' : ''}`).toBe(true);
    }
  });

  it.each(Object.entries(LAW))('grants %s no more than it uses', (room, allowed) => {
    const used = new Set<string>();
    for (const path of sources.filter((one) => roomOf(one) === room)) {
      for (const { target, typeOnly } of imports(path)) {
        if (!target.startsWith('.')) continue;
        const other = roomOf(join('src', relative('src', join(path, '..', target))));
        used.add(typeOnly ? `types:${other}` : other);
      }
    }
    for (const one of allowed) expect(used, `${room} does not use ${one}`).toContain(one);
  });

  it('nobody imports the command line', () => {
    for (const path of sources.filter((one) => roomOf(one) !== 'cli')) {
      for (const { target } of imports(path)) expect(target).not.toMatch(/\/cli\//);
    }
  });

  it('names node: only in platform and cli', () => {
    for (const path of sources) {
      const room = roomOf(path);
      if (room === 'platform' || room === 'cli') continue;
      for (const { target } of imports(path)) expect(target, path).not.toMatch(/^node:/);
    }
  });

  it('loads packages only when a feature needs them', () => {
    for (const path of sources.filter((one) => roomOf(one) !== 'cli')) {
      const text = read(path);
      for (const match of text.matchAll(/^import\s+(?!type)[^;]*from\s*'([^.'][^']*)'/gm)) {
        expect.fail(`${path} imports ${match[1]} at load time`);
      }
    }
  });

  it('uses .ts in import paths', () => {
    for (const path of sources) {
      for (const { target } of imports(path)) if (target.startsWith('.')) expect(target, path).toMatch(/\.ts$/);
    }
  });

  it('keeps no mutable state at module level', () => {
    for (const path of sources) expect(/^(?:export )?let /m.test(read(path)), path).toBe(false);
  });

  it('keeps files below 500 lines', () => {
    for (const path of [...sources.filter((one) => !one.endsWith('.generated.ts')), ...files('assembly', '.ts')]) {
      expect(read(path).split('\n').length, path).toBeLessThanOrEqual(500);
    }
  });

  it('computes with our own exp, log, pow, sin and cos, and our own random numbers', () => {
    for (const path of sources) {
      const text = read(path)
        .replace(/\/\*[\s\S]*?\*\//g, '')
        .replace(/\/\/.*$/gm, '');
      const found = /Math\.(exp|expm1|log|log2|log10|log1p|pow|sin|cos|tan|tanh|cbrt|hypot|random)\b/.exec(text);
      expect(found?.[0], path).toBeUndefined();
    }
  });
});

describe('AssemblyScript and TypeScript agree', () => {
  const constants = (path: string, pattern: RegExp) =>
    new Map([...read(path).matchAll(pattern)].map((match) => [match[1], Number(match[2].replaceAll('_', ''))]));

  it('on the layout of memory', () => {
    const assembly = constants('assembly/layout.ts', /export const (\w+): \w+ = (\d+);/g);
    const source = constants('src/kernels/wasm/layout.ts', /export const (\w+) = (\d+);/g);
    expect(assembly.size).toBeGreaterThan(10);
    for (const [name, value] of assembly) expect(source.get(name), name).toBe(value);
  });

  it('on the opcodes', () => {
    const assembly = constants('assembly/commands.ts', /const OP_(\w+): i32 = (\d+);/g);
    const source = constants('src/kernels/wasm/commands.ts', /^ {2}([A-Z_0-9]+): (\d+),/gm);
    expect(Object.fromEntries(assembly)).toEqual(Object.fromEntries(source));
    for (const path of ['assembly/index.ts', 'assembly/scalar/index.ts']) {
      const cases = new Set([...read(path).matchAll(/case OP_(\w+):/g)].map((match) => match[1]));
      expect(cases, path).toEqual(new Set(source.keys()));
    }
  });

  it('on the sizes of scratch and the codes of types', () => {
    const backend = read('src/kernels/wasm/backend.ts');
    const room = /ATTENTION_HEAD_ROOM: usize = (\d+)/.exec(read('assembly/index.ts'))?.[1];
    expect(backend).toContain(`ATTENTION_HEAD_ROOM = ${room};`);
    expect(read('assembly/scalar/attention.ts')).toContain(`WEIGHTS: usize = ${room};`);
    const lookup = read('assembly/ternary-lookup.ts');
    expect(lookup).toContain('const TABLE_BYTES: usize = 172 * 64;');
    expect(lookup).toContain('const BLOCK_ROWS: i32 = 4096;');
    expect(lookup).toContain('MAX_SHARERS: i32 = 4;');
    expect(lookup).toContain('const MATRIX_BYTES: usize = 32;');
    expect(backend).toContain('LOOKUP_SCRATCH = 8 * 172 * 64 + 32 * 64 + 4 * 32 + 4096 * (64 + 128);');
    const codes = [...read('assembly/dense.ts').matchAll(/DENSE_(\w+): i32 = (\d);/g)].map(
      ([, name, code]) => `${name}: ${code}`,
    );
    expect(codes.length).toBe(6);
    expect(read('src/kernels/wasm/memory.ts')).toContain(`{ ${codes.join(', ')} }`);
  });

  it('on the constants of gelu', () => {
    const number = '([0-9.]+)';
    const assembly = constants('assembly/activation.ts', new RegExp(`const (\\w+): f32 = ${number};`, 'g'));
    const source = constants('src/kernels/ts/activation.ts', new RegExp(`const (\\w+) = f\\(${number}\\);`, 'g'));
    expect(assembly.size).toBe(2);
    expect(assembly).toEqual(source);
  });

  it('on the constants of exp', () => {
    const number = '(-?[0-9.]+(?:e-?[0-9]+)?)';
    const assembly = constants('assembly/math.ts', new RegExp(`const (\\w+): f32 = ${number};`, 'g'));
    const source = constants('src/numeric/exp.ts', new RegExp(`const (\\w+) = (?:f\\()?${number}\\)?;`, 'g'));
    expect(assembly.size).toBe(11);
    for (const [name, value] of assembly)
      expect(Math.fround(source.get(name) ?? Number.NaN), name).toBe(Math.fround(value));
  });
});

describe('the package', () => {
  const manifest = JSON.parse(read('package.json')) as {
    exports: Record<string, string | { types: string; default: string }>;
    scripts: Record<string, string>;
  };

  it('exports only what exists', () => {
    for (const [subpath, target] of Object.entries(manifest.exports)) {
      if (typeof target === 'string') continue;
      const source = target.default.replace('./dist/', 'src/').replace(/\.js$/, '.ts');
      expect(existsSync(join(root, source)), `${subpath} -> ${source}`).toBe(true);
    }
  });

  it('has no install script', () => {
    for (const name of ['preinstall', 'install', 'postinstall', 'prepare'])
      expect(manifest.scripts[name]).toBeUndefined();
  });
});
