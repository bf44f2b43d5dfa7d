/** Base files, task files and states that are cut, foreign or false; each beside one that is taken. */
import { describe, expect, it } from 'vitest';
import type { ErrorCode } from '../../src/errors.ts';
import { memorySource } from '../../src/formats/sources.ts';
import { BaseFile, encodeBaseHeader, encodeLogProbs, rowWords } from '../../src/quality/base-file.ts';
import { readCheckpoint, writeCheckpoint } from '../../src/quality/checkpoint.ts';
import { parseHellaSwag } from '../../src/quality/hellaswag.ts';
import { parseLambada } from '../../src/quality/lambada.ts';
import { decodeFloats, encodeFloats, type Measurement, savedNumber } from '../../src/quality/measurement.ts';
import { parseMultipleChoice } from '../../src/quality/multiple-choice.ts';
import { parseWinogrande } from '../../src/quality/winogrande.ts';
import { normaliserOf } from '../../src/sampling/softmax.ts';
import { refuses } from './builder.ts';

describe('base files', () => {
  const VOCABULARY = 5;
  const SIZE = 4;

  /** Two windows, one row each. */
  function baseFile(): Uint8Array<ArrayBuffer> {
    const header = encodeBaseHeader({ size: SIZE, count: 2, ids: [1, 2, 3, 4, 0, 1, 2, 3] }, VOCABULARY);
    const row = new Uint8Array(2 * rowWords(VOCABULARY));
    const logits = Float32Array.from([1, 2, 3, 4, 5]);
    encodeLogProbs(logits, normaliserOf(logits), new DataView(row.buffer));
    return new Uint8Array([...header, ...row, ...row]);
  }
  const open = (bytes: Uint8Array<ArrayBuffer>) => BaseFile.open(memorySource(bytes, 'b.kld'));
  const changed = (change: (view: DataView) => void): Uint8Array<ArrayBuffer> => {
    const bytes = baseFile();
    change(new DataView(bytes.buffer));
    return bytes;
  };

  it('are read back as they were written', async () => {
    const base = await open(baseFile());
    expect([base.vocabularySize, base.windows]).toEqual([
      VOCABULARY,
      { size: SIZE, count: 2, ids: [1, 2, 3, 4, 0, 1, 2, 3] },
    ]);
    const [row, ...more] = await base.rows(1);
    expect(more).toEqual([]);
    expect([0, 4].map((id) => row.code(id))).toEqual([0, 65535]);
  });

  it.each<[string, Uint8Array<ArrayBuffer>, ErrorCode, RegExp]>([
    ['nothing', new Uint8Array(0), 'bad-container', /^b.kld: not a file of log-probabilities, expected "_logits_"/],
    ['another file', changed((v) => v.setUint8(0, 0x47)), 'bad-container', /got "Glogits_"/],
    ['a header that is cut off', baseFile().slice(0, 19), 'truncated', /header is cut off, expected 20 bytes, got 19/],
    ['windows of two tokens', changed((v) => v.setInt32(8, 2, true)), 'bad-container', /got 2, 5, 2$/],
    ['a negative vocabulary', changed((v) => v.setInt32(12, -5, true)), 'bad-container', /impossible header/],
    ['no windows', changed((v) => v.setInt32(16, 0, true)), 'bad-container', /impossible header/],
    [
      'more windows than there are',
      changed((v) => v.setInt32(16, 3, true)),
      'truncated',
      /expected 128 bytes for 3 windows, got 92, 1 whole windows$/,
    ],
    [
      'a billion windows',
      changed((v) => v.setInt32(16, 0x7fffffff, true)),
      'limit-exceeded',
      /promises more than such a file can hold/,
    ],
    [
      'a missing byte',
      baseFile().slice(0, -1),
      'truncated',
      /expected 92 bytes for 2 windows, got 91, 1 whole windows/,
    ],
    ['a byte more', new Uint8Array([...baseFile(), 0]), 'bad-container', /more than the header says/],
    ['a token that is none', changed((v) => v.setInt32(24, 5, true)), 'bad-container', /token 1: .*0 to 4, got 5/],
  ])('%s is refused', async (_, bytes, code, message) => {
    await refuses(open(bytes), code, message);
  });

  it.each<[string, (view: DataView) => void]>([
    ['a scale that is no number', (v) => v.setFloat32(72, Number.NaN, true)],
    ['a scale below 0', (v) => v.setFloat32(72, -1e-4, true)],
    ['a scale without bounds', (v) => v.setFloat32(72, Infinity, true)],
    ['probabilities above 1', (v) => v.setFloat32(76, 0.5, true)],
    ['the least value at minus infinity', (v) => v.setFloat32(76, -Infinity, true)],
  ])('%s is refused where it is read', async (_, change) => {
    const base = await open(changed(change));
    await base.rows(0);
    await refuses(base.rows(1), 'bad-container', /^b.kld, window 2, row 1: not log-probabilities/);
  });
});

describe('task files', () => {
  const hellaSwag = 'Act: one\n2\na\nb\nc\nd\n';

  it('HellaSwag needs six lines a task and an ending that exists', async () => {
    expect(parseHellaSwag(hellaSwag + hellaSwag.replaceAll('\n', '\r\n'))).toEqual(
      [1, 2].map((number) => ({ number, context: 'Act: one', gold: 2, endings: ['a', 'b', 'c', 'd'] })),
    );
    await refuses(() => parseHellaSwag('', 'hs'), 'bad-argument', /^hs: .*six lines a task, got 0 lines/);
    await refuses(() => parseHellaSwag(`${hellaSwag}x`, 'hs'), 'bad-argument', /got 7 lines/);
    await refuses(
      () => parseHellaSwag(hellaSwag + hellaSwag.replace('2', '4'), 'hs'),
      'bad-argument',
      /^hs, line 8: .*0 to 3, got "4"/,
    );
  });

  it('Winogrande passes over what is no task, and needs one', async () => {
    const csv = [
      'index,sentence,option1,option2,answer',
      '0,Sarah was better than Maria so _ got it.,Sarah,Maria,2',
      '1,"He said, ""well"", and _, too.",Tom,Ben,1',
      '2,no gap,a,b,1',
      '',
      '3,a _,b,c,3',
      '4,a _,b,c',
    ].join('\n');
    expect(parseWinogrande(csv)).toEqual({
      tasks: [
        { line: 2, before: 'Sarah was better than Maria so ', after: ' got it.', choices: ['Sarah', 'Maria'], gold: 1 },
        { line: 3, before: 'He said, ""well"", and ', after: ', too.', choices: ['Tom', 'Ben'], gold: 0 },
      ],
      skipped: [1, 4, 6, 7],
    });
    await refuses(() => parseWinogrande('a\nb\n', 'w'), 'bad-argument', /^w: there is no Winogrande.*2 other lines/);
    await refuses(() => parseWinogrande('', 'w'), 'bad-argument', /got nothing/);
  });

  it('LAMBADA needs objects with a text of several words', async () => {
    expect(parseLambada('{"text": "a b"}\n\n{"text":"one  two \\n", "more": 1}')).toEqual([
      { line: 1, text: 'a b' },
      { line: 3, text: 'one  two' },
    ]);
    for (const [text, message] of [
      ['{"text": "a b"}\n{', /^l, line 2: not JSON/],
      ['["a b"]', /^l, line 1: no passage/],
      ['{"text": "word"}', /got "word"/],
      ['{"text": 3}', /got 3/],
      ['null', /no passage/],
      ['\n', /no passages/],
    ] as const) {
      await refuses(() => parseLambada(text, 'l'), 'bad-argument', message);
    }
  });
});

describe('multiple-choice files', () => {
  const u32 = (value: number) => [value & 255, (value >>> 8) & 255, (value >>> 16) & 255, value >>> 24];
  const string = (text: string) => [...u32(Buffer.byteLength(text)), ...Buffer.from(text)];
  const answers = (texts: string[], labels: number[]) => [
    ...u32(texts.length),
    ...texts.flatMap(string),
    ...labels.flatMap(u32),
  ];
  const task = (question: string, texts: string[], right: number) => [
    ...string(question),
    ...answers(
      texts,
      texts.map((_, i) => Number(i === right)),
    ),
    ...answers(['x'], [1]),
  ];
  function fileOf(tasks: number[][], places?: number[]): Uint8Array {
    let at = 4 + 4 * tasks.length;
    const table = tasks.map((one) => {
      at += one.length;
      return at - one.length;
    });
    return Uint8Array.from([...u32(tasks.length), ...(places ?? table).flatMap(u32), ...tasks.flat()]);
  }
  const three = ['é?', 'b', 'c'].map((question, i) => task(question, ['no', 'yes', 'so'], i));

  it('are read one behind the other, or from where the table says', () => {
    const all = parseMultipleChoice(fileOf(three), 0);
    expect(all.map(({ question }) => question)).toEqual(['é?', 'b', 'c']);
    expect(all[1]).toEqual({
      number: 2,
      question: 'b',
      answers: ['no', 'yes', 'so'],
      right: [false, true, false],
    });
    // Two of three: drawScaled draws 1 and then 2 (2^-32 * 1791095845 * 3 is 1.25; then 2^-32 * 4282876139 * 2 is 1.99).
    expect(parseMultipleChoice(fileOf(three), 2)).toEqual([all[1], all[2]]);
    // The table only counts where tasks are drawn, as in llama.cpp.
    expect(parseMultipleChoice(fileOf(three, [0, 0, 0]), 3)).toEqual(all);
  });

  it.each<[string, Uint8Array, number, ErrorCode, RegExp]>([
    ['nothing', new Uint8Array(3), 0, 'truncated', /^m, the number of tasks: .*4 bytes at 0, got 3/],
    ['no tasks', new Uint8Array(4), 0, 'bad-argument', /no tasks/],
    ['more tasks than bytes', Uint8Array.from([255, 255, 255, 255, 0]), 0, 'truncated', /at most 0, got 4294967295/],
    ['a task that is cut off', fileOf(three).slice(0, -1), 0, 'truncated', /^m, task 3: the file ends too early/],
    [
      'a text longer than the file',
      fileOf([[...u32(0xffffffff), ...three[0]]]),
      0,
      'truncated',
      /expected 4294967295 bytes at 12/,
    ],
    [
      'more answers than there may be',
      fileOf([[...string('q'), ...u32(101), ...new Array(999).fill(0)]]),
      0,
      'limit-exceeded',
      /at most 100, got 101/,
    ],
    ['an empty answer', fileOf([task('q', ['a', ''], 0)]), 0, 'bad-argument', /empty question or answer/],
    ['a table that points into itself', fileOf(three, [0, 4, 8]), 1, 'bad-container', /task 2: .*got byte 4/],
    ['a table that points behind the end', fileOf(three, [0, 1e6, 0]), 1, 'truncated', /task 2: .*got 0/],
  ])('%s is refused', async (_, bytes, count, code, message) => {
    await refuses(() => parseMultipleChoice(bytes, count, 'm'), code, message);
  });
});

describe('states', () => {
  it('hold numbers where numbers belong', async () => {
    expect(savedNumber({ nats: 0.5 }, 'nats')).toBe(0.5);
    for (const nats of [Infinity, Number.NaN, '0.5']) {
      await refuses(() => savedNumber({ nats }, 'nats'), 'bad-metadata', /^nats: .*expected a number, got/);
    }
    await refuses(() => savedNumber({}, 'nats'), 'bad-metadata', /got undefined/);
    const floats = Float32Array.from([1.5, -0, 1e-30]);
    expect(decodeFloats({ x: encodeFloats(floats) }, 'x', 3)).toEqual(floats);
    await refuses(
      () => decodeFloats({ x: encodeFloats(floats) }, 'x', 4),
      'bad-metadata',
      /expected 4 floats, got 12 bytes/,
    );
    await refuses(() => decodeFloats({ x: '?' }, 'x', 0), 'bad-metadata', /got no base64/);
  });

  function counting(): Measurement<number> & { sum: number } {
    return {
      steps: 9,
      sum: 0,
      async step() {},
      save() {
        return { sum: this.sum };
      },
      restore(saved) {
        this.sum = saved.sum as number;
      },
      running: () => '',
      result: () => 0,
    };
  }
  const of = { method: 'windows', contextSize: 512, separator: null };

  it('give numbers back to the bit', async () => {
    const before = counting();
    before.sum = 0.1 + 0.2;
    const text = await writeCheckpoint(of, 3, before);
    const after = counting();
    expect(await readCheckpoint(text, 's', { ...of }, after)).toBe(3);
    expect(after.sum).toBe(0.1 + 0.2);
  });

  it('are refused where they were cut or changed, and where they belong to something else', async () => {
    const text = await writeCheckpoint(of, 3, counting());
    const read = (one: string, identity: Parameters<typeof readCheckpoint>[2] = of) =>
      readCheckpoint(one, 's', identity, counting());
    await refuses(read(text.slice(0, -9)), 'bad-container', /^s: not a state of a measurement, expected JSON/);
    await refuses(read('{"bitnetQuality":1}'), 'bad-container', /what --state wrote/);
    await refuses(read('null'), 'bad-container', /what --state wrote/);
    await refuses(read(text.replace('"done":3', '"done":4')), 'bad-container', /the state is damaged/);
    await refuses(read(text.replace('"sum":0', '"sum":1')), 'bad-container', /the state is damaged/);
    await refuses(read(text.replace('Quality":1', 'Quality":2')), 'unsupported-version', /expected 1, got 2/);
    await refuses(
      read(text, { ...of, contextSize: 256, text: 'abc' }),
      'bad-argument',
      /^s: the state of another measurement, expected contextSize 256, text abc, got 512, none/,
    );
    await refuses(read(text, { method: 'windows', separator: null }), 'bad-argument', /contextSize none, got 512/);
    await refuses(read(await writeCheckpoint(of, 10, counting())), 'bad-container', /at most 9 steps, got 10/);
  });
});
