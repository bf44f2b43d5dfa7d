/** Real files, where a folder has them: BITNET_SHARED, or `shared` beside the repository. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { openGguf } from '../../src/formats/gguf/reader.ts';
import { copyOf, writeGguf } from '../../src/formats/gguf/writer.ts';
import { memorySink } from '../../src/formats/sink.ts';
import { openFileSource } from '../../src/platform/source-node.ts';
import { loadPacked } from '../../src/tensors/load.ts';
import { packedBytes, unpackRows } from '../../src/tensors/packed.ts';

const shared = process.env.BITNET_SHARED ?? fileURLToPath(new URL('../../../shared', import.meta.url));
const real = ['golden', 'vocab'].flatMap((room) =>
  existsSync(join(shared, room))
    ? readdirSync(join(shared, room))
        .filter((f) => f.endsWith('.gguf'))
        .map((f) => join(shared, room, f))
    : [],
);
if (real.length === 0) console.log(`skipped: real GGUF files; none in ${shared} (set BITNET_SHARED)`);

describe.skipIf(real.length === 0)('real files', () => {
  it.each(real)('%s is read and rewritten identically', async (path) => {
    const source = await openFileSource(path);
    const begin = performance.now();
    const file = await openGguf(source);
    const elapsedMs = performance.now() - begin;
    if (path.includes('llama-bpe')) console.log(`header of ${path}: ${elapsedMs.toFixed(1)} ms`);
    const sink = memorySink();
    await writeGguf(sink, { metadata: file.metadata, tensors: file.tensors.map((tensor) => copyOf(tensor, 1000)) });
    const [expected, actual] = [readFileSync(path), sink.bytes()];
    // The writer writes version 3; some of the vocabularies are of version 2.
    if (file.version === 2) actual[4] = 2;
    expect(Buffer.compare(actual, expected)).toBe(0);
    await file.close();
  });

  it('I2_S, TQ1_0 and TQ2_0 of one model have the same trits', async () => {
    const load = async (quant: string) => {
      const file = await openGguf(await openFileSource(join(shared, 'golden', `bitnet-b1.58-${quant}-1l.gguf`)));
      const matrices: [string, Int8Array<ArrayBuffer>, number][] = [];
      for (const { name, dtype, shape, source, offsetBytes } of file.tensors) {
        if (dtype.name !== 'I2_S' && dtype.name !== 'TQ1_0' && dtype.name !== 'TQ2_0') continue;
        const [columns, rows] = shape;
        const out = new Uint8Array(packedBytes(rows, columns));
        const read = (target: Uint8Array, at: number) => source.readInto(target, offsetBytes + at);
        const scale = await loadPacked({ where: name, dtype: dtype.name, rows, columns }, read, out);
        matrices.push([name, unpackRows(out, rows, columns), scale]);
      }
      await file.close();
      return matrices;
    };
    const [i2s, tq1, tq2] = [await load('i2_s'), await load('tq1_0'), await load('tq2_0')];
    expect(i2s.length).toBe(7);
    for (const other of [tq1, tq2]) {
      expect(other.map(([name]) => name)).toEqual(i2s.map(([name]) => name));
      other.forEach(([, trits, scale], i) => {
        expect(Buffer.compare(new Uint8Array(trits.buffer), new Uint8Array(i2s[i][1].buffer))).toBe(0);
        expect(Math.abs(scale / i2s[i][2] - 1)).toBeLessThan(2 ** -11);
      });
    }
  });
});
