/**
 * `bitnet build-cuda`: makes the library of the cuda backend, where the package is installed; in a clone `npm run build:cuda` is the
 * same script.
 * @module
 */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { access } from 'node:fs/promises';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { BitnetError } from '../errors.ts';
import { detectPlatform } from '../platform/detect.ts';
import { command } from './command.ts';

/** Beside the sources that it compiles; at the same place seen from src/cli and dist/cli. */
const SCRIPT = fileURLToPath(new URL('../../src/kernels/cuda/build.mjs', import.meta.url));

export const buildCuda = command({
  flags: {
    arch: {
      type: 'string',
      value: 'N,...',
      describe:
        'compute capabilities to make machine code for, e.g. 90 for an H100; newer ones compile at load [80,90]',
    },
    jobs: { type: 'integer', also: ['-j'], min: 1, max: 256, describe: 'files compiled at a time [4, or fewer cores]' },
    output: {
      type: 'string',
      also: ['-o'],
      value: 'FILE.so',
      describe: 'where to write it; BITNET_CUDA_LIBRARY then has to name it [where this package looks for it]',
    },
  },
  examples: [
    ['bitnet build-cuda', 'then: bitnet run --backend cuda'],
    ['CUDA_HOME=/opt/cuda bitnet build-cuda --arch 90', 'with the nvcc of that folder, for one kind of card'],
  ],
  async run(args, io) {
    await access(SCRIPT).catch((cause) => {
      throw new BitnetError('io', 'the sources of the CUDA library are not here', { where: SCRIPT }, cause);
    });
    const options = [
      '--allow-spills',
      ...(args.arch === undefined ? [] : ['--arch', args.arch]),
      ...(args.jobs === undefined ? [] : ['--jobs', String(args.jobs)]),
      ...(args.output === undefined ? [] : ['--out', args.output]),
    ];
    // It calls compilers, so it has a process of its own, which Ctrl-C ends as well.
    const before = detectPlatform().runtime.startsWith('deno') ? ['run', '--allow-all'] : [];
    const child = spawn(process.execPath, [...before, SCRIPT, ...options], { stdio: 'inherit' });
    // Who ends this process by its id ends that one too.
    io.signal.addEventListener('abort', () => child.kill('SIGTERM'), { once: true });
    const [code] = await once(child, 'close');
    io.signal.throwIfAborted();
    return code === 0 ? 0 : 1;
  },
});
