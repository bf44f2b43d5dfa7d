/**
 * A running model as a source of traces: it is computed as it is asked for, in the order of its graph, and not kept.
 * @module
 */

import type { Model, SessionOptions, TraceOp, TraceTensor } from '../../engine/types.ts';
import type { SourceRows, SourceTensor, TraceOrigin, TraceSource } from '../source.ts';

/** `label` for messages. The model stays the caller's; closing the source ends its session. */
export function liveSource(
  model: Model,
  tokens: readonly number[],
  label: string,
  options: Omit<SessionOptions, 'contextSize'> = {},
): TraceSource {
  return new LiveSource(model, tokens, label, options);
}

class LiveSource implements TraceSource {
  readonly label: string;
  readonly origin: TraceOrigin;
  readonly tensors: ReadonlyMap<string, SourceTensor>;
  readonly #open: () => AsyncIterator<TraceTensor>;
  #run: AsyncIterator<TraceTensor> | undefined;
  #order = new Map<string, number>();
  /** The last that was computed. */
  #now: TraceTensor | undefined;

  constructor(model: Model, tokens: readonly number[], label: string, options: Omit<SessionOptions, 'contextSize'>) {
    const { name, architecture } = model.info;
    const { backend } = model;
    this.label = label;
    this.origin = {
      modelName: name,
      architecture,
      tokens: [...tokens],
      producer: `bitnet-ts, ${backend.name} ${backend.variant}`,
    };
    const sessionOptions = { ...options, contextSize: tokens.length };
    const session = model.createSession(sessionOptions);
    const sites = session.traceSites(tokens.length).filter(({ op }: { op: TraceOp }) => op !== 'attentionWeights');
    void session.dispose();
    this.#order = new Map(sites.map((site, i) => [site.name, i]));
    this.tensors = new Map(
      sites.map(({ name, type, columns }) => [name, { name, type, position: 0, rows: tokens.length, columns }]),
    );
    this.#open = async function* () {
      const own = model.createSession(sessionOptions);
      try {
        yield* own.trace(tokens);
      } finally {
        await own.dispose();
      }
    };
  }

  async read(name: string, position: number, rows: number): Promise<SourceRows> {
    const passed = this.#now;
    if (passed !== undefined && this.#isBefore(name, position, passed)) await this.close();
    for (;;) {
      const now = this.#now;
      if (now?.name === name && position >= now.position && position + rows <= now.position + now.rows) {
        const from = (position - now.position) * now.columns;
        const data = now.data.subarray(from, from + rows * now.columns);
        // Sums are reckoned back from products; where that does not come out even there are none to show.
        return now.unexplained ? { data, known: new Uint8Array(data.length) } : { data };
      }
      this.#run ??= this.#open();
      const next = await this.#run.next();
      if (next.done === true) throw new Error(`${name} at ${position} is in no pass of ${this.label}`);
      this.#now = next.value;
    }
  }

  async close(): Promise<void> {
    await this.#run?.return?.();
    this.#run = undefined;
    this.#now = undefined;
  }

  #isBefore(name: string, position: number, now: TraceTensor): boolean {
    if (position < now.position) return true;
    return position < now.position + now.rows && (this.#order.get(name) ?? 0) < (this.#order.get(now.name) ?? 0);
  }
}
