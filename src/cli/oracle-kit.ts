/**
 * `bitnet oracle kit`: models, vectors and expected answers for whoever builds another engine.
 * @module
 */

import { createHash } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { want } from '../errors.ts';
import { kitFiles, MANIFEST } from '../oracle/kit/files.ts';
import { verifyKit } from '../oracle/kit/verify.ts';
import { createFolderSink } from '../platform/folder-node.ts';
import { ioError } from '../platform/source-node.ts';
import { command } from './command.ts';
import { UsageError } from './flags.ts';
import { quietFlag } from './flags-common.ts';
import { bytes, plural } from './format.ts';
import type { Io } from './io.ts';
import { EMBEDDED } from './open.ts';

/** At the same place seen from src/cli and dist/cli. */
const PAGES = new URL('../../src/oracle/kit/pages/', import.meta.url);
const sha256 = () => createHash('sha256');

const PAGE_NAMES = ['README.md', 'check.c', 'check.py', 'model.py', 'ops.py'];

export const oracleKit = command({
  flags: {
    output: { type: 'string', also: ['-o'], value: 'DIR', describe: 'the folder to write; must not exist' },
    check: { type: 'string', value: 'DIR', describe: 'a kit whose files are to be compared with its manifest' },
    ...quietFlag,
  },
  examples: [
    ['bitnet oracle kit -o kit && python3 kit/check.py', 'write it; let numpy recompute it'],
    ['bitnet oracle kit --check kit', 'is every file as it was written?'],
  ],
  async run(args, io) {
    const { output, check, quiet } = args;
    if (output !== undefined && check !== undefined) throw new UsageError('-o and --check exclude each other');
    if (check !== undefined) return checkKit(check, quiet, io);
    if (output === undefined) throw new UsageError('-o DIR is missing');
    const pages = await Promise.all(
      PAGE_NAMES.map(async (path) => ({ path, bytes: await readFile(new URL(path, PAGES)) })),
    );
    const folder = await createFolderSink(output);
    let count = 0;
    let total = 0;
    let digest = '';
    try {
      for await (const file of kitFiles(EMBEDDED, pages, sha256)) {
        io.signal.throwIfAborted();
        const sink = await folder.create(file.path);
        await sink.write(file.bytes);
        await sink.close();
        count++;
        total += file.bytes.length;
        if (file.path === MANIFEST) digest = sha256().update(file.bytes).digest('hex');
        if (!quiet) io.status(`${plural(count, 'file')}, ${bytes(total)}`);
      }
      await folder.close();
    } finally {
      await folder.abort(); // does nothing once closed
      io.status('');
    }
    await io.write(`sha256 ${digest}  ${output}: ${plural(count, 'file')}, ${bytes(total)}\n`);
    return 0;
  },
});

async function checkKit(folder: string, quiet: boolean, io: Io): Promise<number> {
  const read = async (name: string, mostBytes: number): Promise<Uint8Array | undefined> => {
    const path = join(folder, name);
    try {
      const { size } = await stat(path);
      want(size <= mostBytes, 'limit-exceeded', 'too large for a file of a kit', () => ({
        where: path,
        expected: `at most ${mostBytes} bytes`,
        got: `${size}`,
      }));
      return await readFile(path);
    } catch (error) {
      if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined;
      throw error instanceof Error && 'syscall' in error ? ioError(path, 'cannot read', error) : error;
    }
  };
  const onFile = (done: number, all: number) => {
    if (!quiet) io.status(`${done} of ${plural(all, 'file')}`);
  };
  const report = await verifyKit(read, sha256, onFile, io.signal);
  io.status('');
  const { digest, faults, files } = report;
  for (const fault of faults) await io.write(`${fault}\n`);
  const verdict = faults.length === 0 ? 'all as written' : `${faults.length} not as written`;
  await io.write(`sha256 ${digest}  ${folder}: ${plural(files, 'file')}, ${verdict}\n`);
  return faults.length === 0 ? 0 : 1;
}
