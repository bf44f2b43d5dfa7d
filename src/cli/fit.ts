/**
 * Whether a model fits into a WebAssembly memory or that of a GPU, by the plan that loading would make; no weight is read for it.
 * @module
 */

import { BitnetError } from '../errors.ts';
import type { GgufFile } from '../formats/index.ts';
import type { Backend } from '../kernels/interface.ts';
import type { ModelConfig } from '../model/config.ts';
import type { TernaryLayout } from '../model/forms.ts';
import type { PlannedMemory } from '../model/plan.ts';
import type { Attempt } from './describe.ts';
import type { Values } from './flags.ts';
import { type runtimeFlags, sessionOptions } from './flags-common.ts';
import { bytes } from './format.ts';

export interface Fit {
  /** How long the memory gets, holes and scratch included, and how long it can be. */
  readonly spanBytes: number;
  readonly capacityBytes: number;
  /** Whose memory that is. */
  readonly of: string;
  /** The span by its parts. */
  readonly parts: PlannedMemory | undefined;
  /** What is kept in another form than the file's, and why. */
  readonly notes: readonly string[];
}

type ContextArgs = Pick<
  Values<typeof runtimeFlags>,
  'ctx-size' | 'cache-type-k' | 'cache-type-v' | 'backend' | 'device'
>;

/** Of wasm on one thread; each further one takes some scratch of its own, far below a thousandth of the whole. */
export async function fitOf(
  gguf: GgufFile,
  config: ModelConfig,
  layout: TernaryLayout,
  args: ContextArgs,
): Promise<Attempt<Fit>> {
  const [{ cuda, wasm }, { batchOf }, { kvShapeOf }, { decideForms }, { modelTensors, planMemory }] = await Promise.all(
    [
      import('../engine/backends.ts'),
      import('../engine/model.ts'),
      import('../engine/session.ts'),
      import('../model/forms.ts'),
      import('../model/plan.ts'),
    ],
  );
  let backend: Backend | undefined;
  try {
    const isCuda = args.backend === 'cuda';
    backend = await (isCuda ? cuda({ device: args.device }) : wasm({ threads: 1 }))();
    const of = isCuda ? `free memory of ${backend.info.variant}` : 'a WebAssembly memory';
    const forms = await decideForms(gguf, modelTensors(gguf), { layout, allowDense: true });
    const kv = kvShapeOf(config, sessionOptions(args, config.contextLength));
    const options = { ...batchOf(backend, {}), kv, forms };
    const { spanBytes = 0, memory: parts, notes } = planMemory(gguf, backend, options);
    const capacityBytes = backend.rehearse?.().capacityBytes ?? 0;
    return { ok: true, value: { spanBytes, capacityBytes, of, parts, notes } };
  } catch (error) {
    if (error instanceof BitnetError) return { ok: false, why: error.message };
    throw error;
  } finally {
    await backend?.dispose();
  }
}

/** `yes, 1.32 GiB of 4.00 GiB ...`, or the planner's refusal. */
export function fitLine(fit: Attempt<Fit>): string {
  if (!fit.ok) return `no: ${fit.why}`;
  const { spanBytes, capacityBytes, of, notes } = fit.value;
  const tables = notes.length === 0 ? 'all kept as in the file' : notes.join('; ');
  return `yes, ${bytes(spanBytes)} of the ${bytes(capacityBytes)} of ${of}, scratch included; ${tables}`;
}
