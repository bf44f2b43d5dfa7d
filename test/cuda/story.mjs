/**
 * The shipped package with the cuda backend, in whatever runtime runs this. Arguments: a library, and `forget` to leave the model
 * as it is. Prints what was computed, or the error, as JSON.
 */
import { cuda } from '../../dist/engine/backends.js';
import { loadModel } from '../../dist/index.js';

const [library, what] = globalThis.process.argv.slice(2);
try {
  const stories = new URL('../../fixtures/models/stories.gguf.gz', import.meta.url);
  const model = await loadModel(stories, { backend: cuda({ library }) });
  const run = model.createSession().generate('Once upon a time', { maxTokens: 6, temperature: 0 });
  const { tokens } = await run.result;
  console.log(JSON.stringify({ tokens, backend: model.backend.name, variant: model.backend.variant }));
  if (what !== 'forget') await model.dispose();
} catch (error) {
  console.log(JSON.stringify({ code: error.code, message: error.message }));
}
