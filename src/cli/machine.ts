/**
 * Where a measurement was taken: without that, a number of tokens a second means nothing.
 * @module
 */

import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { cpus } from 'node:os';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { detectPlatform } from '../platform/detect.ts';

export interface Machine {
  /** `node 20.20.2`, `deno 2.9.6`, `bun 1.4.5`. */
  readonly runtime: string;
  readonly os: string;
  readonly cpu: string;
  /** Hardware threads. */
  readonly nCpus: number;
  /** Version of this package. */
  readonly version: string;
  /** Short hash, with `-dirty` where files differ from it; undefined outside a checkout. */
  readonly commit: string | undefined;
}

/** The folder with package.json; at the same place seen from src/cli and dist/cli. */
export function describeMachine(root: URL = new URL('../../', import.meta.url)): Machine {
  const all = processors();
  return {
    runtime: detectPlatform().runtime,
    os: `${process.platform} ${process.arch}`,
    cpu: cpuName(all[0]?.model ?? ''),
    nCpus: all.length,
    version: (JSON.parse(readFileSync(new URL('package.json', root), 'utf8')) as { version: string }).version,
    commit: commitOf(root),
  };
}

/** Deno tells only with `--allow-sys`, which a name in a receipt is not worth failing for. */
function processors(): readonly { readonly model: string }[] {
  try {
    return cpus();
  } catch {
    return new Array<{ model: string }>(navigator.hardwareConcurrency).fill({ model: '' });
  }
}

function cpuName(model: string): string {
  return model.replace(/\s+/g, ' ').trim() || 'unknown';
}

function commitOf(root: URL): string | undefined {
  // Only a checkout of this package: installed in a project, git would answer with the project's commit.
  if (!existsSync(new URL('.git', root))) return undefined;
  try {
    return execFileSync('git', ['-C', fileURLToPath(root), 'describe', '--always', '--dirty', '--exclude=*'], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    }).trim();
  } catch {
    return undefined; // no git, or no permission to run it
  }
}

export interface ResidentMemory {
  readonly nowBytes: number;
  /** The most so far, since the process began; undefined where the system does not tell. */
  readonly peakBytes: number | undefined;
}

/** What the operating system counts as this process's memory: weights, JavaScript heap, compiled code, everything. */
export function residentMemory(): ResidentMemory {
  return { nowBytes: process.memoryUsage().rss, peakBytes: peakResident() };
}

function peakResident(): number | undefined {
  try {
    // Runtimes differ in the unit of `resourceUsage().maxRSS`; the kernel's own figure is in KiB.
    const kib = /^VmHWM:\s*(\d+) kB/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1];
    if (kib !== undefined) return Number(kib) * 1024;
  } catch {
    // Not Linux, or not allowed to look.
  }
  return process.versions.bun === undefined && process.versions.deno === undefined
    ? process.resourceUsage().maxRSS * 1024
    : undefined;
}
