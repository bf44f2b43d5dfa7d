/**
 * The answers of the embedded model, as `bitnet verify --write stories.json` wrote them with the wasm backend; the ts backend writes
 * the same to the last bit. Without what `run` says of the backend, which is not compared.
 * @module
 */

import type { Answers } from './answers.ts';

export const STORIES: Answers = {
  format: 'bitnet-ts answers',
  version: 1,
  model: {
    name: 'bitnet-ts stories',
    architecture: 'bitnet-b1.58',
    activation: 'relu2',
    vocabulary: 1813502789,
    trits: 'e160ee254182f20a2dfe78f379bb43622fc25ae39b534362c2098c996927600f',
  },
  text: 'afd0a8d5d35c857ea80bde211c10b81b9c9633b2daed844439bc7adea05fdf43',
  prose: {
    tokens: 304,
    bytes: 1231,
    nats: 750.745558780389,
    bitsPerByte: 0.879851254770009,
  },
  shuffled: {
    tokens: 303,
    bytes: 1225,
    nats: 2791.789335415337,
    bitsPerByte: 3.2879188811513482,
  },
  story: {
    prompt: 'Once upon a time, there was a little',
    tokens: [
      461, 412, 400, 46, 336, 495, 265, 334, 331, 325, 626, 266, 708, 1075, 835, 46, 518, 330, 44, 372, 511, 258, 353,
      44, 713, 1499, 352, 262, 1287, 46, 336, 281, 386, 384, 266, 415, 265, 708, 306, 300, 657, 380, 383, 391, 325,
      1711, 262, 1499, 266, 326, 44, 318, 657, 44, 351, 476, 498, 742, 1499, 44, 1339, 401, 400, 281,
    ],
    text: ' girl named Lily. She loved to play with her toys and eat yummy food. One day, she found a big, red apple on the table. She was very happy and wanted to eat it.\nLily\'s mom saw her eating the apple and said, "Lily, you can have this apple, please." Lily was',
  },
  fact: {
    prompt: 'The capital of France is',
    tokens: [258, 353, 44, 983, 3157, 116, 478, 46],
    text: ' a big, strong captain.',
  },
  perplexity: 11.817219638583296,
  logits: 'b92629abdb17ba6fda6613840a423a50415c0edcee41d563f54faa16db657ef4',
  run: {
    file: {
      name: 'stories.gguf.gz',
      bytes: 2467840,
      sha256: '611ede31fa1a2ae7f7d9054b1e4957a32902df06b8203b1081d2dc221b0f0539',
    },
  },
};
