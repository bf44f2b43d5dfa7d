/**
 * In which form each projection is run, decided before any weight is loaded, from samples of the file:
 *
 *     packed   two bits a weight and one scale: every ternary type, and floats that are nothing but -s, 0 and s. Its inputs are
 *              quantised to int8 (BitLinear), so a model gives the same bits from any container that keeps its scales.
 *     blocks   TQ1_0 and TQ2_0 whose blocks of 256 have scales of their own (TriLM, and models quantised block by block). One
 *              scale cannot say that; they are kept as Q8_0, which holds the same values exactly, and their inputs stay floats.
 *     dense    anything else, as it is in the file; inputs stay floats.
 *
 * Dense projections far from ternary are refused: they are what remains when a model trained with ternary weights is converted
 * as if it were an ordinary one, and it speaks nonsense then, since training rounded its weights in every step and the file does
 * not. `allowDense` runs them all the same.
 *
 * A sample is a few rows. Where it says packed, every value is checked again while loading.
 * @module
 */

import { BitnetError } from '../errors.ts';
import type { GgufFile, GgufTensor } from '../formats/gguf/types.ts';
import { decodeInto, findNotFinite } from '../tensors/decode.ts';
import { type DType, isTernary, TAIL_BYTES } from '../tensors/dtype.ts';
import { scaleOfI2S } from '../tensors/i2s.ts';
import type { I2sLayout } from '../tensors/i2s-layouts.ts';
import { FAR_FROM_TERNARY, ternarinessOf } from '../tensors/ternariness.ts';
import { type TilesChoice, tilesOf } from '../tensors/tiles.ts';
import { blockScales } from '../tensors/tq.ts';
import { TQ1_0 } from '../tensors/tq1.ts';
import { TQ2_0 } from '../tensors/tq2.ts';
import { allSettled, createTurns } from '../tensors/turns.ts';
import type { ModelTensors } from './plan.ts';
import { isTable } from './tensors.ts';

export type Form = 'packed' | 'blocks' | 'dense';

/** How the ternary tensors of a file are laid out, as far as their types do not tell. */
export interface TernaryLayout {
  /** Of I2_S [x86]. */
  readonly i2s?: I2sLayout | undefined;
  /** Of TL1 and TL2 [codegen]. */
  readonly tiles?: TilesChoice | undefined;
}

export interface Forms {
  /** Of every projection; tables are not among them. */
  readonly of: ReadonlyMap<string, Form>;
  readonly layout: TernaryLayout;
  /** What the user should know of them. */
  readonly notes: readonly string[];
}

export interface FormOptions {
  readonly layout?: TernaryLayout | undefined;
  /** Run projections that are not ternary instead of refusing them. */
  readonly allowDense?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Rows of a sample, spread over the tensor. */
const SAMPLE_ROWS = 4;
/**
 * Block scales looked at in whole rows at each end of a tensor: parts that were made apart from each other, along rows or columns,
 * have scales of their own.
 */
const SAMPLE_BLOCKS = 16;
/** Samples read at a time. */
const AT_ONCE = 8;
/** Tensors named in a refusal. */
const LISTED = 4;

/** Names of the matrices inside the layers. */
export function projectionsOf({ tensors, matrices }: ModelTensors): GgufTensor[] {
  return [...tensors.values()].filter(({ name }) => matrices.has(name) && name.startsWith('blk.'));
}

/** Whether types tell the forms of all projections, so that nothing need be read to know how much memory the model takes. */
export function isDecidedByTypes(model: ModelTensors): boolean {
  return projectionsOf(model).every(({ dtype }) => ['I2_S', 'TL1', 'TL2'].includes(dtype.name));
}

/** The form that follows from the type alone. Tables are dense even where their type is ternary. */
export function formOfType({ name, dtype }: { readonly name: string; readonly dtype: DType }): Form {
  return isTernary(dtype) && !isTable(name) ? 'packed' : 'dense';
}

/** Looks at samples of the projections and decides. Throws `not-ternary` with distances where they are far from it. */
export async function decideForms(
  gguf: GgufFile,
  model: ModelTensors,
  { layout = {}, allowDense = false, signal }: FormOptions = {},
): Promise<Forms> {
  const turn = createTurns(AT_ONCE);
  const projections = projectionsOf(model);
  const looks = await allSettled(
    projections.map((tensor) =>
      turn(async () => {
        signal?.throwIfAborted();
        return { tensor, ...(await lookAt(tensor, `${gguf.label}: ${tensor.name}`, layout)) };
      }),
    ),
  );
  const far = looks.filter(({ distance }) => distance > FAR_FROM_TERNARY);
  if (far.length > 0 && !allowDense) throw notTernary(gguf, far, looks.length);
  return { of: new Map(looks.map(({ tensor, form }) => [tensor.name, form])), layout, notes: notesOf(looks) };
}

interface Look {
  readonly form: Form;
  /** See `ternariness.ts`; 0 for ternary types. */
  readonly distance: number;
  /** A TL type with a scale of exactly 1. */
  readonly hasUnitScale?: boolean;
}

interface Looked extends Look {
  readonly tensor: GgufTensor;
}

async function lookAt(tensor: GgufTensor, where: string, { tiles }: TernaryLayout): Promise<Look> {
  const { dtype } = tensor;
  const [columns, rows] = [tensor.shape[0] ?? 1, tensor.shape[1] ?? 1];
  if (dtype.name === 'TL1' || dtype.name === 'TL2') {
    // Refuses shapes without tiles before anything is loaded.
    tilesOf(dtype.name, rows, columns, tiles, where);
    const tail = new Uint8Array(4);
    await tensor.source.readInto(tail, tensor.offsetBytes + tensor.byteLength - TAIL_BYTES);
    return { form: 'packed', distance: 0, hasUnitScale: scaleOfI2S(tail, 0) === 1 };
  }
  if (isTernary(dtype)) return { form: (await hasBlockScales(tensor)) ? 'blocks' : 'packed', distance: 0 };
  const chosen = sampleRows(rows);
  const values = new Float32Array(chosen.length * columns);
  for (const [i, row] of chosen.entries()) await decodeRows(tensor, where, row, 1, values, i * columns);
  let seen = ternarinessOf(values);
  // Rows of nothing but zeros say nothing: then all are looked at, until one of them does.
  for (let row = 0; seen.scale === 0 && row < rows; row++) {
    const one = values.subarray(0, columns);
    await decodeRows(tensor, where, row, 1, one, 0);
    seen = ternarinessOf(one);
  }
  return { form: seen.isExact ? 'packed' : 'dense', distance: seen.distance };
}

/** Whether a projection is of a TQ type whose blocks have scales of their own, by a look at both of its ends. */
export async function hasBlockScales(tensor: GgufTensor): Promise<boolean> {
  const { name, blockElements } = tensor.dtype;
  if (name !== 'TQ1_0' && name !== 'TQ2_0') return false;
  const type = name === 'TQ1_0' ? TQ1_0 : TQ2_0;
  const columns = tensor.shape[0] ?? 1;
  const rows = tensor.elements / columns;
  const scales = new Set<number>();
  const count = Math.min(rows, Math.ceil((SAMPLE_BLOCKS * blockElements) / columns));
  for (const first of [0, rows - count]) {
    for (const scale of blockScales(type, await readRows(tensor, first, count))) if (scale !== 0) scales.add(scale);
  }
  return scales.size > 1;
}

function sampleRows(rows: number): number[] {
  return [...new Set(Array.from({ length: SAMPLE_ROWS }, (_, i) => Math.round((i * (rows - 1)) / (SAMPLE_ROWS - 1))))];
}

async function readRows(tensor: GgufTensor, first: number, count: number): Promise<Uint8Array> {
  const rowBytes = tensor.byteLength / (tensor.elements / (tensor.shape[0] ?? 1));
  const bytes = new Uint8Array(count * rowBytes);
  await tensor.source.readInto(bytes, tensor.offsetBytes + first * rowBytes);
  return bytes;
}

async function decodeRows(
  tensor: GgufTensor,
  where: string,
  first: number,
  count: number,
  out: Float32Array,
  outAt: number,
): Promise<void> {
  const bytes = await readRows(tensor, first, count);
  const bad = findNotFinite(tensor.dtype, bytes);
  const columns = tensor.shape[0] ?? 1;
  if (bad >= 0) {
    throw new BitnetError('bad-tensor', 'a weight is not a finite number', {
      where: `${where} element ${first * columns + bad}`,
    });
  }
  decodeInto(tensor.dtype, bytes, 0, count * columns, out, outAt);
}

function notTernary(gguf: GgufFile, far: readonly Looked[], nLooked: number): BitnetError {
  const listed = far.slice(0, LISTED).map(({ tensor, distance }) => {
    return `${tensor.name} ${tensor.dtype.name} ${distance.toFixed(3)}`;
  });
  const more = far.length > LISTED ? `, and ${far.length - LISTED} more of ${nLooked}` : '';
  return new BitnetError('not-ternary', 'the projections of this model are not ternary', {
    where: gguf.label,
    expected: `values -s, 0, s (distance 0; Gaussian weights have 0.43)`,
    got: `${listed.join(', ')}${more}`,
    hint:
      'a ternary model that was converted as an ordinary one speaks nonsense: take an I2_S, TQ1_0, TQ2_0 or TL file of it, or ' +
      'convert its checkpoint with bitnet convert; allowDense (--allow-dense) runs this one as it is',
  });
}

/** One note for all tensors of one type and form that are not run as their type says. */
function notesOf(looks: readonly Looked[]): string[] {
  const groups = new Map<string, number>();
  for (const { tensor, form, distance } of looks) {
    const { name } = tensor.dtype;
    const text =
      form === 'blocks'
        ? `${name} and have a scale for each block: run dense, kept as Q8_0 (the same values, four times the memory), with float activations`
        : form === 'packed' && !isTernary(tensor.dtype)
          ? `${name} and hold nothing but -s, 0 and s: run as ternary, packed, with int8 activations`
          : form !== 'dense'
            ? ''
            : distance > FAR_FROM_TERNARY
              ? `${name} and not ternary: run dense as asked, with float activations`
              : `${name}, near ternary but not exactly: run dense, with float activations`;
    if (text !== '') groups.set(text, (groups.get(text) ?? 0) + 1);
  }
  const notes = [...groups].map(([text, count]) => `${count} of ${looks.length} projections are ${text}`);
  if (looks.length > 0 && looks.every(({ hasUnitScale }) => hasUnitScale === true)) {
    notes.push(
      'every projection has scale 1: bitnet.cpp drops the scales when it converts a packed checkpoint to TL1 or TL2, and then ' +
        'the text is wrong; take the I2_S file of the same model',
    );
  }
  return notes;
}
