/**
 * Loading a model in the layout that it has. Nearly always statistics of a few rows tell it before anything is loaded, or the
 * weights are random and no layout is better than another. What remains, and what is not the usual, is heard: the likeliest layout
 * is loaded, and if the model does not speak then, the next.
 * @module
 */

import type { GgufFile } from '../formats/gguf/types.ts';
import { decideForms, type Forms, projectionsOf } from '../model/forms.ts';
import { guessLayout, nameOf } from '../model/layout.ts';
import { modelTensors } from '../model/plan.ts';
import { hear, type Speaker, type Speech } from './layout-speech.ts';
import type { LoadOptions } from './types.ts';

/** `open` loads everything in one layout; what it loaded and was not the right one is disposed here. */
export async function openInLayout<T extends Speaker & { readonly notes: readonly string[] }>(
  gguf: GgufFile,
  options: LoadOptions,
  open: (forms: Forms) => Promise<T>,
): Promise<T & { readonly layout: string | undefined }> {
  const { i2sLayout, tiles, allowDense, signal } = options;
  const model = modelTensors(gguf);
  const guess = await guessLayout(gguf, model, { i2sLayout, tiles, signal });
  const forms = await decideForms(gguf, model, { layout: guess.candidates[0], allowDense, signal });
  const withFinding = (parts: T, finding: string | undefined, isNews: boolean) => ({
    ...parts,
    layout: finding,
    notes: isNews && finding !== undefined ? [...parts.notes, finding] : parts.notes,
  });
  if (guess.candidates.length === 1) return withFinding(await open(forms), guess.finding, guess.isNews);

  const projections = projectionsOf(model);
  const heard: Speech[] = [];
  for (const [i, layout] of guess.candidates.entries()) {
    const parts = await open({ ...forms, layout });
    try {
      const speech = await hear(parts);
      heard.push(speech);
      if (speech.speaks) {
        const measured = i === 0 && guess.isMeasured ? `${guess.finding}, and ` : `${nameOf(layout, projections)}: `;
        return withFinding(parts, measured + tellSpeech(speech), layout !== guess.usual);
      }
    } catch (error) {
      await parts.backend.dispose();
      throw error;
    }
    await parts.backend.dispose();
  }
  const parts = await open(forms);
  const bits = heard.map((speech) => speech.bits.toFixed(1)).join(', ');
  const assumed = guess.isMeasured ? `${guess.finding}, but` : `${nameOf(guess.candidates[0], projections)}: assumed,`;
  const finding = `${assumed} the model speaks in no layout (${bits} bits a token, guessing ${heard[0].guessing.toFixed(1)})`;
  return withFinding(parts, finding, true);
}

function tellSpeech({ bits, guessing }: Speech): string {
  return `speaks (${bits.toFixed(1)} bits a token of plain English, guessing takes ${guessing.toFixed(1)})`;
}
