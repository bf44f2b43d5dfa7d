/** Runs inside a browser's page, see `test/browsers/drive.mjs`: what `cell.mjs` is elsewhere. */
import { identity, measure } from './measure.mjs';

export async function* run({ models, ...job }) {
  yield { identity: identity() };
  for (const model of models) {
    // A path of this site. Read once: opening by URL, in ranges, is tested by `story.mjs`.
    const source = new Uint8Array(await (await fetch(model.source)).arrayBuffer());
    yield* measure({ ...job, models: [{ ...model, source }] });
  }
}
