import { describe, expect, it } from 'vitest';
import { fromEnvironment, normaliseArgs } from '../../src/cli/args.ts';
import { commands } from '../../src/cli/commands.ts';
import { type Flags, UsageError } from '../../src/cli/flags.ts';
import { logitBias, samplingFlags, samplingOptions } from '../../src/cli/flags-common.ts';
import { bytes, count, duration, grouped, oneLine, plural, rate, shortFloat, table } from '../../src/cli/format.ts';
import { parseIds } from '../../src/cli/oracle-input.ts';
import { openingFor, readEscapes } from '../../src/cli/prompt.ts';

const flags = {
  prompt: { type: 'string', also: ['-p'], describe: '' },
  predict: { type: 'integer', also: ['-n', '--n-predict'], min: -1, describe: '' },
  temp: { type: 'number', also: ['-temp', '--temperature'], describe: '' },
  'top-k': { type: 'integer', describe: '' },
  'gpu-layers': { type: 'integer', also: ['-ngl'], describe: '' },
  conversation: { type: 'boolean', also: ['-cnv'], describe: '' },
  stop: { type: 'list', also: ['-r'], describe: '' },
  backend: { type: 'string', choices: ['auto', 'ts'], env: 'BITNET_BACKEND', describe: '' },
} as const satisfies Flags;

const complaint = (args: string[]): string => {
  try {
    return `accepted: ${normaliseArgs(args, flags).join(' ')}`;
  } catch (error) {
    if (error instanceof UsageError) return error.message;
    throw error;
  }
};

describe('arguments', () => {
  it('of several letters behind one dash become long names', () => {
    expect(normaliseArgs(['-ngl', '0', '-cnv', '-temp', '0.5'], flags)).toEqual([
      '--gpu-layers=0',
      '--conversation=true',
      '--temp=0.5',
    ]);
    expect(normaliseArgs(['--temperature=0.5', '--n_predict', '3', '--top_k', '1'], flags)).toEqual([
      '--temp=0.5',
      '--predict=3',
      '--top-k=1',
    ]);
  });

  it('take the next word as it is', () => {
    expect(normaliseArgs(['-n', '-1'], flags)).toEqual(['--predict=-1']);
    expect(normaliseArgs(['-p', '-cnv'], flags)).toEqual(['--prompt=-cnv']);
    expect(normaliseArgs(['-p', '--help me=now'], flags)).toEqual(['--prompt=--help me=now']);
    expect(normaliseArgs(['-p', ''], flags)).toEqual(['--prompt=']);
    expect(normaliseArgs(['-p', '"a"\nb'], flags)).toEqual(['--prompt="a"\nb']);
    expect(normaliseArgs(['-p', 'a', '--', '-n', '1'], flags)).toEqual(['--prompt=a', '--', '-n', '1']);
  });

  it('given twice count the last time, lists add up', () => {
    expect(normaliseArgs(['-n', '1', '-r', 'a', '-r', 'b', '-n', '2'], flags)).toEqual([
      '--predict=2',
      '--stop=a',
      '--stop=b',
    ]);
  });

  it('that make no sense are refused with what would', () => {
    expect(complaint(['-n'])).toBe('-n needs a value');
    expect(complaint(['-n', '1.5'])).toBe('-n takes an integer of at least -1, got "1.5"');
    expect(complaint(['-n', '-2'])).toBe('-n takes an integer of at least -1, got "-2"');
    for (const value of ['warm', '', ' ', '0x10', 'NaN', 'Infinity', '1e999', '1,5']) {
      expect(complaint(['--temp', value])).toBe(`--temp takes a number, got ${JSON.stringify(value)}`);
    }
    expect(complaint(['--temp', '1e-3'])).toBe('accepted: --temp=1e-3');
    expect(complaint(['--backend', 'gpu'])).toBe('--backend takes auto, ts; got "gpu"');
    expect(complaint(['--tmep', '1'])).toBe('unknown flag --tmep; did you mean --temp?');
    expect(complaint(['-zzz'])).toBe('unknown flag -zzz');
    expect(complaint(['-x', '1'])).toBe('unknown flag -x');
    expect(complaint(['-st'])).toBe('unknown flag -st');
    expect(complaint(['-cnv=maybe'])).toBe('-cnv takes no value, got "maybe"');
  });

  it('fall back on the environment', () => {
    expect(fromEnvironment(['--temp=1'], flags, { BITNET_BACKEND: 'ts' })).toEqual(['--backend=ts']);
    expect(fromEnvironment(['--backend=auto'], flags, { BITNET_BACKEND: 'ts' })).toEqual([]);
    expect(fromEnvironment([], flags, { BITNET_BACKEND: '' })).toEqual([]);
    expect(() => fromEnvironment([], flags, { BITNET_BACKEND: 'x' })).toThrow('BITNET_BACKEND takes auto, ts');
  });
});

describe('flags of the commands', () => {
  it.each(commands.map(({ name, load }) => [name, load] as const))('%s: no spelling is used twice', async (_, load) => {
    const spellings = Object.entries((await load()).flags).flatMap(([name, flag]) => [
      `--${name}`,
      ...(flag.also ?? []),
    ]);
    expect(new Set([...spellings, '--help', '-h', '--version']).size).toBe(spellings.length + 3);
  });

  it('become sampling options only where given', () => {
    const none = Object.fromEntries(Object.keys(samplingFlags).map((name) => [name, undefined]));
    const args = { ...none, 'penalize-nl': false, 'logit-bias': [] } as unknown as Parameters<
      typeof samplingOptions
    >[0];
    expect(samplingOptions(args)).toEqual({});
    expect(samplingOptions({ ...args, temp: 0, 'logit-bias': ['3+1'] })).toEqual({
      temperature: 0,
      logitBias: new Map([[3, 1]]),
    });
  });

  it('reads logit biases as llama.cpp writes them', () => {
    expect([...logitBias(['15043+1', '7-0.5', '8-inf', '9+.25'])]).toEqual([
      [15043, 1],
      [7, -0.5],
      [8, -Infinity],
      [9, 0.25],
    ]);
    for (const bad of ['15043', '+1', '1+', '1+inf', 'x+1', '1=2', '1+1e5'])
      expect(() => logitBias([bad])).toThrow(UsageError);
  });

  it('reads token ids', () => {
    expect(parseIds('1, 300,310')).toEqual([1, 300, 310]);
    for (const bad of ['', '1,', '1 2', '-1', '1.5', '9999999999']) expect(() => parseIds(bad)).toThrow(UsageError);
  });
});

describe('prompts', () => {
  it('have escapes', () => {
    expect(readEscapes('a\\nb\\t\\"c\\"\\\\n\\x41\\x')).toBe('a\nb\t"c"\\nA\\x');
    expect(readEscapes('\\d \\')).toBe('\\d \\');
  });

  it('are chosen by the seed', () => {
    expect(openingFor(7)).toBe(openingFor(7));
    expect(new Set(Array.from({ length: 40 }, (_, seed) => openingFor(seed))).size).toBeGreaterThan(3);
  });
});

describe('formatting', () => {
  it('shows numbers as people read them', () => {
    expect([0, 1023, 1024, 15_000_000, 3 * 2 ** 40].map(bytes)).toEqual([
      '0 B',
      '1023 B',
      '1.00 KiB',
      '14.3 MiB',
      '3.0 TiB',
    ]);
    expect([850, 15_190_000, 2_412_820_480].map(count)).toEqual(['850', '15.2 M', '2.41 B']);
    expect([7, 1234, 1234567].map(grouped)).toEqual(['7', '1,234', '1,234,567']);
    expect([plural(1, 'token'), plural(2000, 'token')]).toEqual(['1 token', '2,000 tokens']);
    expect([1.234, 950, 2310].map(duration)).toEqual(['1.2 ms', '950 ms', '2.31 s']);
    expect([52.34, 310.2, 0, Infinity].map(rate)).toEqual(['52.3 tokens/s', '310 tokens/s', '-', '-']);
  });

  it('shows an f32 as it was written', () => {
    expect([1e-5, 0.1, 500000, 1 / 3].map((x) => shortFloat(Math.fround(x)))).toEqual([
      '0.00001',
      '0.1',
      '500000',
      '0.33333334',
    ]);
  });

  it('keeps text on one line and columns in line', () => {
    expect(oneLine('a\n"b"\u0000', 40)).toBe('a\\n"b"\\u0000');
    expect(oneLine('abcdef', 3)).toBe('abc...');
    expect(
      table(
        [
          ['name', 'n'],
          ['x', '10'],
        ],
        [1],
      ),
    ).toBe('name   n\nx     10');
  });
});
