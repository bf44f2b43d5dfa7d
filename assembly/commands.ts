/**
 * The form of a command: 16 words, of which word 0 is the opcode, word 1 flags (layout.ts), and the others arguments in the order
 * in which `src/kernels/wasm/backend.ts` writes them. The numbers are those of `src/kernels/wasm/commands.ts`; a test compares.
 */

export const OP_EMBED: i32 = 1;
export const OP_RMS_NORM: i32 = 2;
export const OP_QUANTIZE_ROWS: i32 = 3;
export const OP_TERNARY_MATMUL: i32 = 4;
export const OP_DENSE_MATMUL: i32 = 5;
export const OP_ROPE: i32 = 6;
export const OP_KV_APPEND: i32 = 7;
export const OP_ATTENTION: i32 = 8;
export const OP_GATED_RELU2: i32 = 9;
export const OP_GATED_SILU: i32 = 10;
export const OP_ADD: i32 = 11;
export const OP_COPY: i32 = 12;
export const OP_HEAD_INDEX: i32 = 13;
export const OP_HEAD_SCORE: i32 = 14;
export const OP_HEAD_EXACT: i32 = 15;
export const OP_RMS_NORM_QUANTIZE: i32 = 16;
export const OP_GATED_GELU: i32 = 17;
export const OP_SCALE: i32 = 18;
export const OP_CHECK_WEIGHTS: i32 = 40;
export const OP_REPACK: i32 = 41;
export const OP_REQUANTIZE: i32 = 42;
export const OP_ARRANGE_Q6_K: i32 = 43;

// Argument k of the command at `c`: an address or count, or an f32.
// @ts-ignore: decorator
@inline
export function arg(c: usize, k: usize): i32 {
  return load<i32>(c + ((k + 2) << 2));
}
// @ts-ignore: decorator
@inline
export function address(c: usize, k: usize): usize {
  return load<usize>(c + ((k + 2) << 2));
}
// @ts-ignore: decorator
@inline
export function real(c: usize, k: usize): f32 {
  return load<f32>(c + ((k + 2) << 2));
}
