/**
 * Verdicts on which model this is: what it calls itself, which shape it has, and whether both lead to the same graph.
 *
 * The costliest trap: newer converters of bitnet.cpp label 1bitLLM's models (SiLU) `bitnet-b1.58` (squared ReLU). The file
 * loads, runs and talks nonsense, and nothing in it is damaged.
 * @module
 */

import type { GgufFile } from '../../formats/gguf/types.ts';
import { architectureOf } from '../architectures.ts';
import type { ModelConfig } from '../config.ts';
import { PUBLISHED, type Published, publishedOf } from '../published.ts';
import { bad, ok, type Verdict, warn } from './verdict.ts';

export function identityVerdicts(gguf: GgufFile, config: ModelConfig): Verdict[] {
  const published = publishedOf(config);
  return [
    modelVerdict(gguf, config, published),
    activationVerdict(gguf, config, published),
    ...settings(config, published),
  ];
}

function modelVerdict(gguf: GgufFile, config: ModelConfig, published: Published | undefined): Verdict {
  const file = gguf.label.slice(gguf.label.lastIndexOf('/') + 1);
  const shape = `${config.nLayers} layers of ${config.hidden}/${config.ffn}, vocabulary ${config.vocabulary}`;
  const claimed = PUBLISHED.find(({ claims }) => claims.test(config.name) || claims.test(file));
  if (claimed !== undefined && claimed !== published) {
    const is = published === undefined ? 'which is not its shape' : `which is the shape of ${published.name}`;
    return warn(
      'model',
      `called ${claimed.name}, but ${shape}, ${is}`,
      'another model under this name; fetch the one you meant from its own repository',
    );
  }
  if (published === undefined)
    return ok('model', `${config.name || 'no name'}: ${shape}, no published shape that is known here`);
  const kind = gguf.findString('tokenizer.ggml.model');
  if (kind !== published.vocabularyKind) {
    const finding = `${published.name} by its shape: ${shape}; but its vocabulary is of kind ${kind ?? 'none'}, not ${published.vocabularyKind}`;
    return warn('model', finding, 'random weights of that shape, or another vocabulary: not what was published');
  }
  return ok('model', `${published.name} by its shape: ${shape}`);
}

const LABELS: Readonly<Record<string, string>> = { relu2: 'squared ReLU', silu: 'SiLU', gelu: 'GELU' };

function activationVerdict(gguf: GgufFile, config: ModelConfig, published: Published | undefined): Verdict {
  const { architecture } = config;
  const label = (activation: string) => LABELS[activation] ?? activation;
  const relabel = (right: string) =>
    `set general.architecture to ${right}: convert the model again, or take another file`;
  if (published !== undefined && !published.architectures.includes(architecture)) {
    const wrong =
      published.activation === config.activation
        ? 'another graph'
        : `${label(config.activation)} where the model was trained with ${label(published.activation)}`;
    return bad(
      'activation',
      `labelled ${architecture}, but ${published.name} is ${published.architectures.join(' or ')}: ${wrong}`,
      relabel(published.architectures[0]),
    );
  }
  // 1bitLLM's vocabulary and rope base, in a shape that is in no table.
  const isSpm = gguf.findString('tokenizer.ggml.model') === 'llama';
  if (config.activation === 'relu2' && isSpm && config.vocabulary === 32002 && config.ropeBase === 10000) {
    return bad(
      'activation',
      `labelled ${architecture} (squared ReLU) with the vocabulary of 1bitLLM's models, which use SiLU`,
      relabel('bitnet'),
    );
  }
  if (architecture === 'bitnet' && config.vocabulary === 128256 && config.ropeBase === 500000) {
    return bad(
      'activation',
      'labelled bitnet (SiLU) with vocabulary and rope base of BitNet-b1.58-2B-4T, which uses squared ReLU',
      relabel('bitnet-b1.58'),
    );
  }
  return ok('activation', `${label(config.activation)}: ${architectureOf(architecture).activationReason}`);
}

function settings(config: ModelConfig, published: Published | undefined): Verdict[] {
  const rope = `base ${config.ropeBase}${config.ropeFactor === 1 ? '' : `, positions divided by ${config.ropeFactor}`}`;
  const fact = `rope ${rope}; epsilon ${Number(config.rmsEps.toPrecision(6))}; context ${config.contextLength}`;
  if (published !== undefined && config.ropeBase !== published.ropeBase) {
    return [
      bad('positions', `${fact}; ${published.name} has rope base ${published.ropeBase}`, 'convert the model again'),
    ];
  }
  // The file has an f32.
  if (published !== undefined && config.rmsEps !== Math.fround(published.rmsEps)) {
    return [warn('positions', `${fact}; ${published.name} has epsilon ${published.rmsEps}`, 'convert the model again')];
  }
  if (config.ropeFactor !== 1) {
    return [warn('positions', fact, 'no published ternary model scales its positions; is it meant?')];
  }
  return [ok('positions', fact)];
}
