/**
 * What is expected of which model.
 *
 * The bounds in bits per byte are generous and have reasons, because no published file has been run yet: they
 * tell a model that speaks from one that does not, not a good conversion from a slightly worse one. For that, record the answers of
 * a run you trust (`--write`) and compare with them (`--against`).
 * @module
 */

import { PUBLISHED, type Published } from '../../model/published.ts';
import type { Answers } from './answers.ts';
import { STORIES } from './stories.ts';

export interface Expectation {
  /** More than this and it does not speak. */
  readonly mostBitsPerByte: number;
  readonly reason: string;
  /** Whether it must know the capital of France. */
  readonly knowsFacts: boolean;
  /** What others have measured, to be said along. */
  readonly figures?: string;
  readonly answers?: Answers;
}

/**
 * Shannon ("Prediction and Entropy of Printed English", 1951) puts the entropy of single English words at 11.82 bits; with the
 * space a word has 5.5 characters. Who needs more than this has learned not even which words are frequent.
 */
const SINGLE_WORDS = 2.1;

const UNKNOWN: Expectation = {
  mostBitsPerByte: SINGLE_WORDS,
  reason: 'what the frequencies of single words give',
  knowsFacts: false,
};

/** Language models of 0.7 billion weights and more need about one bit for a byte of plain English. */
const LARGE: Expectation = {
  mostBitsPerByte: 1.5,
  reason: 'a large model needs about 1, the frequencies of single words give 2.1',
  knowsFacts: true,
};

const KNOWN: Readonly<Record<string, Expectation>> = {
  'microsoft/BitNet-b1.58-2B-4T': {
    // 13.1 against 91 is 2.8 bits a token of some 4.4 bytes: the wrong activation costs 0.6 bits per byte.
    mostBitsPerByte: 1.25,
    reason: 'a large model needs about 1, with SiLU instead of squared ReLU 0.6 more',
    knowsFacts: true,
    figures: 'others report a wikitext perplexity of 13.1, and 91 with the wrong activation',
  },
  // Trained on 100 billion tokens of the web: fluent, and no encyclopedia.
  '1bitLLM/bitnet_b1_58-large': { ...LARGE, knowsFacts: false },
  'the story model of bitnet-ts': {
    mostBitsPerByte: 1.5,
    reason: 'it was trained on such stories, and needs 0.64 on held-out ones',
    knowsFacts: false,
    answers: STORIES,
  },
};

/** What is expected of the model of that shape; undefined is a shape that nobody published. */
export function expectationOf(published: Published | undefined): Expectation {
  if (published === undefined) return UNKNOWN;
  return KNOWN[published.name] ?? LARGE;
}

/** The published model that a user means by a name or a part of it. */
export function publishedNamed(name: string): Published | undefined {
  const wanted = name.toLowerCase();
  const exact = PUBLISHED.find((one) => one.name.toLowerCase() === wanted);
  const found = PUBLISHED.filter((one) => one.name.toLowerCase().includes(wanted) || one.claims.test(name));
  return exact ?? (found.length === 1 ? found[0] : undefined);
}
