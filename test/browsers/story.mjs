/** Runs on a page: what a user's page does, from a URL to a story and a chat. */
import { loadModel } from '../../dist/index.js';

export async function* run({ files, prompt, options, template }) {
  const loading = { runs: 0 };
  const threads = crossOriginIsolated ? 2 : undefined;
  for (const file of files) {
    const model = await loadModel(new URL(file, location.href), { threads, onProgress: () => loading.runs++ });
    try {
      const session = model.createSession({ contextSize: 128 });
      let streamed = '';
      const generation = session.generate(prompt, options);
      for await (const { text } of generation) streamed += text;
      const chat = await model
        .createSession({ contextSize: 128 })
        .chat([{ role: 'user', content: 'Hi' }], { ...options, template }).result;
      const { name, nThreads, notes } = model.backend;
      yield {
        file,
        text: (await generation.result).text,
        streamed,
        chat: chat.text,
        backend: { name, nThreads, notes },
      };
    } finally {
      await model.dispose();
    }
  }
  if (loading.runs === 0) throw new Error('no progress was reported');
  // What a page cannot do is refused as the library refuses everything.
  const refusal = await loadModel('model.gguf').catch((error) => error);
  yield { code: refusal.code, message: refusal.message };
}
