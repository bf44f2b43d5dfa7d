/**
 * Sets knobs of the CPU shim before anything else runs: node --import ./test/cuda/knobs.mjs ..., with BITNET_SHIM_KNOBS as in
 * `memory=1048576,devices=2`, for the library that BITNET_CUDA_LIBRARY names.
 */
import koffi from 'koffi';

const { BITNET_CUDA_LIBRARY: library, BITNET_SHIM_KNOBS: knobs = '' } = process.env;
const set = koffi.load(library).func('int32_t bn_shim_set(const char* name, int64_t value)');
for (const knob of knobs.split(',').filter(Boolean)) {
  const [name, value] = knob.split('=');
  if (set(name, Number(value)) !== 1) throw new Error(`the shim has no knob ${name}`);
}
// Collected as garbage, it would be unloaded, and its knobs with it.
globalThis.bitnetShim = set;
