/** Embedding, head and other products with dense matrices. @module */

import { dot16 } from '../../../kernels/ts/sums.ts';
import { f16ToNumber, numberToF16 } from '../../../numeric/f16.ts';
import { CODING_WAYS } from './quantize.ts';
import { type Alternative, floats, mistake, type Prediction, type Question, variant } from './question.ts';

/** Vocabularies up to this size are searched whole for a row that has no business there. */
const SEARCHED = 4096;
/** Tokens of the vocabulary that a head is judged by. */
const SAMPLED = 48;

export async function embeddingAlternatives(question: Question): Promise<Alternative[]> {
  const { tensor, tokens, embeddings, vocabulary = 0, rows, expected } = question;
  const { position, columns } = tensor;
  const list: Alternative[] = [
    mistake('embedding-scaled', 'multiplied by the root of the width', () =>
      floats(expected.length, (i) => expected[i] * Math.sqrt(columns)),
    ),
  ];
  if (embeddings === undefined) return list;
  const isId = (id: number | undefined): id is number => id !== undefined && id >= 0 && id < vocabulary;
  const of = (idOf: (row: number) => number | undefined) => async () => {
    const ids = rows.map(idOf);
    if (!ids.every(isId)) return undefined;
    const found = await embeddings(ids);
    const out = new Float32Array(tensor.rows * columns);
    rows.forEach((row, i) => {
      out.set(found[i], row * columns);
    });
    return out;
  };
  const at = (row: number) => tokens[position + row];
  for (const by of [1, -1]) {
    list.push(
      mistake(
        'embedding-id',
        `rows of the token ids ${by > 0 ? '+' : '-'} 1`,
        of((row) => at(row) + by),
      ),
    );
    const where = by > 0 ? 'the next token' : 'the token before';
    list.push(
      mistake(
        'embedding-shifted',
        `rows of ${where} of the sequence`,
        of((row) => tokens[position + row + by]),
      ),
    );
  }
  list.push(
    mistake(
      'embedding-first',
      'rows of the token 0',
      of(() => 0),
    ),
  );
  if (vocabulary <= SEARCHED) {
    list.push(
      mistake('embedding-token', 'rows of other tokens, as if another tokenizer had made the ids', () =>
        searched(question),
      ),
    );
  }
  return list;
}

/** For every row the token whose embedding is nearest to what the candidate has. */
async function searched({ tensor, rows, embeddings, vocabulary = 0, got }: Question) {
  if (embeddings === undefined) return undefined;
  const { columns } = tensor;
  const all = await embeddings(Array.from({ length: vocabulary }, (_, id) => id));
  const out = new Float32Array(tensor.rows * columns);
  for (const row of rows) {
    let [best, least] = [0, Infinity];
    all.forEach((values, id) => {
      let sum = 0;
      for (let i = 0; i < columns; i++) sum += (values[i] - got[row * columns + i]) ** 2;
      if (sum < least) [best, least] = [id, sum];
    });
    out.set(all[best], row * columns);
  }
  return out;
}

export function denseAlternatives(question: Question): Alternative[] {
  const {
    tensor,
    inputs: [x],
    scene,
  } = question;
  const { rerun } = tensor;
  if (rerun === undefined || x === undefined) return [];
  const source = scene.get(tensor.inputs[0])?.tensor;
  const columns = source?.columns ?? x.length / tensor.rows;
  const coded = (id: string, block: number) => () => {
    const way = CODING_WAYS.find((one) => one.id === id);
    if (way === undefined) return undefined;
    const out = new Float32Array(x.length);
    for (let start = 0; start < x.length; start += columns) {
      const { codes, steps } = way.code(x, start, columns);
      for (let i = 0; i < columns; i++) out[start + i] = codes[i] * steps[Math.floor(i / block)];
    }
    return rerun([out]);
  };
  const isOwn = tensor.weight === 'output.weight';
  const before = source === undefined ? [] : source.inputs;
  return [
    variant('input-f16', 'input rounded to f16, as llama.cpp multiplies F16 matrices', () =>
      rerun([x.map((value) => f16ToNumber(numberToF16(value)))]),
    ),
    variant(
      'input-q8_k',
      'input in blocks of 256 int8 codes, as llama.cpp multiplies K-quants',
      coded('codes-q8_k', 256),
    ),
    variant(
      'input-q8_0',
      'input in blocks of 32 int8 codes, as llama.cpp multiplies Q8_0',
      coded('codes-per-block-32', 32),
    ),
    ...(isOwn
      ? [mistake('head-tied', 'the embedding used as the head in place of output.weight', () => tiedHead(question))]
      : []),
    ...before.map((name) =>
      mistake('norm-skipped', `${name} multiplied in place of ${source!.name}`, () => {
        const rows = scene.floats(name);
        return rows?.length === x.length ? rerun([rows]) : undefined;
      }),
    ),
  ];
}

/** Logits by the embedding in place of the head: of some tokens, for the matrix itself cannot be asked. */
async function tiedHead({
  tensor,
  inputs: [x],
  rows,
  embeddings,
  vocabulary = 0,
}: Question): Promise<Prediction | undefined> {
  if (tensor.name !== 'logits' || x === undefined || embeddings === undefined || vocabulary !== tensor.columns)
    return undefined;
  const ids = Array.from({ length: Math.min(SAMPLED, vocabulary) }, (_, i) =>
    Math.floor((i * vocabulary) / Math.min(SAMPLED, vocabulary)),
  );
  const table = await embeddings(ids);
  const columns = x.length / tensor.rows;
  const out = new Float32Array(tensor.rows * tensor.columns);
  const known = new Uint8Array(out.length);
  for (const row of rows) {
    ids.forEach((id, i) => {
      out[row * tensor.columns + id] = dot16(table[i], 0, x, row * columns, columns);
      known[row * tensor.columns + id] = 1;
    });
  }
  return { data: out, known };
}
