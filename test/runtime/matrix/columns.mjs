/**
 * The columns: groups of settings that must not change a bit. Each setting is options of `loadModel`, and the ways of
 * `measure.mjs` in which the logits are then computed.
 */

const wasm = (options, ...ways) => ({ backend: 'wasm', ...options, ways });

const build = (kernels) => [
  wasm({ kernels, threads: 1, batchSize: 64 }, 'whole', 'steps'),
  wasm({ kernels, threads: 2, batchSize: 7 }, 'whole'),
];

export const columns = {
  /** The definition. */
  ts: [
    { backend: 'ts', batchSize: 64, ways: ['whole', 'steps'] },
    { backend: 'ts', batchSize: 7, ways: ['whole'] },
  ],
  threads: [1, 2, 3, 4].map((threads) => wasm({ threads, batchSize: 64 }, 'whole')),
  batches: [1, 2, 3, 7, 16].map((batchSize) => wasm({ threads: 1, batchSize }, 'whole')),
  /** Prefill against decode. */
  decode: [wasm({ threads: 1 }, 'steps', 'prompts'), wasm({ threads: 2 }, 'steps', 'prompts')],
  /** A fresh cache against one that was used before. */
  cache: [wasm({ threads: 1, batchSize: 5 }, 'rewound', 'kept', 'beside'), wasm({ threads: 2 }, 'kept')],
  dot: build('dot'),
  relaxed: build('relaxed'),
  simd: build('simd'),
  scalar: build('scalar'),
  /** Last: the switch of V8 holds for the rest of the process. */
  wide: ['dot', 'relaxed', 'simd'].map((kernels) => wasm({ kernels, wideVectors: true, threads: 2 }, 'whole', 'steps')),
};

export const columnNames = Object.keys(columns);
