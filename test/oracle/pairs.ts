/** Two models side by side. */
import type { LoadOptions, Model, SessionOptions } from '../../src/index.ts';
import { loadModel } from '../../src/index.ts';
import { compareWithModel } from '../../src/oracle/compare/compare.ts';
import { liveSource } from '../../src/oracle/compare/live.ts';
import type { CompareOptions, Comparison } from '../../src/oracle/compare/types.ts';

export const ids = Array.from({ length: 19 }, (_, i) => (i * 37 + 5) % 500);

type Two<T> = readonly [T, T];

export async function withModels<T>(
  files: Two<Uint8Array>,
  options: Two<LoadOptions>,
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

/** Model A beside model B, which runs. */
export function live(
  files: Two<Uint8Array>,
  options: Two<LoadOptions>,
  compare: CompareOptions = {},
  session: SessionOptions = {},
): Promise<Comparison> {
  return withModels(files, options, (a, b) => compareWithModel(a, liveSource(b, ids, 'B', session), compare));
}
