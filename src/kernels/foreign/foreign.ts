/**
 * Other engines' arithmetic of ternary products, on request, over any backend. The default is always that of training, int8 per
 * token and exact sums, so that one set of trits gives one set of logits whatever container it came in.
 * @module
 */

import { show, want } from '../../errors.ts';
import type { Backend } from '../interface.ts';
import { I16_KERNELS, type I16Kernel } from './i16.ts';
import { I16Backend, type OverflowReport } from './i16-backend.ts';
import { Q8KBackend } from './q8-k-backend.ts';

export type { OverflowedOutput, OverflowReport, TensorOverflows } from './i16-backend.ts';

export const ACTIVATIONS = ['int8', 'q8_k'] as const;
export type Activations = (typeof ACTIVATIONS)[number];

/** Whose 16-bit sums: `avx2` is every x86 build, `neon` builds for ARM without dotprod. */
export type I16KernelName = I16Kernel['name'];

export interface ForeignOptions {
  /**
   * How the inputs of ternary projections are quantised: `int8`, per token, as in training and in bitnet.cpp's I2_S; or `q8_k`,
   * per 256 values, as llama.cpp does for TQ1_0 and TQ2_0.
   */
  readonly activations?: Activations | undefined;
  /** Compute what native I2_S kernels would where their sums overflow 16 bits; true is `avx2`. */
  readonly saturateI16?: boolean | I16KernelName | undefined;
}

/** Throws `bad-argument` for what is not an option, and for two that exclude each other. */
export function checkForeign({ activations = 'int8', saturateI16 = false }: ForeignOptions): void {
  want(ACTIVATIONS.includes(activations), 'bad-argument', 'no such quantisation of activations', () => ({
    where: 'activations',
    expected: ACTIVATIONS.join(', '),
    got: show(activations),
  }));
  const isKernel = typeof saturateI16 === 'boolean' || Object.hasOwn(I16_KERNELS, saturateI16);
  want(isKernel, 'bad-argument', 'no such kernel', () => ({
    where: 'saturateI16',
    expected: `true, false, ${Object.keys(I16_KERNELS).join(', ')}`,
    got: show(saturateI16),
  }));
  want(
    activations === 'int8' || saturateI16 === false,
    'bad-argument',
    'blocks of q8_k cannot overflow 16 bits',
    () => ({
      where: 'saturateI16',
      expected: 'activations int8',
      got: activations,
    }),
  );
}

/** `inner` with the arithmetic that is asked for; without a wish `inner` itself. */
export function foreignSemantics(inner: Backend, options: ForeignOptions): Backend {
  checkForeign(options);
  const { activations, saturateI16 = false } = options;
  if (activations === 'q8_k') return new Q8KBackend(inner);
  if (saturateI16 === false) return inner;
  return new I16Backend(inner, I16_KERNELS[saturateI16 === true ? 'avx2' : saturateI16]);
}

/** What overflowed so far, of a backend that looks for it. */
export function overflowsOf(backend: Backend): OverflowReport | undefined {
  return backend instanceof I16Backend ? backend.overflows : undefined;
}

/** Begins to count anew: what was computed so far, to find out about the model, is not what the user asked for. */
export function forgetOverflows(backend: Backend): void {
  if (backend instanceof I16Backend) backend.forget();
}
