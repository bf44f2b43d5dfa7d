// Runs inside each runtime: synthetic models of every architecture, every type of projections and every type of tables at least
// once, one digest each, as JSON.
import { createHash } from 'node:crypto';
import { synthesize } from '../../dist/convert/synth.js';
import { embeddingTypes, linearTypes } from '../../dist/convert/types.js';
import { memorySink } from '../../dist/formats/sink.js';
import { ARCHITECTURES } from '../../dist/model/architectures.js';
import { I2S_LAYOUTS } from '../../dist/tensors/i2s-layouts.js';

const forms = [
  ...I2S_LAYOUTS.map((i2sLayout) => ({ type: 'I2_S', i2sLayout })),
  ...Object.keys(linearTypes).map((type) => ({ type })),
];
const digests = {};
let next = 0;
for (const architecture of ARCHITECTURES.keys()) {
  for (const form of forms) {
    const embeddingType = embeddingTypes[next++ % embeddingTypes.length];
    const sink = memorySink();
    await synthesize(sink, { preset: 'tiny', architecture, embeddingType, ...form });
    const name = [architecture, ...Object.values(form), embeddingType].join(' ');
    digests[name] = createHash('sha256').update(sink.bytes()).digest('hex');
  }
}
console.log(JSON.stringify(digests));
