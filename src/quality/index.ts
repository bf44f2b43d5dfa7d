/**
 * How good a model is, in llama.cpp's conventions: perplexity, divergence from a base, and tasks. `bitnet-ts/quality`.
 *
 * @example
 * const model = await loadModel('model.gguf');
 * const subject = await createSubject(model, { contextSize: 512 });
 * const measurement = windowPerplexity(subject, textWindows(model.tokenizer, text, 512));
 * for (let i = 0; i < measurement.steps; i++) await measurement.step(i);
 * console.log(measurement.result());
 * @module
 */

export { normaliserOf } from '../sampling/softmax.ts';
export {
  BaseFile,
  baseWindowBytes,
  encodeBaseHeader,
  encodeLogProbs,
  type LogProbs,
} from './base-file.ts';
export { type Identity, readCheckpoint, writeCheckpoint } from './checkpoint.ts';
export {
  type Alternative,
  type Choice,
  type ChoiceResult,
  choiceAccuracy,
  choiceOf,
  longestChoice,
} from './choices.ts';
export { type DivergenceResult, divergenceFrom, type Percentiles } from './divergence.ts';
export { type HellaSwagTask, hellaSwagChoices, parseHellaSwag } from './hellaswag.ts';
export { type LambadaResult, lambada, lambadaPassages, type Passage, parseLambada } from './lambada.ts';
export {
  createSubject,
  decodeFloats,
  encodeFloats,
  type Measurement,
  type Saved,
  type Subject,
} from './measurement.ts';
export { type MultipleChoiceTask, multipleChoices, parseMultipleChoice } from './multiple-choice.ts';
export {
  documentPerplexity,
  type PerplexityResult,
  splitDocuments,
  textWindows,
  type Windows,
  windowPerplexity,
} from './perplexity.ts';
export type { Estimate } from './statistics.ts';
export { parseWinogrande, type WinograndeTask, winograndeChoices } from './winogrande.ts';
