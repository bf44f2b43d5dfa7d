/**
 * Compiles every target of asconfig.json and writes the bytes, as base64, into one TypeScript module. The package
 * carries that module, so nobody needs a path, a fetch permission or a bundler rule to get at the WebAssembly.
 *
 *   node assembly/build.mjs           writes src/kernels/wasm/module.generated.ts
 *   node assembly/build.mjs --check   compares instead, exit status 1 when the committed module is stale
 */
import { readFileSync, writeFileSync } from 'node:fs';
import asc from 'assemblyscript/asc';

const config = JSON.parse(readFileSync('asconfig.json', 'utf8'));
const target = 'src/kernels/wasm/module.generated.ts';
const lines = ['// Written by assembly/build.mjs from assembly/*.ts. Do not edit.', ''];

for (const name of Object.keys(config.targets)) {
  const stdout = asc.createMemoryStream();
  const stderr = asc.createMemoryStream();
  let bytes;
  // Not in asconfig.json: entries of a target are added to those of the others, not put in their place.
  const entry = name.startsWith('scalar') ? 'assembly/scalar/index.ts' : 'assembly/index.ts';
  const { error } = await asc.main([entry, '--config', 'asconfig.json', '--target', name], {
    stdout,
    stderr,
    writeFile(fileName, contents) {
      if (fileName.endsWith('.wasm')) bytes = contents;
    },
  });
  if (error || bytes === undefined) {
    process.stderr.write(stderr.toString());
    throw error ?? new Error(`target ${name} gave no module`);
  }
  const identifier = name.toUpperCase().replaceAll('-', '_');
  lines.push(`/** ${bytes.length} bytes. */`);
  lines.push(`export const ${identifier} =\n  '${Buffer.from(bytes).toString('base64')}';`);
  process.stderr.write(`${name}: ${bytes.length} bytes\n`);
}

const text = `${lines.join('\n')}\n`;
if (process.argv.includes('--check')) {
  if (readFileSync(target, 'utf8') !== text) {
    process.stderr.write(`${target} is stale: run npm run build:wasm\n`);
    process.exitCode = 1;
  }
} else writeFileSync(target, text);
