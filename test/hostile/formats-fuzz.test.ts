import { describe, expect, it } from 'vitest';
import { describeValue } from '../../src/formats/gguf/metadata.ts';
import { openGguf } from '../../src/formats/gguf/reader.ts';
import { stringsValue, stringValue, writeGguf } from '../../src/formats/gguf/writer.ts';
import { openSafetensors } from '../../src/formats/safetensors/reader.ts';
import { memorySink } from '../../src/formats/sink.ts';
import type { ByteSource } from '../../src/formats/source.ts';
import { memorySource } from '../../src/formats/sources.ts';
import { encodeI2S } from '../../src/tensors/i2s.ts';
import { random, randomTrits, safetensors } from './builder.ts';

const nasty = [0n, 1n, 2n ** 31n, 2n ** 32n - 1n, 2n ** 53n, 2n ** 60n, 2n ** 63n, 2n ** 64n - 1n, 9n, 39n];

/** One to three random injuries. */
function injure(good: Uint8Array<ArrayBuffer>, pick: (n: number) => number): Uint8Array {
  let bytes = good.slice();
  for (let n = 1 + pick(3); n > 0; n--) {
    const at = pick(bytes.length);
    const kind = pick(5);
    if (kind === 0) bytes[at] = pick(256);
    else if (kind === 1) bytes[at] ^= 1 << pick(8);
    else if (kind === 2 && at + 8 <= bytes.length) {
      new DataView(bytes.buffer).setBigUint64(at, nasty[pick(nasty.length)], true);
    } else if (kind === 3) bytes = bytes.slice(0, Math.max(1, at));
    else bytes.copyWithin(pick(bytes.length), at, at + pick(64));
  }
  return bytes;
}

/** Fails when asked for more memory than the file has bytes. */
function bounded(bytes: Uint8Array): ByteSource {
  const inner = memorySource(bytes);
  return {
    ...inner,
    async readInto(target, offsetBytes) {
      if (target.length > bytes.length) throw new Error(`asked for ${target.length} of ${bytes.length}`);
      await inner.readInto(target, offsetBytes);
    },
  };
}

/** Injures `good` many times and counts how reading ends; anything but success or a BitnetError fails. */
async function fuzz(
  good: Uint8Array<ArrayBuffer>,
  rounds: number,
  read: (source: ByteSource, round: number) => Promise<void>,
) {
  const next = random(2026);
  const outcomes = new Map<string, number>();
  for (let round = 0; round < rounds; round++) {
    let outcome = 'read';
    try {
      await read(bounded(injure(good, (n) => Math.floor(next() * n))), round);
    } catch (error) {
      if (!(error instanceof Error) || error.name !== 'BitnetError')
        throw new Error(`round ${round}`, { cause: error });
      outcome = (error as unknown as { code: string }).code;
    }
    outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
  }
  return outcomes;
}

describe('mutated files are read or refused, never anything else, and never ask for more than they have', () => {
  it('gguf', async () => {
    const sink = memorySink();
    await writeGguf(sink, {
      metadata: [
        ['general.architecture', stringValue('bitnet')],
        ['general.alignment', { type: 'u32', value: 32 }],
        ['f', { type: 'f32', value: 1 }],
        ['b', { type: 'bool', value: true }],
        ['n', { type: 'i64', value: -1n }],
        ['tokens', stringsValue(['a', '', 'bcd', 'Ġthe'])],
        ['scores', { type: 'array', of: 'f32', values: Float32Array.of(1, 2, 3, 4) }],
        ['flags', { type: 'array', of: 'bool', values: Uint8Array.of(1, 0) }],
      ],
      tensors: [
        { name: 'w', dtype: 'I2_S', shape: [128, 2], data: () => [encodeI2S(randomTrits(256, 1), 1)] },
        { name: 'n', dtype: 'F32', shape: [4], data: () => [new Uint8Array(16)] },
      ],
    });
    const outcomes = await fuzz(sink.bytes(), 6000, async (source, round) => {
      const file = await openGguf(source, { allowUnreadable: round % 2 === 0 });
      for (const value of file.metadata.values()) describeValue(value);
      for (const { offsetBytes, byteLength } of file.tensors) {
        expect(offsetBytes + byteLength).toBeLessThanOrEqual(source.byteLength);
      }
    });
    const seen = ['read', 'truncated', 'limit-exceeded', 'bad-container', 'unsupported-type', 'bad-tensor'];
    for (const code of seen) expect(outcomes.get(code) ?? 0, code).toBeGreaterThan(0);
  });

  it('safetensors', async () => {
    const good = safetensors(
      {
        __metadata__: { format: 'pt' },
        'model.w': { dtype: 'U8', shape: [4, 8], data_offsets: [0, 32] },
        'model.n': { dtype: 'BF16', shape: [8], data_offsets: [32, 48] },
      },
      48,
    );
    const outcomes = await fuzz(good, 4000, async (source) => {
      const file = await openSafetensors(source);
      for (const { offsetBytes, byteLength } of file.tensors) {
        expect(offsetBytes + byteLength).toBeLessThanOrEqual(source.byteLength);
      }
    });
    const seen = ['read', 'truncated', 'limit-exceeded', 'bad-container', 'unsupported-type'];
    for (const code of seen) expect(outcomes.get(code) ?? 0, code).toBeGreaterThan(0);
  });
});
