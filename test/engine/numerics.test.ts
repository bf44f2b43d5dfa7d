/**
 * The numbers that this version promises, by the definition: the digests beside `test/runtime/matrix`, which holds every
 * runtime and every setting to the same ones.
 */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { type SynthOptions, synthesize } from '../../src/convert/synth.ts';
import { memorySink } from '../../src/formats/sink.ts';
import { loadModel, numericsHistory, numericsVersion, type SessionOptions } from '../../src/index.ts';
import { ARCHITECTURES } from '../../src/model/architectures.ts';
import { littleEndianBytes } from '../../src/oracle/npy.ts';

interface Entry {
  readonly name: string;
  readonly file?: string;
  readonly synth?: SynthOptions;
  readonly tokens: { readonly count: number; readonly below: number };
  readonly session?: SessionOptions;
  readonly sha256: string;
}

const root = new URL('../../', import.meta.url);
const table = JSON.parse(readFileSync(new URL('test/runtime/matrix/numerics.json', root), 'utf8')) as {
  readonly numericsVersion: number;
  readonly models: readonly Entry[];
};

const CHANGED =
  'Bits of logits have changed. If that is no mistake, raise numericsVersion in src/engine/numerics.ts, with the reason, and ' +
  'run `npm run matrix -- --write`';

describe('numericsVersion', () => {
  it('is the last of a history without gaps, each with its day and its reason', () => {
    expect(numericsHistory.map(({ version }) => version)).toEqual(numericsHistory.map((_, index) => index + 1));
    expect(numericsHistory.at(-1)?.version).toBe(numericsVersion);
    const days = numericsHistory.map(({ date }) => date);
    for (const day of days) expect(new Date(day).toISOString().slice(0, 10)).toBe(day);
    expect(days).toEqual([...days].sort());
    for (const { reason } of numericsHistory) expect(reason.length).toBeGreaterThan(20);
  });

  it('is the one whose digests are committed', () => {
    expect(table.numericsVersion, 'run `npm run matrix -- --write`').toBe(numericsVersion);
  });

  it('has digests of every architecture', () => {
    const named = new Set(table.models.map(({ name }) => name.split(' ')[0]));
    // The same graph under the name of another tool.
    for (const architecture of ARCHITECTURES.keys()) {
      if (architecture !== 'bitnet-25') expect([...named]).toContain(architecture);
    }
  });
});

describe('the digests of numericsVersion', () => {
  it.each(table.models)('$name', async (entry) => {
    const { file, synth, tokens, session: options, sha256 } = entry;
    const model = await loadModel(file === undefined ? await made(synth!) : new URL(file, root), { backend: 'ts' });
    try {
      const ids = Array.from({ length: tokens.count }, (_, i) => (i * 53 + 259) % tokens.below);
      const session = model.createSession({ contextSize: ids.length, ...options });
      const hash = createHash('sha256');
      for await (const rows of session.logits(ids)) hash.update(littleEndianBytes(rows));
      expect(hash.digest('hex'), CHANGED).toBe(sha256);
    } finally {
      await model.dispose();
    }
  });
});

async function made(options: SynthOptions): Promise<Uint8Array> {
  const sink = memorySink();
  await synthesize(sink, options);
  return sink.bytes();
}
