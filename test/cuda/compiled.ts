/** Libraries of a few lines, for what a real one would not do. */

import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** Compiles `code` to `folder/name.so`. */
export function compiledLibrary(folder: string, name: string, code: string): string {
  const [source, out] = [join(folder, `${name}.c`), join(folder, `${name}.so`)];
  writeFileSync(source, code);
  const command = ['-shared', '-fPIC', '-x', 'c++', '-o', out, source];
  const { status, stderr } = spawnSync(process.env.CXX ?? 'g++', command, { encoding: 'utf8' });
  if (status !== 0) throw new Error(stderr);
  return out;
}
