/** What `compare` finds, and what it calls it: bugs made on purpose, and none where there is none. */
import { describe, expect, it } from 'vitest';
import type { LoadOptions, Model, SessionOptions } from '../../src/index.ts';
import { loadModel } from '../../src/index.ts';
import { compareWithModel } from '../../src/oracle/compare/compare.ts';
import { liveSource } from '../../src/oracle/compare/live.ts';
import type { CompareOptions, Comparison } from '../../src/oracle/compare/types.ts';
import { tinyModel } from '../model/models.ts';
import { BUGS, sickBackend } from './bugs.ts';

const ids = Array.from({ length: 19 }, (_, i) => (i * 37 + 5) % 500);

async function withModels<T>(
  files: readonly [Uint8Array, Uint8Array],
  options: readonly [LoadOptions, LoadOptions],
  use: (a: Model, b: Model) => Promise<T>,
): Promise<T> {
  const a = await loadModel(files[0], options[0]);
  try {
    const b = await loadModel(files[1], options[1]);
    try {
      return await use(a, b);
    } finally {
      await b.dispose();
    }
  } finally {
    await a.dispose();
  }
}

/** Model A beside model B. */
function live(
  files: readonly [Uint8Array, Uint8Array],
  options: readonly [LoadOptions, LoadOptions],
  compare: CompareOptions = {},
  session: SessionOptions = {},
): Promise<Comparison> {
  return withModels(files, options, (a, b) => compareWithModel(a, liveSource(b, ids, 'B', session), compare));
}

describe('bugs of a backend', () => {
  it.each(Object.entries(BUGS))('%s', async (_, { bug, id, at }) => {
    const file = await tinyModel({});
    const { verdict, divergence } = await live([file, file], [{ threads: 1 }, { backend: sickBackend(bug) }]);
    expect(verdict).toBe('different');
    expect(divergence?.name).toMatch(at);
    expect(divergence?.findings[0]?.id ?? '', JSON.stringify(divergence?.findings)).toBe(id);
  });
});
