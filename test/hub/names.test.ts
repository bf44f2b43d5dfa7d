import { describe, expect, it } from 'vitest';
import { BitnetError } from '../../src/errors.ts';
import { normalEtag } from '../../src/hub/api.ts';
import { checkpointFiles, chooseFile, findFile, partsOf } from '../../src/hub/choose.ts';
import { checkRelativePath, isHubReference, parseHubReference } from '../../src/hub/reference.ts';

const any = { quant: undefined, file: undefined };
const quant = (text: string) => ({ quant: text, file: undefined });

describe('names of models', () => {
  it.each([
    ['a/b', 'a/b', 'main', undefined, undefined],
    ['hf:a/b', 'a/b', 'main', undefined, undefined],
    ['hf://a/b-1.58_x:TQ1_0', 'a/b-1.58_x', 'main', 'TQ1_0', undefined],
    ['a/b@v1.0:i2_s', 'a/b', 'v1.0', 'i2_s', undefined],
    ['a/b@refs/pr/3', 'a/b', 'refs/pr/3', undefined, undefined],
    ['a/b@refs/pr/3/x/m.gguf', 'a/b', 'refs/pr/3', undefined, 'x/m.gguf'],
    ['a/b/x/mm:1.gguf', 'a/b', 'main', undefined, 'x/mm:1.gguf'],
  ])('%s', (text, repo, revision, wanted, file) => {
    expect(parseHubReference(text)).toEqual({ repo, revision, quant: wanted, file });
  });

  it.each(
    `a a/ /b a/b: a/b:x/y ../b a/.. a/..b a/b--c a--x/b -a/b .a/b a/b@ a/b@.. a/b@refs/pr/.. a/b/../c a/b/c/ a/b//c hf: ${'a'.repeat(60)}/${'b'.repeat(60)}`.split(
      ' ',
    ),
  )('%s is none', (text) => {
    expect(() => parseHubReference(text)).toThrow(BitnetError);
  });

  it('on the hub begin with hf:', () => {
    expect(['hf:a/b', 'HF://a/b'].map(isHubReference)).toEqual([true, true]);
    expect(['a/b', 'C:\\hf', './hf:a/b', 'https://hf:1/'].map(isHubReference)).toEqual([false, false, false, false]);
  });

  it.each([
    '',
    '/etc/passwd',
    '../x',
    'a/../../x',
    'a/./b',
    'a//b',
    'a\\..\\b',
    '\\\\host\\x',
    'C:x',
    'a/D:/x',
    'a\0b',
    'a\nb',
    'a'.repeat(2000),
  ])('the path %j would leave its folder, or worse', (path) => {
    expect(() => checkRelativePath(path, 'here')).toThrow(/^here: unsafe path/);
  });

  it('etags become names of files or nothing', () => {
    expect(normalEtag('W/"abc-1"')).toBe('abc-1');
    expect(normalEtag(`"${'f'.repeat(64)}"`)).toBe('f'.repeat(64));
    for (const bad of [null, '', '""', '"../x"', '".x"', '"a/b"', `"${'a'.repeat(300)}"`]) {
      expect(normalEtag(bad)).toBeUndefined();
    }
  });
});

describe('files of a repository', () => {
  const files = ['README.md', 'm-f16.gguf', 'm-i2_s.gguf', 'm-tq1_0.gguf'];

  it('one is chosen', () => {
    expect(chooseFile('a/b', files, any)).toBe('m-i2_s.gguf');
    expect(chooseFile('a/b', files, quant('TQ1_0'))).toBe('m-tq1_0.gguf');
    expect(chooseFile('a/b', ['only.gguf', 'x.txt'], any)).toBe('only.gguf');
    expect(chooseFile('a/b', files, { quant: undefined, file: 'README.md' })).toBe('README.md');
  });

  it('whole names come before parts of names', () => {
    const close = ['m-iq4_0.gguf', 'm-q4_0.gguf', 'm-q4_0_4_4.gguf'];
    expect(chooseFile('a/b', close, quant('q4_0'))).toBe('m-q4_0.gguf');
    expect(chooseFile('a/b', close, quant('4_4'))).toBe('m-q4_0_4_4.gguf');
    expect(chooseFile('a/b', ['tq2_0/model.gguf', 'tq1_0/model.gguf'], quant('tq1_0'))).toBe('tq1_0/model.gguf');
  });

  it('or none, and then it says what there is', () => {
    expect(() => chooseFile('a/b', files, quant('q4'))).toThrow(
      'a/b: no such GGUF file, expected one with q4 in its name, got m-f16.gguf, m-i2_s.gguf, m-tq1_0.gguf',
    );
    expect(() => chooseFile('a/b', ['x.gguf', 'y.gguf'], any)).toThrow(
      'a/b: several GGUF files, expected one, got x.gguf, y.gguf',
    );
    expect(() => chooseFile('a/b', files, quant('m'))).toThrow('several GGUF files');
    expect(() => chooseFile('a/b', files, { quant: undefined, file: 'z' })).toThrow(
      'a/b: z: no such file, got README.md',
    );
    expect(() => chooseFile('a/b', ['README.md'], any)).toThrow('got no GGUF files');
    expect(() => chooseFile('a/b', ['model.safetensors'], any)).toThrow('(bitnet convert hf:a/b -o model.gguf)');
    const many = Array.from({ length: 1000 }, (_, i) => `${i}.gguf`);
    expect(() => chooseFile('a/b', many, any)).toThrow(/39\.gguf and 960 more \(/);
    expect(findFile(files, quant('q4'))).toBeUndefined();
  });

  it('split ones come with all parts', () => {
    const split = ['x-00001-of-00002.gguf', 'x-00002-of-00002.gguf'];
    expect(chooseFile('a/b', split, any)).toBe(split[0]);
    expect(partsOf(split[0])).toEqual(split);
    expect(partsOf('x.gguf')).toEqual(['x.gguf']);
  });

  it('checkpoints are what converting needs', () => {
    const all = ['.gitattributes', 'config.json', 'model-00001-of-00001.safetensors', 'model.safetensors.index.json'];
    const more = ['original/model.safetensors', 'consolidated.safetensors', 'tokenizer.json', 'pytorch_model.bin'];
    expect(checkpointFiles('a/b', [...all, ...more])).toEqual(['config.json', 'tokenizer.json', all[2], all[3]]);
    expect(() => checkpointFiles('a/b', files)).toThrow(
      'a/b: not a checkpoint, expected config.json and model.safetensors',
    );
  });
});
