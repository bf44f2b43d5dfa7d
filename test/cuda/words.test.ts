/** The words of commands (`commands.md`): how much of its buffers each op reaches, and what its numbers may be. */
import { describe, expect, it } from 'vitest';
import { Code } from '../../src/kernels/cuda/abi.ts';
import { Rng } from '../../src/numeric/rng.ts';
import { failure, failureOf, Library, legalCommands } from './library.ts';
import { shimPath } from './shim.ts';

const library = shimPath === undefined ? undefined : new Library(shimPath);

describe.skipIf(library === undefined)('the words of commands', () => {
  it('takes buffers that hold what an op needs, and none of a byte less', () => {
    const c = library!.open();
    const f32 = 0x3f800000;
    // For every op: its words, @i for the handle of the i-th buffer, and the bytes of those buffers with what each is called.
    const tables: [string, (number | string)[], [number, string][]][] = [
      [
        'embed',
        [1, 11, '@0', 0, 1, '@1', 5, 96, '@2', 0, 3],
        [
          [3 * 96 * 4, 'out'],
          [5 * 96 * 2, 'table'],
          [3 * 4, 'ids'],
        ],
      ],
      [
        'rmsNorm',
        [2, 11, '@0', 0, '@1', 0, '@2', 0, f32, 70, 3],
        [
          [840, 'out'],
          [840, 'x'],
          [280, 'gain'],
        ],
      ],
      [
        'quantizeRows',
        [3, 10, '@0', 0, '@1', 0, '@2', 0, 130, 3],
        [
          [768, 'codes'],
          [24, 'meta'],
          [1560, 'x'],
        ],
      ],
      [
        'rmsNormQuantize',
        [16, 13, '@0', 0, '@1', 0, '@2', 0, '@3', 0, f32, 130, 3],
        [
          [768, 'codes'],
          [24, 'meta'],
          [1560, 'x'],
          [520, 'gain'],
        ],
      ],
      [
        'ternaryMatmul',
        [4, 13, '@0', 0, '@1', f32, 5, 130, '@2', 0, '@3', 0, 3],
        [
          [3 * 5 * 4, 'out'],
          [5 * 64, 'weight'],
          [3 * 256, 'codes'],
          [24, 'meta'],
        ],
      ],
      [
        'denseMatmul',
        [5, 11, '@0', 0, 1, '@1', 5, 70, '@2', 0, 3],
        [
          [3 * 5 * 4, 'out'],
          [5 * 70 * 2, 'weight'],
          [3 * 70 * 4, 'x'],
        ],
      ],
      [
        'rope',
        [6, 10, '@0', 0, '@1', 0, 5, 6, 0, 3],
        [
          [3 * 5 * 6 * 4, 'x'],
          [3 * 6 * 4, 'angles'],
        ],
      ],
      [
        'kvAppend',
        [7, 16, '@0', 0, '@1', 0, 2, 6, 1, 3, 1, 0, 7, '@2', '@3', 4],
        [
          [3 * 2 * 6 * 4, 'rows'],
          [3 * 2 * 6 * 4, 'v'],
          [2 * 2 * 7 * 6 * 2, 'keys'],
          [2 * 2 * 7 * 6 * 4, 'values'],
        ],
      ],
      [
        'attention',
        [8, 18, '@0', 0, '@1', 0, 4, 2, 6, 1, 3, 0, 1, 7, f32, '@2', '@3', 4],
        [
          [3 * 4 * 6 * 4, 'out'],
          [3 * 4 * 6 * 4, 'rows'],
          [2 * 2 * 7 * 6 * 4, 'keys'],
          [2 * 2 * 7 * 6 * 2, 'values'],
        ],
      ],
      ...(
        [
          ['gatedRelu2', 9],
          ['gatedSilu', 10],
          ['add', 11],
          ['gatedGelu', 17],
        ] as const
      ).map(([name, code]): [string, (number | string)[], [number, string][]] => [
        name,
        [code, 9, '@0', 0, '@1', 0, '@2', 0, 33],
        [
          [132, 'out'],
          [132, 'first input'],
          [132, 'second input'],
        ],
      ]),
      [
        'copyRows',
        [12, 7, '@0', 0, '@1', 0, 33],
        [
          [132, 'out'],
          [132, 'first input'],
        ],
      ],
      [
        'scale',
        [18, 8, '@0', 0, '@1', 0, f32, 33],
        [
          [132, 'out'],
          [132, 'first input'],
        ],
      ],
      [
        'topK',
        [19, 10, '@0', 0, '@1', 0, 33, 2, 5, 3],
        [
          [3 * 12 * 4, 'out'],
          [3 * 33 * 4, 'x'],
        ],
      ],
      [
        'denseIndex',
        [20, 7, '@0', 1, '@1', 5, 64],
        [
          [5 * 12, 'index'],
          [5 * 128, 'weight'],
        ],
      ],
      [
        'denseTopK',
        [21, 16, '@0', 0, '@1', 0, 2, '@2', '@3', 5, 64, '@4', 0, 2, 6, 3],
        [
          [3 * 5 * 4, 'out'],
          [3 * 14 * 4, 'top'],
          [5 * 128, 'weight'],
          [5 * 12, 'index'],
          [3 * 64 * 4, 'x'],
        ],
      ],
    ];
    expect(tables.map(([name]) => name).sort()).toEqual([...legalCommands(c).keys()].sort());
    for (const [name, words, needs] of tables) {
      const run = (less?: number) => {
        const handles = needs.map(([bytes], i) => c.alloc(bytes - Number(i === less)));
        const list = words.map((word) => (typeof word === 'string' ? handles[Number(word.slice(1))] : word));
        try {
          c.run(list);
        } finally {
          for (const handle of handles) c.free(handle); // looks at the guards
        }
      };
      run();
      for (const [i, [, what]] of needs.entries()) {
        const { code, message } = failure(() => run(i));
        expect([code, message]).toEqual([
          Code.ARGUMENT,
          expect.stringContaining(`${name} (command 0): ${what}: elements`),
        ]);
      }
    }
    c.close();
  });

  it('puts every row where its own command says, however often a list names it', () => {
    const rng = Rng.fromSeed(7);
    const below = (n: number) => rng.nextUint32() % n;
    const [rows, context, width] = [6, 12, 2];
    const c = library!.open();
    const data = [100, 200].map((from) => new Float32Array(rows * width).map((_, i) => from + i));
    const [k, v] = data.map((floats) => c.alloc(floats.byteLength));
    for (const [i, handle] of [k, v].entries()) c.write(handle, data[i]);
    const empty = new Float32Array(context * width);
    const caches = Array.from({ length: 5 }, () => ({ handle: c.alloc(empty.byteLength), expected: empty.slice() }));
    let several = 0;
    for (let round = 0; round < 200; round++) {
      const list: number[] = [];
      const taken = new Map<string, number>();
      for (let i = 0; i < 4; i++) {
        const first = below(rows);
        const count = 1 + below(rows - first);
        const position = first + below(3);
        // Of sequences that share their keys or their values with others; a place is for one row only.
        const pair = [below(2), 2 + below(3)] as const;
        const places = Array.from({ length: count }, (_, at) => pair.map((one) => `${one} ${position + at}`));
        if (places.some((both, at) => both.some((place) => (taken.get(place) ?? first + at) !== first + at))) continue;
        for (const [at, both] of places.entries()) for (const place of both) taken.set(place, first + at);
        const [keys, values] = pair.map((one) => caches[one]);
        const at = first * width;
        list.push(7, 16, k, at, v, at, 1, width, 0, count, 0, 0, context, keys.handle, values.handle, position);
        for (const [which, { expected }] of [keys, values].entries()) {
          expected.set(data[which].subarray(at, at + count * width), position * width);
        }
      }
      if (list.length > 32) several++;
      c.run(list);
      for (const { handle, expected } of caches) {
        expect(c.read(handle, empty.slice()), `round ${round}: ${list}`).toEqual(expected);
        c.write(handle, expected.fill(0));
      }
    }
    expect(several).toBeGreaterThan(30);
    c.close();
  });

  it('does nothing for no rows, and remembers nothing of it', () => {
    const c = library!.open();
    const legal = legalCommands(c);
    legal.delete('denseIndex'); // has no rows of its own
    const { launches } = c.info();
    // The last word, or the one of KV commands that says so.
    for (const [name, words] of legal) {
      const none = words.with(name === 'kvAppend' ? 9 : name === 'attention' ? 10 : -1, 0);
      for (let i = 0; i < 3; i++) c.run(none);
    }
    expect(c.info()).toMatchObject({ launches, graphs: 0, replays: 0 });
    c.close();
  });

  it('knows the least and the greatest of every number', () => {
    const c = library!.open();
    const legal = legalCommands(c);
    const [ROWS, MATRIX, COLUMNS, INT] = [65_535, 2 ** 28, 2 ** 24, 2 ** 31 - 1];
    const kv = (at: number): [number, string, number, number][] => [
      [at, 'key/value heads', 1, ROWS],
      [at + 1, 'head dimension', 1, 1024],
      [at + 2, 'layer', 0, 2 ** 20],
      [at + 3, 'rows', 0, ROWS],
      [at + 4, 'type of keys', 0, 1],
      [at + 5, 'type of values', 0, 1],
      [at + 6, 'context', 1, 2_097_151],
    ];
    const row: [number, string, number, number][] = [
      [-2, 'columns', 1, 40_000],
      [-1, 'rows', 0, INT],
    ];
    const bounds: Record<string, [number, string, number, number][]> = {
      embed: [
        [4, 'type', 0, 5],
        [6, 'rows of the table', 1, INT],
        [7, 'columns', 1, COLUMNS],
        [10, 'rows', 0, INT],
      ],
      rmsNorm: row,
      quantizeRows: row,
      rmsNormQuantize: row,
      ternaryMatmul: [
        [6, 'rows of the matrix', 1, MATRIX],
        [7, 'columns', 1, COLUMNS],
        [12, 'rows', 0, ROWS],
      ],
      denseMatmul: [
        [4, 'type', 0, 5],
        [6, 'rows of the matrix', 1, MATRIX],
        [7, 'columns', 1, COLUMNS],
        [10, 'rows', 0, ROWS],
      ],
      rope: [
        [6, 'heads', 1, ROWS],
        [7, 'head dimension', 2, 1024],
        [8, 'style', 0, 1],
        [9, 'rows', 0, INT],
      ],
      kvAppend: [...kv(6), [15, 'position', 0, 30]],
      attention: [[6, 'heads', 1, ROWS], ...kv(7), [17, 'position', 0, 30]],
      ...Object.fromEntries(
        ['gatedRelu2', 'gatedSilu', 'add', 'gatedGelu', 'copyRows', 'scale'].map((name) => [
          name,
          [[-1, 'elements', 0, INT]],
        ]),
      ),
      topK: [
        [6, 'columns', 1, MATRIX],
        [7, 'k', 1, 128],
        [8, 'room', 1, COLUMNS],
        [9, 'rows', 0, ROWS],
      ],
      denseIndex: [
        [3, 'type', 1, 5],
        [5, 'rows of the matrix', 1, MATRIX],
        [6, 'columns', 1, 2 ** 18],
      ],
      denseTopK: [
        [6, 'type', 1, 5],
        [9, 'rows of the matrix', 1, MATRIX],
        [10, 'columns', 1, 2 ** 18],
        [13, 'k', 1, 8],
        [14, 'room', 1, COLUMNS],
        [15, 'rows', 0, ROWS],
      ],
    };
    expect(Object.keys(bounds).sort()).toEqual([...legal.keys()].sort());
    for (const [name, numbers] of Object.entries(bounds)) {
      const words = legal.get(name)!;
      for (const [at, what, low, high] of numbers) {
        for (const bad of [low - 1, high + 1]) {
          if (bad > INT) continue;
          expect(failure(() => c.run(words.with(at, bad))).message).toBe(
            `${name} (command 0): ${what}: expected ${low} to ${high}, got ${bad}`,
          );
        }
        // The ends themselves are refused only for what they would reach, if at all.
        for (const good of [low, high]) {
          const message = failureOf(() => c.run(words.with(at, good)))?.message ?? '';
          expect(message).not.toContain(`${what}: expected`);
        }
      }
    }
    c.close();
  });
});
