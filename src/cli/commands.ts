/**
 * All commands, in the order of the help.
 * @module
 */

import { bench } from './bench.ts';
import { buildCuda } from './build-cuda.ts';
import { chat } from './chat.ts';
import type { Command } from './command.ts';
import { convert } from './convert.ts';
import { embed } from './embed.ts';
import { inspect } from './inspect.ts';
import { oracleLogits } from './oracle.ts';
import { oracleCompare } from './oracle-compare.ts';
import { oracleEndpoint } from './oracle-endpoint.ts';
import { oracleKit } from './oracle-kit.ts';
import { oracleTrace } from './oracle-trace.ts';
import { perplexity } from './perplexity.ts';
import { pull } from './pull.ts';
import { quantize } from './quantize.ts';
import { replay } from './replay.ts';
import { run } from './run.ts';
import { synth } from './synth.ts';
import { tokenize } from './tokenize.ts';
import { verify } from './verify.ts';

export const commands: readonly Command[] = [
  run,
  chat,
  inspect,
  verify,
  tokenize,
  oracleLogits,
  oracleEndpoint,
  oracleTrace,
  oracleCompare,
  oracleKit,
  perplexity,
  embed,
  bench,
  replay,
  convert,
  quantize,
  synth,
  pull,
  buildCuda,
];
