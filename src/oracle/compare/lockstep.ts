/**
 * A candidate against a model: every op is computed from the candidate's own inputs and compared with what the candidate
 * says came out. What it says is then what the model goes on with, so that an error stays where it was made, and an op is
 * wrong only if its result is.
 *
 * An error at a token reaches later tokens through their attention. So the first token that differs is looked for, and in it
 * the first tensor. Tokens are computed some at a time, op by op; an error in a later one of them is kept aside until all
 * ops of those before have been seen.
 * @module
 */

import type { TraceData, TraceOptions, TraceTensor } from '../../engine/types.ts';
import { want } from '../../errors.ts';
import type { SourceRows, TraceSource } from '../source.ts';
import { boundsOf, EXACT, noiseAfter, noiseAfterGap } from './bounds.ts';
import { describeRow } from './describe.ts';
import { explain, explainByLater, sourcesOf } from './explain.ts';
import type { Question } from './hypotheses/question.ts';
import { type Measure, measure, type RowBound } from './measure.ts';
import { Scene, type Seen } from './scene.ts';
import type { CompareOptions, Comparison, Divergence, Excerpt, Finding, MetVariant } from './types.ts';

/** Values of an excerpt on either side of the worst. */
const NEIGHBOURS = 3;

/** What rounding keys and values to f16 may change, relatively. */
const F16_CACHE = 2 ** -11;

/** Rows of a candidate, in the shape of the reference's. */
interface Got {
  readonly data: TraceData;
  readonly known?: Uint8Array | undefined;
  readonly resolution: number;
  /** All values, as they were computed. */
  readonly isWhole: boolean;
}

/** A difference that stands until an earlier one is found. */
interface Suspect {
  readonly question: Question;
  readonly position: number;
  readonly noise: number;
  divergence: Divergence;
}

/** What a candidate is held against. */
export interface Reference {
  /** Every tensor of the sequence in the order of the graph, some tokens at a time. */
  trace(
    session: SessionChoice,
    select: NonNullable<TraceOptions['select']>,
    signal: AbortSignal | undefined,
  ): AsyncIterable<ReferenceTensor>;
  /** Rows of the embedding, and how many there are. */
  readonly embeddings?: ((ids: readonly number[]) => Promise<Float32Array[]>) | undefined;
  readonly vocabulary?: number | undefined;
  /** That it cannot go on with the candidate's values: its inputs are its own, and noise is what is measured of them. */
  readonly isFixed: boolean;
}

/** As a model computes it, or as a trace has it: with gaps. */
export interface ReferenceTensor extends TraceTensor, Partial<Pick<SourceRows, 'known' | 'resolution'>> {
  /** That not all of its inputs are in the trace. */
  readonly hasGaps?: boolean;
}

export type SessionChoice = NonNullable<CompareOptions['session']>;

export class Lockstep {
  readonly #reference: Reference;
  readonly #candidate: TraceSource;
  readonly #options: CompareOptions;
  readonly #tokens: readonly number[];
  readonly #scene = new Scene();
  readonly #unequal = new Set<string>();
  readonly #compared = new Set<string>();
  readonly #variants = new Map<string, MetVariant>();
  #nearest: Comparison['nearest'];
  #suspect: Suspect | undefined;
  /** Sums that differ, until their product tells more. */
  #sums:
    | { readonly question: Question; readonly measures: readonly Measure[]; readonly bounds: readonly RowBound[] }
    | undefined;

  constructor(reference: Reference, candidate: TraceSource, tokens: readonly number[], options: CompareOptions) {
    this.#reference = reference;
    this.#candidate = candidate;
    this.#options = options;
    this.#tokens = tokens;
  }

  /** Resolves to what was found; `adopt` asks for a run with another type of cache. */
  async run(session: SessionChoice): Promise<{
    readonly found: Pick<Comparison, 'compared' | 'equal' | 'nearest' | 'variants' | 'divergence'>;
    readonly adopt: SessionChoice | undefined;
  }> {
    const { signal, onProgress } = this.#options;
    const tokens = this.#tokens;
    let pass = 0;
    let adopt: SessionChoice | undefined;
    const select: NonNullable<TraceOptions['select']> = ({ name, op, columns }) =>
      op !== 'attentionWeights' || this.#candidate.tensors.get(name)?.columns === columns;
    for await (const tensor of this.#reference.trace(session, select, signal)) {
      if (tensor.position !== pass) {
        if (this.#suspect !== undefined) break;
        pass = tensor.position;
        this.#scene.endPass();
      }
      onProgress?.({ name: tensor.name, position: tensor.position, positions: tokens.length });
      adopt = await this.#look(tensor, session);
      if (adopt !== undefined || this.#isSettled(tensor)) break;
    }
    const names = [...this.#compared];
    const found = {
      compared: names.length,
      equal: names.filter((name) => !this.#unequal.has(name)).length,
      nearest: this.#nearest,
      variants: [...this.#variants.values()],
      divergence: this.#suspect?.divergence,
    };
    return { found, adopt };
  }

  /** Nothing that comes can be earlier, and nothing of the layer can tell more. */
  #isSettled({ position, layer }: TraceTensor): boolean {
    const suspect = this.#suspect;
    if (suspect === undefined || this.#sums !== undefined || suspect.position > position) return false;
    const { findings, layer: at } = suspect.divergence;
    return findings.length > 0 || layer !== at;
  }

  async #look(tensor: ReferenceTensor, session: SessionChoice): Promise<SessionChoice | undefined> {
    const { sameNumerics = false, exact = false } = this.#options;
    const passedOn = noiseAfter(tensor, this.#scene, tensor.data, !sameNumerics, tensor.known !== undefined);
    const inputNoise =
      tensor.hasGaps === true ? Math.max(passedOn, noiseAfterGap(this.#scene, !sameNumerics)) : passedOn;
    // Traces do not say what their caches were made of.
    const noise = this.#reference.isFixed && tensor.op === 'attention' ? inputNoise + F16_CACHE : inputNoise;
    const got = await this.#gotOf(tensor);
    let rows = tensor.data;
    let adopt: SessionChoice | undefined;
    let own = noise;
    if (got !== undefined) {
      this.#compared.add(tensor.name);
      const bounds = exact
        ? rowsOf(tensor).map(() => EXACT)
        : boundsOf(tensor, this.#scene, tensor.data, rowsOf(tensor), noise);
      const measures = rowsOf(tensor).map((row) => measureRow(tensor, got, row, bounds[row]));
      if (measures.some(({ isEqual }) => !isEqual)) this.#unequal.add(tensor.name);
      const bad = rowsOf(tensor).filter((row) => measures[row].ratio > 1);
      const first = bad.length === 0 ? undefined : tensor.position + bad[0];
      let accepted: Finding | undefined;
      if (first !== undefined && (this.#suspect === undefined || first < this.#suspect.position)) {
        const question = this.#question(tensor, got, bad);
        ({ accepted, adopt } = await this.#suspected(question, measures, bounds, session));
      }
      this.#note(tensor, measures, bad);
      if (this.#reference.isFixed) {
        const isClean = (row: number) => this.#suspect === undefined || tensor.position + row < this.#suspect.position;
        const measured = measures.filter((_, row) => isClean(row)).map(({ relative }) => relative);
        // Differences of what is in print are those of printing.
        own = got.isWhole ? Math.max(0, ...measured) : noise;
        if (got.isWhole) rows = got.data;
      } else if (got.isWhole && tensor.replace !== undefined) {
        own = 0;
        // Codes that were made in another way have scales of their own, which cannot be set with them.
        const isForeign = tensor.type === 'i8' && accepted?.id.startsWith('codes-q8_k') === true;
        if (measures.some(({ isEqual }) => !isEqual) && !isForeign) {
          rows = got.data;
          await tensor.replace(got.data instanceof Float32Array ? got.data : Float32Array.from(got.data));
        }
      } else if (got.isWhole && bad.length === 0) own = 0;
    }
    // Codes are read as integers, whatever a file keeps them as.
    const kept = tensor.type === 'i8' && !(rows instanceof Int8Array) ? Int8Array.from(rows) : rows;
    const seen: Seen = { tensor, rows: kept, isKnown: got !== undefined, noise: own };
    this.#scene.add(seen);
    await this.#later(seen, tensor.data);
    return adopt;
  }

  /** A row beyond its bounds: a way of computing that is known, or the first difference so far. */
  async #suspected(
    question: Question,
    measures: readonly Measure[],
    bounds: readonly RowBound[],
    session: SessionChoice,
  ): Promise<{ accepted: Finding | undefined; adopt: SessionChoice | undefined }> {
    const { tensor } = question;
    if (tensor.op === 'acc' && !this.#reference.isFixed) {
      this.#sums = { question, measures, bounds };
      return { accepted: undefined, adopt: undefined };
    }
    const row = question.rows[0];
    const findings = await explain(question, bounds[row].noise);
    const [best] = findings;
    if (best?.kind === 'variant' && this.#options.exact !== true) {
      this.#met(best, tensor, row);
      return { accepted: best, adopt: adoptable(best.id, session) };
    }
    this.#suspect = {
      question,
      position: tensor.position + row,
      noise: bounds[row].noise,
      divergence: this.#divergence(question, measures[row], bounds[row], findings),
    };
    return { accepted: undefined, adopt: undefined };
  }

  /**
   * Behind every tensor: what was suspected may be explained by it. Sums have no op of their own: they are asked with the
   * op of their product; and where the scales are wrong, sums that were reckoned back from the product are wrong, too, and it
   * is the product that is to be told.
   */
  async #later(seen: Seen, computed: TraceData): Promise<void> {
    const { tensor } = seen;
    const sums = this.#sums;
    if (sums !== undefined && tensor.op === 'ternaryMatmul' && tensor.weight === sums.question.tensor.weight) {
      this.#sums = undefined;
      const row = sums.question.rows[0];
      const position = tensor.position + row;
      const own = this.#suspect;
      const rerun = tensor.rerun;
      const asked = {
        ...sums.question,
        tensor: { ...sums.question.tensor, ...(rerun === undefined ? {} : { rerun }) },
      };
      const findings = await explain(asked, sums.bounds[row].noise);
      const isOfProduct = own?.question.tensor.name === tensor.name && own.position === position;
      if (findings.length === 0 && isOfProduct && own.divergence.findings.length > 0) return;
      if (own === undefined || isOfProduct || position <= own.position) {
        const divergence = this.#divergence(asked, sums.measures[row], sums.bounds[row], findings);
        this.#suspect = { question: asked, position, noise: sums.bounds[row].noise, divergence };
      }
      return;
    }
    const suspect = this.#suspect;
    if (
      suspect === undefined ||
      suspect.divergence.findings.length > 0 ||
      seen.tensor.position !== suspect.question.tensor.position
    )
      return;
    const findings = await explainByLater(suspect.question, seen, computed, suspect.noise);
    if (findings.length > 0) suspect.divergence = { ...suspect.divergence, findings };
  }

  #met(finding: Finding, { name, position }: TraceTensor, row: number): void {
    const before = this.#variants.get(finding.id);
    this.#variants.set(
      finding.id,
      before === undefined
        ? { ...finding, name, position: position + row, times: 1 }
        : { ...before, error: Math.max(before.error, finding.error), times: before.times + 1 },
    );
  }

  #note({ name, position }: TraceTensor, measures: readonly Measure[], bad: readonly number[]): void {
    if (bad.length > 0) return;
    for (const [row, { ratio, isEqual }] of measures.entries()) {
      if (isEqual || ratio <= (this.#nearest?.ratio ?? 0)) continue;
      this.#nearest = { name, position: position + row, ratio };
    }
  }

  #question(tensor: TraceTensor, got: Got, rows: readonly number[]): Question {
    return {
      tensor,
      scene: this.#scene,
      expected: tensor.data,
      got: got.data,
      known: got.known,
      rows,
      inputs: sourcesOf(this.#scene, tensor),
      tokens: this.#tokens,
      embeddings: this.#reference.embeddings,
      vocabulary: this.#reference.vocabulary,
    };
  }

  async #gotOf(tensor: ReferenceTensor): Promise<Got | undefined> {
    const { name, position, rows, columns, known: ours } = tensor;
    const has = this.#candidate.tensors.get(name);
    if (has === undefined || has.columns !== columns) return undefined;
    const from = Math.max(position, has.position);
    const to = Math.min(position + rows, has.position + has.rows);
    if (from >= to) return undefined;
    const read = await this.#candidate.read(name, from, to - from);
    want(read.data.length === (to - from) * columns, 'bad-container', 'not as many values as promised', () => ({
      where: `${this.#candidate.label}: ${name}`,
      expected: `${(to - from) * columns}`,
      got: `${read.data.length}`,
    }));
    const resolution = (read.resolution ?? 0) + (tensor.resolution ?? 0);
    if (to - from === rows && ours === undefined) {
      const isWhole = resolution === 0 && (read.known === undefined || read.known.every((one) => one === 1));
      if (read.known?.every((one) => one === 0)) return undefined;
      return { data: read.data, known: isWhole ? undefined : read.known, resolution, isWhole };
    }
    const data = new Float32Array(rows * columns);
    const known = new Uint8Array(data.length);
    data.set(read.data, (from - position) * columns);
    if (read.known === undefined) known.fill(1, (from - position) * columns, (to - position) * columns);
    else known.set(read.known, (from - position) * columns);
    if (ours !== undefined) for (let i = 0; i < known.length; i++) known[i] &= ours[i];
    if (known.every((one) => one === 0)) return undefined;
    return { data, known, resolution, isWhole: false };
  }

  #divergence(question: Question, m: Measure, bound: RowBound, findings: readonly Finding[]): Divergence {
    const { tensor, rows, inputs, scene, expected, got, known } = question;
    const { name, op, layer, weight, columns, position } = tensor;
    const row = rows[0];
    const headDim = Number(tensor.facts.headDim ?? 0);
    const isBad = (i: number) =>
      !(
        Math.abs(expected[row * columns + i] - got[row * columns + i]) <= bound.element(expected[row * columns + i], i)
      ) && !Object.is(expected[row * columns + i], got[row * columns + i]);
    const sources = scene.sources(tensor);
    return {
      position: position + row,
      token: this.#tokens[position + row] < 0 ? undefined : this.#tokens[position + row],
      name,
      op,
      layer,
      weight,
      columns,
      known: m.known,
      differing: m.differing,
      column: m.column,
      head: headDim > 0 && op !== 'attentionWeights' ? Math.floor(m.column / headDim) : undefined,
      expected: excerpt(name, expected, row, columns, m.column),
      got: excerpt(name, got, row, columns, m.column, known),
      inputs: inputs.flatMap((values, i) => {
        if (values === undefined) return [];
        const width = scene.get(sources[i])?.tensor.columns ?? columns;
        return [excerpt(sources[i], values, row, width, width === columns ? m.column : 0)];
      }),
      bound: m.bound,
      ratio: m.ratio,
      relativeError: m.relative,
      sameInputs: tensor.inputs.every((input) => scene.get(input)?.noise === 0),
      positions: rows.map((one) => position + one),
      findings,
      descriptions: describeRow(question, row, isBad),
    };
  }
}

function rowsOf({ rows }: TraceTensor): number[] {
  return Array.from({ length: rows }, (_, row) => row);
}

function measureRow({ data, columns }: TraceTensor, got: Got, row: number, bound: RowBound): Measure {
  const start = row * columns;
  const theirs = { data: got.data, start, columns, known: got.known, resolution: got.resolution };
  return measure({ data, start, columns }, theirs, bound);
}

function excerpt(
  name: string,
  data: TraceData,
  row: number,
  columns: number,
  around: number,
  known?: Uint8Array,
): Excerpt {
  const from = Math.max(0, Math.min(around - NEIGHBOURS, columns - 2 * NEIGHBOURS - 1));
  const to = Math.min(columns, from + 2 * NEIGHBOURS + 1);
  const values: (number | null)[] = [];
  for (let i = from; i < to; i++) values.push(known?.[row * columns + i] === 0 ? null : data[row * columns + i]);
  let [sum, shown] = [0, 0];
  for (let i = row * columns; i < (row + 1) * columns; i++) {
    if (known?.[i] === 0 || !Number.isFinite(data[i])) continue;
    sum += data[i] * data[i];
    shown++;
  }
  return { name, column: from, values, rms: Math.sqrt(sum / Math.max(shown, 1)) };
}

/** Types of the cache that a variant is about, where the session has others. */
function adoptable(id: string, session: SessionChoice) {
  const types = {
    'kv-f32': ['f32', 'f32'],
    'kv-f16': ['f16', 'f16'],
    'k-f16': ['f16', 'f32'],
    'v-f16': ['f32', 'f16'],
  } as const;
  const wanted = types[id as keyof typeof types];
  if (wanted === undefined) return undefined;
  const [kType, vType] = wanted;
  return kType === (session.kType ?? 'f16') && vType === (session.vType ?? 'f16') ? undefined : { kType, vType };
}
