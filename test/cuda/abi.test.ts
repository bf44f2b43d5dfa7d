/** `abi.ts` says what `native/abi.h` and `commands.md` say. */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { ABI_VERSION, Code, DENSE_CODE, INFO_BYTES, Op, PROTOTYPES } from '../../src/kernels/cuda/abi.ts';

const read = (name: string) => readFileSync(new URL(`../../src/kernels/cuda/${name}`, import.meta.url), 'utf8');
const header = read('native/abi.h');
const constants = (pattern: RegExp) =>
  Object.fromEntries([...header.matchAll(pattern)].map(([, name, value]) => [name, Number(value)]));

describe('the border of the native library', () => {
  it('has one version', () => {
    expect(constants(/#define (BN_ABI_VERSION) (\d+)/g)).toEqual({ BN_ABI_VERSION: ABI_VERSION });
  });

  it('has the same codes of errors', () => {
    const { OK, ...errors } = Code;
    expect(constants(/BN_ERR_(\w+) = (\d+)/g)).toEqual(errors);
    expect(constants(/BN_(OK) = (\d+)/g)).toEqual({ OK });
  });

  it('has the same types', () => {
    const types = /enum \{ (BN_F32 = 0.*?) \}/.exec(header)?.[1] ?? '';
    const found = [...types.matchAll(/BN_(\w+) = (\d)/g)].map(([, name, code]) => [name, Number(code)]);
    expect(Object.fromEntries(found)).toEqual(DENSE_CODE);
  });

  it('has the same opcodes, each with its row on the page of commands', () => {
    const list = /enum \{\n( {2}BN_EMBED[\s\S]*?)\n\};/.exec(header)?.[1] ?? '';
    const found = [...list.matchAll(/BN_(\w+) = (\d+)/g)].map(([, name, code]) => [name, Number(code)]);
    expect(Object.fromEntries(found)).toEqual(Op);
    const rows = [...read('commands.md').matchAll(/^\| ([A-Z0-9_]+) \| (\d+) \|/gm)];
    expect(Object.fromEntries(rows.map(([, name, code]) => [name, Number(code)]))).toEqual(Op);
  });

  it('has these functions, with these arguments', () => {
    const plain = (text: string) =>
      text
        .replace(/_Out_ |const /g, '')
        .replace(/\bchar\* json\b/, 'void* json')
        .replace(/\s+/g, ' ');
    const declared = new Map(
      [...header.matchAll(/^BN_API ([^;]*?(bn_\w+)\([^;]*\));/gm)].map(([, text, name]) => [name, plain(text)]),
    );
    expect(declared.size).toBeGreaterThan(12);
    for (const [name, prototype] of Object.entries(PROTOTYPES)) expect(plain(prototype), name).toBe(declared.get(name));
    expect(header).toContain(`${INFO_BYTES} are enough`);
  });
});
