/** Traces kept in memory, whole or as a log would show them. */
import type { Model, SessionOptions, TraceSite } from '../../src/index.ts';
import type { SourceRows, SourceTensor, TraceOrigin, TraceSource } from '../../src/oracle/source.ts';

export interface KeptOptions {
  readonly select?: (site: TraceSite) => boolean;
  /** As llama-eval-callback prints: three values at either end, four decimals. */
  readonly printed?: boolean;
  readonly origin?: TraceOrigin;
  readonly session?: SessionOptions;
  /** What becomes of the rows of a tensor. */
  readonly change?: (name: string, data: Float32Array, columns: number) => void;
}

const ENDS = 3;

/** Runs the model and keeps what it shows. */
export async function keptSource(
  model: Model,
  ids: readonly number[],
  options: KeptOptions = {},
): Promise<TraceSource> {
  const { select, printed = false, origin = { tokens: ids }, session: sessionOptions = {}, change } = options;
  const session = model.createSession(sessionOptions);
  const rows = new Map<string, number[]>();
  const tensors = new Map<string, SourceTensor>();
  for await (const { name, type, columns, data } of session.trace(ids, select === undefined ? {} : { select })) {
    rows.set(name, [...(rows.get(name) ?? []), ...data]);
    tensors.set(name, { name, type, columns, position: 0, rows: ids.length });
  }
  await session.dispose();
  const kept = new Map<string, Float32Array>();
  for (const [name, values] of rows) {
    const data = Float32Array.from(values);
    change?.(name, data, tensors.get(name)!.columns);
    kept.set(name, printed ? data.map((value) => Number(value.toFixed(4))) : data);
  }
  return {
    label: 'kept',
    origin,
    tensors,
    async read(name, position, count): Promise<SourceRows> {
      const { columns, type } = tensors.get(name)!;
      const data = kept.get(name)!.slice(position * columns, (position + count) * columns);
      if (!printed)
        return { data: type === 'i8' ? Int8Array.from(data) : type === 'i32' ? Int32Array.from(data) : data };
      const known = Uint8Array.from(data, (_, i) => (i % columns < ENDS || i % columns >= columns - ENDS ? 1 : 0));
      return { data, known, resolution: 5e-5 };
    },
    async close() {},
  };
}
