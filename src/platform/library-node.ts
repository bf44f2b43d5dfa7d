/**
 * Shared libraries for Node, Deno and Bun, by koffi: one package that is loaded only when the cuda backend is asked for, and that
 * need not be installed for anything else.
 * @module
 */

import { BitnetError, show, want } from '../errors.ts';
import type { CudaHost, NativeLibrary } from '../kernels/cuda/host.ts';

const WHERE = 'backend cuda';
/** At the same place seen from src/platform and dist/platform; what `bitnet build-cuda` writes. */
const BUILT = new URL('../../dist/kernels/cuda/libbitnet-cuda.so', import.meta.url);
/** What Deno has to be allowed; the environment only where it names the library. */
const PERMISSIONS = '--allow-read --allow-env --allow-ffi';
const VARIABLE = 'BITNET_CUDA_LIBRARY';

/** The part of koffi that is used. */
interface Koffi {
  load(path: string): { func(prototype: string): (...args: unknown[]) => unknown };
}

export function createCudaHost(): CudaHost {
  return {
    async loadLibrary(path) {
      const found = await findLibrary(path);
      const koffi = await loadKoffi();
      return open(koffi, found);
    },
  };
}

async function findLibrary(option: string | undefined): Promise<string> {
  const { stat } = await import('node:fs/promises');
  const { fileURLToPath } = await import('node:url');
  const { resolve } = await import('node:path');
  want(option === undefined || typeof option === 'string', 'bad-argument', 'not the path of a library', () => ({
    where: `${WHERE}: library`,
    got: show(option),
  }));
  const variable = fromEnvironment();
  const named = option ?? variable.value;
  // A whole path: a bare name would be looked for in the system's folders.
  const path = resolve(named ?? fileURLToPath(BUILT));
  const what =
    named === undefined
      ? 'the library is not built'
      : `there is no library where ${option === undefined ? VARIABLE : 'the option library'} says`;
  const isHidden = option === undefined && variable.isHidden;
  const hint = `bitnet build-cuda makes it; it needs nvcc, not a GPU${isHidden ? `; ${VARIABLE} is read with --allow-env` : ''}`;
  // `access` would ask more of Deno's permissions.
  const found = await stat(path).catch((cause: unknown) => {
    const got = hasCode(cause, 'ENOENT') ? `no file ${path}` : firstLine(cause);
    throw new BitnetError('backend-unavailable', what, { where: WHERE, got, hint: allowing(cause) ?? hint }, cause);
  });
  if (found.isFile()) {
    await wantWhole(path, found.size);
    return path;
  }
  throw new BitnetError('backend-unavailable', what, { where: WHERE, got: `${path}, which is no file`, hint });
}

/**
 * A library that was cut off, by a full disk say, would be mapped and then end the process with a bus error. What stands last in an
 * ELF file is its table of sections: bytes 40 to 47 of the header tell where that begins, 58 and 60 its entries' bytes and number.
 */
async function wantWhole(path: string, bytes: number): Promise<void> {
  const header = await headerOf(path).catch((cause: unknown) => {
    const facts = { where: WHERE, got: firstLine(cause), hint: allowing(cause) ?? 'who runs this has to read it' };
    throw new BitnetError('backend-unavailable', `${path} cannot be read`, facts, cause);
  });
  const [ELF, BITS_64, LITTLE] = [0x7f454c46, 2, 1];
  const isElf = header.getUint32(0) === ELF;
  // What is none, or of another machine, the loader refuses in its own words.
  if (!isElf || header.getUint8(4) !== BITS_64 || header.getUint8(5) !== LITTLE) return;
  const sections = header.getUint16(58, true) * header.getUint16(60, true);
  const end = Number(header.getBigUint64(40, true)) + sections;
  if (end <= bytes) return;
  throw new BitnetError('backend-unavailable', `${path} is cut off`, {
    where: WHERE,
    expected: `${end} bytes`,
    got: `${bytes}`,
    hint: 'copy it again, or build it again: bitnet build-cuda',
  });
}

/** Zeros behind the end of a shorter file. */
async function headerOf(path: string): Promise<DataView> {
  const { open } = await import('node:fs/promises');
  const header = new DataView(new ArrayBuffer(64));
  const file = await open(path, 'r');
  await file.read(new Uint8Array(header.buffer), 0, 64, 0).finally(() => file.close());
  return header;
}

function fromEnvironment(): { value: string | undefined; isHidden: boolean } {
  try {
    return { value: process.env[VARIABLE] || undefined, isHidden: false };
  } catch {
    return { value: undefined, isHidden: true }; // Deno without --allow-env
  }
}

async function loadKoffi(): Promise<Koffi> {
  try {
    return (await import('koffi')).default as unknown as Koffi;
  } catch (cause) {
    const facts = { where: WHERE, got: firstLine(cause), hint: allowing(cause) ?? 'npm install koffi' };
    throw new BitnetError(
      'backend-unavailable',
      'the package koffi, which calls the library, cannot be loaded',
      facts,
      cause,
    );
  }
}

function open(koffi: Koffi, path: string): NativeLibrary {
  try {
    const library = koffi.load(path);
    return { path, find: (prototype) => library.func(prototype) };
  } catch (cause) {
    const hint = allowing(cause) ?? 'build it again on this machine: bitnet build-cuda';
    const facts = { where: WHERE, got: firstLine(cause), hint };
    throw new BitnetError('backend-unavailable', `${path} cannot be loaded`, facts, cause);
  }
}

/** What to do where it is only a permission of Deno's that is missing. */
function allowing(cause: unknown): string | undefined {
  const isDenied = cause instanceof Error && (cause.name === 'NotCapable' || hasCode(cause, 'EPERM'));
  const isDeno = process.versions.deno !== undefined;
  return isDeno && isDenied ? `deno run ${PERMISSIONS}` : undefined;
}

function hasCode(error: unknown, code: string): boolean {
  return error instanceof Error && 'code' in error && error.code === code;
}

function firstLine(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).split('\n')[0];
}
