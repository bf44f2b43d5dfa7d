/** Runs inside a browser's page, see `test/browsers/drive.mjs`: what `cell.mjs` is elsewhere. */
import { identity, measure } from './measure.mjs';

export async function* run({ models, ...job }) {
  yield { identity: identity() };
  // Files are given by paths of this site.
  const here = models.map((model) => ({ ...model, source: new URL(model.source, location.href).href }));
  yield* measure({ ...job, models: here });
}
