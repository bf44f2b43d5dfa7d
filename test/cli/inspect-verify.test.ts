/** `inspect --verify`: files made wrong in one place, and whether the verdict names it; their sound twins are all ok. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { verdictLines } from '../../src/cli/verdicts.ts';
import { type Grade, type Verdict, verifyFile } from '../../src/engine/verify/file.ts';
import { BitnetError } from '../../src/errors.ts';
import { type GgufFile, memorySource, openGguf, stringsValue } from '../../src/formats/index.ts';
import { encodeF16, encodeF32 } from '../../src/tensors/floats.ts';
import { encodeI2S } from '../../src/tensors/i2s.ts';
import { BITNET_2B4T_TEMPLATE } from '../../src/tokenizer/index.ts';
import { random } from '../hostile/builder.ts';
import { tinyModel, wideModel } from '../model/models.ts';
import { changed, f32, type Loose, stories, text, u32 } from './mutants.ts';
import { bitnet } from './program.ts';

async function verdictsOn(file: Uint8Array, label = 'model.gguf', pre?: string): Promise<Verdict[]> {
  return verifyFile(await openGguf(memorySource(file, label), { allowUnreadable: true }), { pre });
}

const worse = (verdicts: readonly Verdict[]) => verdicts.filter(({ grade }) => grade !== 'ok');

let story: Uint8Array;
let llama: Uint8Array;
let tq2: Uint8Array;
let spm: Uint8Array;
beforeAll(async () => {
  story = await stories();
  llama = await tinyModel({ architecture: 'llama' });
  tq2 = await tinyModel({ type: 'TQ2_0' });
  spm = await tinyModel({});
});

describe('sound files', () => {
  it('the embedded model is all ok, and known by its shape', async () => {
    const verdicts = await verdictsOn(story, 'stories-i2_s.gguf');
    expect(worse(verdicts)).toEqual([]);
    expect(verdicts.length).toBeGreaterThan(20);
    expect(verdicts.find(({ what }) => what === 'model')?.finding).toContain(
      'the story model of bitnet-ts by its shape',
    );
  });

  it.each([
    ['bitnet-b1.58', 'I2_S', 'F16'],
    ['bitnet-b1.58', 'TQ2_0', 'Q6_K'],
    ['bitnet', 'F16', 'Q8_0'],
    ['bitnet', 'BF16', 'BF16'],
    ['llama', 'TQ1_0', 'F32'],
    ['llama', 'F32', 'F16'],
    ['llama', 'I2_S', 'Q4_K'],
    ['bitnet', 'TQ1_0', 'TQ2_0'], // a scale for each block: fine in a table
  ] as const)('%s as %s with %s tables', async (architecture, type, embeddingType) => {
    const file = await tinyModel({ architecture, type, embeddingType });
    expect(worse(await verdictsOn(file, `tiny-${type}-embed-${embeddingType}.gguf`))).toEqual([]);
  });

  it('a model of TQ2_0 with a scale for each block, which loading runs as Q8_0', async () => {
    const file = await changed(tq2, (l) => {
      for (const { dtype, bytes } of l.tensors) {
        // A bit of each second half-precision scale.
        if (dtype === 'TQ2_0') for (let at = 64; at < bytes.length; at += 2 * 66) bytes[at] ^= 1;
      }
    });
    const verdicts = await verdictsOn(file);
    expect(worse(verdicts)).toEqual([]);
    const found = verdicts.filter(({ finding }) => /2 TQ2_0, a scale for each block: run dense/.test(finding));
    expect(found).toHaveLength(7);
  });

  it('but a code that is none, in a table of TQ2_0, is found', async () => {
    const file = await tinyModel({ architecture: 'llama', embeddingType: 'TQ2_0' });
    const { offsetBytes } = (await openGguf(memorySource(file))).tensor('token_embd.weight');
    file[offsetBytes + 66 * 9 + 32 + 5] |= 0b1100_0000;
    const line = worse(await verdictsOn(file)).find(({ what }) => what === 'token_embd');
    expect(line).toMatchObject({ grade: 'bad' });
    expect(line?.finding).toMatch(/token_embd\.weight value 2533: code 3/); // 9 * 256 + 128 + 3 * 32 + 5
  });

  it('counts codes as they are, padding of packed rows not among them', async () => {
    const file = await changed(story, (loose) => {
      for (const { name } of loose.like('attn_q')) loose.setTrits(name, (i) => (i % 20 < 5 ? -1 : i % 20 < 14 ? 0 : 1));
      // Rows of 160 are padded to 256 when packed.
      const trits = Int8Array.from({ length: 160 * 8 }, (_, i) => (i % 20 < 9 ? -1 : i % 20 < 10 ? 0 : 1));
      loose.tensors.push({ name: 'odd', dtype: 'I2_S', shape: [160, 8], bytes: encodeI2S(trits, 0.5) });
    });
    const verdicts = await verdictsOn(file);
    expect(verdicts.find(({ what }) => what === 'blk.*.attn_q')?.finding).toBe(
      '6 I2_S: -1 25 %, 0 45 %, +1 30 % (zeros 45 % to 45 %), scale 0.113 to 0.122',
    );
    expect(verdicts.find(({ what }) => what === 'odd')).toMatchObject({ grade: 'warn', finding: 'odd has 5 % zeros' });
  });
});

/** What is done to a file, and the verdict that must name it. */
type Case = readonly [
  name: string,
  base: () => Uint8Array,
  change: (loose: Loose) => void,
  grade: Grade,
  what: string,
  finding: RegExp,
];

const own = () => story;
const set = (key: string, value: Parameters<Loose['metadata']['set']>[1]) => (loose: Loose) =>
  void loose.metadata.set(key, value);
const template = (source: string) => set('tokenizer.chat_template', text(source));
const unitGains = (loose: Loose, part: string) => {
  for (const { name } of loose.like(part)) loose.setFloats(name, () => 1);
};
const rescale = (loose: Loose, next: (scale: number) => number) => {
  for (const tensor of loose.tensors) if (tensor.dtype === 'I2_S') loose.setScale(tensor, next);
};
const gaussian = (i: number) => {
  // A sum of twelve uniform numbers, near enough.
  let sum = -6;
  for (let k = 0; k < 12; k++) sum += ((Math.imul(i * 12 + k + 1, 0x9e3779b1) >>> 8) % 10007) / 10007;
  return 0.02 * sum;
};
const tokensOf = (loose: Loose): Uint8Array[] => {
  const value = loose.metadata.get('tokenizer.ggml.tokens');
  if (value?.type !== 'array' || value.of !== 'string') throw new Error('no tokens');
  return Array.from({ length: value.values.length }, (_, i) => value.values.bytes(i));
};

const cases: readonly Case[] = [
  // Metadata.
  [
    'a file type that is not that of the tensors',
    own,
    set('general.file_type', u32(37)),
    'warn',
    'type',
    /projections are I2_S, but general.file_type 37 is TQ2_0/,
  ],
  [
    'the wrong activation by its label',
    own,
    (l) => l.relabel('bitnet'),
    'bad',
    'activation',
    /labelled bitnet, but .* SiLU where .* squared ReLU/,
  ],
  ['another graph by its label', () => llama, (l) => l.relabel('gpt2'), 'bad', 'architecture', /not supported/],
  [
    'a wrong rope base',
    own,
    set('bitnet-b1.58.rope.freq_base', f32(500000)),
    'bad',
    'positions',
    /base 500000.* has rope base 10000/,
  ],
  ['scaled positions', () => spm, set('bitnet-b1.58.rope.scaling.factor', f32(4)), 'warn', 'positions', /divided by 4/],
  [
    'a wrong epsilon',
    own,
    set('bitnet-b1.58.attention.layer_norm_rms_epsilon', f32(1e-6)),
    'warn',
    'positions',
    /epsilon 0.000001.* has epsilon 0.00001/,
  ],
  [
    "another model's name",
    own,
    set('general.name', text('BitNet-b1.58-2B-4T')),
    'warn',
    'model',
    /called microsoft\/BitNet-b1.58-2B-4T, but 6 layers .* the shape of the story model/,
  ],
  [
    'a name without its shape',
    () => spm,
    set('general.name', text('Falcon3-7B-Instruct')),
    'warn',
    'model',
    /called tiiuae\/Falcon3-7B.*, which is not its shape/,
  ],
  ['shards that are not all', own, set('split.tensors.count', u32(99)), 'bad', 'shards', /68 tensors, .* 99/],
  ['metadata that does not fit', own, set('bitnet-b1.58.attention.head_count', u32(7)), 'bad', 'architecture', /./],
  // Tensors.
  ['a missing sub-norm', own, (l) => l.remove('blk.3.ffn_sub_norm.weight'), 'bad', 'sub-norms', /1 of 12 are missing/],
  [
    'a missing projection',
    own,
    (l) => l.remove('blk.3.ffn_down.weight'),
    'bad',
    'tensors',
    /missing: blk\.3\.ffn_down\.weight/,
  ],
  ['sub-norms that are lost', own, (l) => unitGains(l, 'attn_sub_norm'), 'bad', 'blk.*.attn_sub_norm', /exactly 1/],
  ['norms that are lost', () => llama, (l) => unitGains(l, 'ffn_norm'), 'warn', 'blk.*.ffn_norm', /exactly 1/],
  [
    'a norm of zeros',
    own,
    (l) => l.setFloats('blk.2.attn_norm.weight', () => 0),
    'bad',
    'blk.*.attn_norm',
    /blk\.2\.attn_norm\.weight is all zeros/,
  ],
  [
    'a gain that is no number',
    own,
    (l) => l.setFloats('blk.2.attn_norm.weight', (i) => (i === 7 ? Number.NaN : 1)),
    'bad',
    'blk.*.attn_norm',
    /blk\.2\.attn_norm\.weight element 7: a weight is not a finite number/,
  ],
  [
    'a type that nobody reads',
    own,
    (l) => Object.assign(l.tensor('blk.1.attn_q.weight'), { dtype: 'IQ1_S', bytes: new Uint8Array(256 * 50) }),
    'bad',
    'blk.*.attn_q',
    /1 of 6: IQ types are not supported/,
  ],
  // Scales.
  ['scales that were lost', own, (l) => rescale(l, () => 1), 'bad', 'scales', /every scale is exactly 1/],
  ['scales upside down', own, (l) => rescale(l, (scale) => 1.3 / scale), 'warn', 'scales', /upside down/],
  [
    'one scale of its own',
    own,
    (l) => l.setScale(l.tensor('blk.4.attn_output.weight'), (s) => 100 * s),
    'warn',
    'blk.*.attn_output',
    /blk\.4\.attn_output\.weight has scale 1\d\.\d, the median of its role is 0\.1/,
  ],
  [
    'a scale of 1e10',
    own,
    (l) => l.setScale(l.tensor('blk.4.attn_output.weight'), () => 1e10),
    'bad',
    'blk.*.attn_output',
    /has scale 10000000000/,
  ],
  [
    'a negative scale',
    own,
    (l) => l.setScale(l.tensor('blk.4.attn_output.weight'), (s) => -s),
    'bad',
    'blk.*.attn_output',
    /bad scale/,
  ],
  [
    'a scale that is no number',
    own,
    (l) => l.setScale(l.tensor('blk.4.attn_output.weight'), () => Number.NaN),
    'bad',
    'blk.*.attn_output',
    /bad scale/,
  ],
  [
    'block scales that differ',
    () => tq2,
    (l) => void l.tensor('blk.0.attn_q.weight').bytes.set([0x00, 0x3c], 66 * 5 + 64),
    'bad',
    'blk.*.attn_q',
    /block scales differ/,
  ],
  // Codes.
  [
    'code 3',
    own,
    (l) => void l.tensor('blk.5.ffn_up.weight').bytes.fill(0xe4, 100, 101),
    'bad',
    'blk.*.ffn_up',
    /blk\.5\.ffn_up\.weight value 388: code 3/,
  ],
  [
    'signs only',
    own,
    (l) => l.setTrits('blk.5.ffn_up.weight', (i, old) => old[i] || (i % 2) * 2 - 1),
    'bad',
    'blk.*.ffn_up',
    /no zeros: real-valued weights/,
  ],
  ['zeros only', own, (l) => l.setTrits('blk.5.ffn_up.weight', () => 0), 'bad', 'blk.*.ffn_up', /100 % zeros/],
  [
    'one sign only',
    own,
    (l) => l.setTrits('blk.5.ffn_up.weight', (i, old) => Math.abs(old[i])),
    'bad',
    'blk.*.ffn_up',
    /off balance: -1 0 %/,
  ],
  [
    'too much of one sign',
    own,
    (l) => l.setTrits('blk.5.ffn_up.weight', (i, old) => (i % 4 === 0 ? Math.abs(old[i]) : old[i])),
    'warn',
    'blk.*.ffn_up',
    /off balance/,
  ],
  [
    'too many zeros',
    own,
    (l) => l.setTrits('blk.5.ffn_up.weight', (i, old) => (i % 4 === 0 ? old[i] : 0)),
    'warn',
    'blk.*.ffn_up',
    /8\d % zeros/,
  ],
  // Floats.
  [
    'master weights of a ternary model',
    own,
    (l) => l.setFloats('blk.1.ffn_gate.weight', gaussian),
    'bad',
    'blk.*.ffn_gate',
    /distance from ternary 0\.4.*not ternary, saved as if it were an ordinary model/,
  ],
  [
    'a copy in few bits, as Q4_0 makes it',
    own,
    (l) => l.setFloats('blk.1.ffn_gate.weight', (i) => [-1, 0, 1][i % 3] * 0.08 * (1 + ((i % 7) - 3) / 25)),
    'warn',
    'blk.*.ffn_gate',
    /distance from ternary 0\.0[6-9]\d\d .*near ternary, a copy in few bits/,
  ],
  [
    'an ordinary model',
    () => llama,
    (l) => l.setFloats('blk.1.ffn_gate.weight', gaussian),
    'bad',
    'blk.*.ffn_gate',
    /distance from ternary 0\.4.*not ternary; loading refuses it without --allow-dense/,
  ],
  [
    'an embedding with a hole',
    () => spm,
    (l) => void l.tensor('token_embd.weight').bytes.set([0x00, 0x7c], 2 * 700),
    'bad',
    'token_embd',
    /element 700: a weight is not a finite number/,
  ],
  [
    'an embedding half empty',
    () => spm,
    (l) => void l.tensor('token_embd.weight').bytes.fill(0, 256 * 256),
    'warn',
    'token_embd',
    /384 of 512 rows are zeros/,
  ],
  [
    'an empty embedding',
    () => spm,
    (l) => void l.tensor('token_embd.weight').bytes.fill(0),
    'bad',
    'token_embd',
    /all zeros/,
  ],
  [
    'a head that is no copy',
    own,
    (l) =>
      void l.tensors.push({
        ...l.tensor('token_embd.weight'),
        name: 'output.weight',
        bytes: l.tensor('token_embd.weight').bytes.map((b) => b ^ 1),
      }),
    'warn',
    'head',
    /output\.weight differs from the embedding/,
  ],
  // Tokenizer.
  [
    'a pre-tokenizer that nobody knows',
    own,
    set('tokenizer.ggml.pre', text('banana')),
    'bad',
    'tokenizer',
    /pre-tokenizer/,
  ],
  ['no pre-tokenizer', own, (l) => void l.metadata.delete('tokenizer.ggml.pre'), 'bad', 'tokenizer', /pre/],
  ['the default pre-tokenizer', own, set('tokenizer.ggml.pre', text('default')), 'warn', 'pre-tokenizer', /default/],
  [
    'an end token out of range',
    own,
    set('tokenizer.ggml.eos_token_id', u32(4096)),
    'bad',
    'tokenizer',
    /eos_token_id: no such token/,
  ],
  [
    'an end token that is text',
    own,
    set('tokenizer.ggml.eos_token_id', u32(300)),
    'warn',
    'stop tokens',
    /ordinary piece of text/,
  ],
  ['no end token', own, (l) => void l.metadata.delete('tokenizer.ggml.eos_token_id'), 'bad', 'stop tokens', /none/],
  [
    'a begin token that is text',
    own,
    set('tokenizer.ggml.bos_token_id', u32(300)),
    'warn',
    'begin token',
    /ordinary piece of text/,
  ],
  [
    'a token twice',
    own,
    (l) => {
      const tokens = tokensOf(l);
      tokens[4000] = tokens[3999];
      l.metadata.set('tokenizer.ggml.tokens', stringsValue(tokens));
    },
    'warn',
    'vocabulary',
    /1 tokens have the text of another/,
  ],
  [
    'bytes without a token',
    () => spm,
    (l) => {
      const tokens = tokensOf(l);
      const at = tokens.findIndex((token) => new TextDecoder().decode(token) === '<0x41>');
      expect(at).toBeGreaterThan(0);
      tokens[at] = new TextEncoder().encode('<0x4>');
      l.metadata.set('tokenizer.ggml.tokens', stringsValue(tokens));
    },
    'warn',
    'bytes',
    /1 bytes have no token, the first 0x41/,
  ],
  ['no scores', () => spm, (l) => void l.metadata.delete('tokenizer.ggml.scores'), 'bad', 'scores', /missing/],
  ['no token types', own, (l) => void l.metadata.delete('tokenizer.ggml.token_type'), 'warn', 'token types', /missing/],
  [
    'a template that is none',
    own,
    template('{% for m in messages %}{{ m.content }'),
    'bad',
    'chat template',
    /bad template/,
  ],
  [
    'a template that loops',
    own,
    template('{% for a in range(60000) %}{% for b in range(60000) %}{% endfor %}{% endfor %}'),
    'bad',
    'chat template',
    /too long/,
  ],
  [
    'a template that drops what was said',
    own,
    template('{% for m in messages %}{{ m.role }}{% endfor %}'),
    'bad',
    'chat template',
    /without what was said/,
  ],
  [
    'a template of another vocabulary',
    own,
    template('{% for m in messages %}<|im_start|>{{ m.content }}{% endfor %}'),
    'warn',
    'chat template',
    /writes <\|im_start\|>/,
  ],
  [
    'an end of turn that does not stop',
    own,
    template('{% for m in messages %}{{ m.content }}<|begin_of_text|>{% endfor %}'),
    'warn',
    'chat template',
    /"<\|begin_of_text\|>", which ends an answer, is no stop token/,
  ],
];

describe('files made wrong', () => {
  it.each(cases)('%s', async (_, base, change, grade, what, finding) => {
    const verdicts = worse(await verdictsOn(await changed(base(), change)));
    expect(verdicts).toContainEqual(expect.objectContaining({ grade, what, finding: expect.stringMatching(finding) }));
    for (const verdict of verdicts) expect(verdict.todo, verdict.finding).toMatch(/./);
  });

  it('bytes behind the last tensor', async () => {
    const longer = new Uint8Array(story.length + 100);
    longer.set(story);
    expect(worse(await verdictsOn(longer))).toMatchObject([
      {
        grade: 'warn',
        what: 'container',
        finding: expect.stringMatching(/1\d\d bytes belong to no tensor, all behind the last/),
      },
    ]);
  });

  it('a file name of another type', async () => {
    expect(worse(await verdictsOn(story, '/models/ggml-model-tq2_0.gguf'))).toMatchObject([
      { grade: 'warn', what: 'type', finding: expect.stringContaining('the file name says TQ2_0') },
    ]);
    expect(worse(await verdictsOn(story, '/tq2_0/ggml-model-i2s-embed-q8_0.gguf'))).toEqual([]);
  });

  it("1bitLLM's vocabulary under the name of squared ReLU, in a shape of no table", async () => {
    const file = await wideModel({ vocabulary: 32000, padding: 2 });
    expect(worse(await verdictsOn(file))).toContainEqual(
      expect.objectContaining({
        grade: 'bad',
        what: 'activation',
        finding: expect.stringContaining("1bitLLM's models, which use SiLU"),
      }),
    );
    const right = await changed(file, (loose) => loose.relabel('bitnet'));
    expect(worse(await verdictsOn(right)).map(({ what }) => what)).toEqual(['vocabulary']);
  });
});

describe('hostile files', () => {
  it('a shape that would take far more memory than the file', async () => {
    const file = await changed(llama, (loose) => {
      // Four values a byte in the file, one in 32 bytes when packed.
      const bytes = new Uint8Array((1 << 24) / 4 + 32);
      loose.tensors.push({ name: 'narrow', dtype: 'I2_S', shape: [1, 1 << 24], bytes });
    });
    expect(worse(await verdictsOn(file))).toContainEqual(
      expect.objectContaining({ grade: 'bad', what: 'narrow', finding: expect.stringContaining('no model has') }),
    );
  });

  it('a thousand tensors of one role, and names that would move the cursor', async () => {
    const file = await changed(llama, (loose) => {
      const { dtype, shape, bytes } = loose.tensor('blk.0.attn_norm.weight');
      for (let i = 2; i < 1000; i++) loose.tensors.push({ name: `blk.${i}.attn_norm.weight`, dtype, shape, bytes });
      loose.tensors.push({ name: '\u001b[2Jgone', dtype, shape, bytes });
    });
    const verdicts = await verdictsOn(file);
    expect(verdicts).toContainEqual(
      expect.objectContaining({ what: 'blk.*.attn_norm', finding: expect.stringMatching(/^1000 F32/) }),
    );
    const lines = verdictLines(verdicts);
    expect(lines).toContain('\ufffd[2Jgone');
    expect(lines).not.toContain('\u001b');
  });

  it('metadata of a wrong type are a verdict', async () => {
    const wrong = await changed(story, set('split.tensors.count', text('many')));
    expect(worse(await verdictsOn(wrong))).toMatchObject([{ grade: 'bad', what: 'container' }]);
  });

  it('bytes changed anywhere: a verdict or a coded refusal, never a crash', async () => {
    const next = random(58);
    let read = 0;
    for (let round = 0; round < 300; round++) {
      const file = spm.slice();
      for (let i = 0; i < 3; i++) file[Math.floor(next() * (round % 2 === 0 ? 30_000 : file.length))] = next() * 256;
      const gguf = await openGguf(memorySource(file), { allowUnreadable: true }).catch((error: unknown) => error);
      if (gguf instanceof Error) expect(gguf).toBeInstanceOf(BitnetError);
      else {
        read++;
        expect((await verifyFile(gguf as GgufFile)).length).toBeGreaterThan(5);
      }
    }
    expect(read).toBeGreaterThan(50);
  }, 60_000);
});

describe('what looks odd and is right', () => {
  it('a copy of the embedding as head, which the first official upload has', async () => {
    const file = await changed(story, (loose) => {
      loose.tensors.push({ ...loose.tensor('token_embd.weight'), name: 'output.weight' });
    });
    const verdicts = await verdictsOn(file);
    expect(worse(verdicts)).toEqual([]);
    expect(verdicts).toContainEqual({
      grade: 'ok',
      what: 'head',
      finding: expect.stringContaining('a copy of the embedding'),
    });
  });

  it('a template that is only a mark', async () => {
    const file = await changed(story, template("{{ 'Human: ' }}BITNETAssistant"));
    const line = (await verdictsOn(file)).find(({ what }) => what === 'chat template');
    // The published template ends turns with <|eot_id|>, which this vocabulary does not have.
    expect(BITNET_2B4T_TEMPLATE).toContain('<|eot_id|>');
    expect(line).toMatchObject({ grade: 'warn', finding: expect.stringContaining('<|eot_id|>') });
  });

  it("a ggml type's number as file type, as Python converters write it", async () => {
    expect(worse(await verdictsOn(await changed(story, set('general.file_type', u32(36)))))).toEqual([]);
  });

  it('lossy copies of ternary weights', async () => {
    const file = await changed(llama, (loose) => {
      loose.setFloats('blk.0.attn_q.weight', (i) => [-1, 0, 1][i % 3] * 0.0765 * (1 + (i % 5) / 1000));
    });
    const verdicts = await verdictsOn(file);
    expect(worse(verdicts)).toEqual([]);
    const findings = verdicts.map(({ finding }) => finding);
    expect(findings).toContainEqual(expect.stringContaining('1 of another type (blk.0.attn_q.weight: F32)'));
    expect(findings).toContainEqual(expect.stringMatching(/^1 F32, distance from ternary 0\.001\d: ternary in truth/));
  });

  it('scales kept apart from unit weights', async () => {
    const bitnetFile = await tinyModel({ architecture: 'bitnet', type: 'I2_S' });
    const file = await changed(bitnetFile, (loose) => {
      for (const tensor of loose.tensors.filter(({ dtype }) => dtype === 'I2_S')) {
        loose.setScale(tensor, () => 1);
        const name = tensor.name.replace(/weight$/, 'scale');
        loose.tensors.push({ name, dtype: 'F32', shape: [1], bytes: encodeF32(Float32Array.of(0.05)) });
      }
    });
    const verdicts = await verdictsOn(file);
    expect(worse(verdicts)).toEqual([]);
    expect(verdicts.find(({ what }) => what === 'scales')?.finding).toMatch(/^14 scales, 0\.05,/);
  });

  it('rope factors of 1', async () => {
    const file = await changed(llama, (loose) => {
      loose.tensors.push({
        name: 'rope_freqs.weight',
        dtype: 'F32',
        shape: [32],
        bytes: encodeF32(new Float32Array(32).fill(1)),
      });
    });
    expect(worse(await verdictsOn(file))).toEqual([]);
  });

  it('F16 norms, which the embedding models have', async () => {
    const file = await changed(llama, (loose) => {
      for (const tensor of loose.like('_norm')) {
        const values = new Float32Array(tensor.bytes.slice().buffer);
        Object.assign(tensor, { dtype: 'F16', bytes: encodeF16(values) });
      }
    });
    expect(worse(await verdictsOn(file))).toEqual([]);
  });
});

describe('the command', () => {
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'bitnet-inspect-'));
  });
  afterAll(async () => rm(folder, { recursive: true }));

  it('exits 0 with a line for each verdict', async () => {
    const { code, out, err } = await bitnet(['inspect', '--verify']);
    expect({ code, err }).toEqual({ code: 0, err: '' });
    expect(out).toMatch(/^ok {4}container /);
    expect(out).toMatch(/^ok {4}blk\.\*\.ffn_down {7}6 I2_S: -1 30 %, 0 39 %, \+1 30 % /m);
    expect(out).toContain('27 ok, 0 warnings, 0 bad.');
    expect(out.split('\n').length).toBeLessThan(40);
  });

  it('exits 1 when one is bad, in JSON too', async () => {
    const path = join(folder, 'bad.gguf');
    await writeFile(path, await changed(story, (loose) => loose.relabel('bitnet')));
    const { code, out } = await bitnet(['inspect', path, '--verify']);
    expect(code).toBe(1);
    expect(out).toMatch(/^bad {3}activation .* -> set general\.architecture to bitnet-b1\.58/m);
    const json = await bitnet(['inspect', path, '--verify', '--json']);
    expect(json.code).toBe(1);
    expect(JSON.parse(json.out)).toMatchObject({ good: false });
  });

  it('says whether the model fits', async () => {
    expect((await bitnet(['inspect'])).out).toMatch(
      /^fits: +yes, 1\d\.\d MiB of the 4\.00 GiB of a WebAssembly memory/m,
    );
    const facts = JSON.parse((await bitnet(['inspect', '--json'])).out);
    expect(facts.fit.spanBytes).toBeGreaterThan(facts.memory.weightBytes);
  });
});
