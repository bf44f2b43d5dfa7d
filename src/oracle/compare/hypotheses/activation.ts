/** Mistakes of `activation(gate) * up`, of sums and of factors. @module */

import { gatedGelu, gatedRelu2, gatedSilu } from '../../../kernels/ts/activation.ts';
import { bf16ToNumber, numberToBF16 } from '../../../numeric/bf16.ts';
import { expF32 } from '../../../numeric/exp.ts';
import { type Alternative, DEFINITION, floats, mistake, type Question, variant } from './question.ts';

const f = Math.fround;

const ACTIVATIONS = [
  { op: 'gatedRelu2', id: 'relu2', name: 'squared ReLU', act: gatedRelu2 },
  { op: 'gatedSilu', id: 'silu', name: 'SiLU', act: gatedSilu },
  { op: 'gatedGelu', id: 'gelu', name: 'gelu by tanh', act: gatedGelu },
] as const;

/** gelu(x) by x * sigmoid(1.702 x). */
const QUICK = f(1.702);

export function activationAlternatives({ tensor, inputs: [gate, up] }: Question): Alternative[] {
  const own = ACTIVATIONS.find(({ op }) => op === tensor.op);
  if (own === undefined || gate === undefined || up === undefined) return [];
  const by = (act: (typeof own)['act'], a: Float32Array, b: Float32Array) => {
    const out = new Float32Array(a.length);
    act(out, a, b, a.length);
    return out;
  };
  const each = (of: (g: number, u: number) => number) => () => floats(gate.length, (i) => of(gate[i], up[i]));
  const ones = new Float32Array(gate.length).fill(1);
  return [
    mistake('reference-differs', DEFINITION, () => by(own.act, gate, up)),
    ...ACTIVATIONS.filter((other) => other !== own).map(({ id, name, act }) =>
      mistake(`activation-${id}`, `${name} in place of ${own.name}`, () => by(act, gate, up)),
    ),
    mistake('gate-up-swapped', `${own.name} of up, times gate: the two are swapped`, () => by(own.act, up, gate)),
    ...ACTIVATIONS.filter((other) => other !== own).map(({ id, name, act }) =>
      mistake(`activation-${id}-swapped`, `${name} in place of ${own.name}, and gate and up swapped`, () =>
        by(act, up, gate),
      ),
    ),
    mistake(
      'activation-relu',
      `ReLU in place of ${own.name}`,
      each((g, u) => Math.max(g, 0) * u),
    ),
    mistake(
      'activation-square',
      `the square in place of ${own.name}`,
      each((g, u) => g * g * u),
    ),
    mistake(
      'activation-quick-gelu',
      `x * sigmoid(1.702 x) in place of ${own.name}`,
      each((g, u) => (g / (1 + expF32(-QUICK * g))) * u),
    ),
    mistake(
      'activation-missing',
      'gate * up without an activation',
      each((g, u) => g * u),
    ),
    mistake('up-missing', `${own.name} of gate, not multiplied by up`, () => by(own.act, gate, ones)),
    mistake('gate-missing', 'up alone', () => up),
  ];
}

export function addAlternatives({ tensor, scene, inputs: [a, b] }: Question): Alternative[] {
  if (a === undefined || b === undefined) return [];
  const [stream, change] = tensor.inputs;
  const others = [...scene.all()].filter(
    ({ tensor: other, rows }) =>
      other.columns === tensor.columns && rows instanceof Float32Array && !tensor.inputs.includes(other.name),
  );
  return [
    mistake('reference-differs', DEFINITION, () => floats(a.length, (i) => a[i] + b[i])),
    mistake('residual-missing', `${change} without the residual stream`, () => b),
    mistake('change-missing', `the residual stream as it was: ${change} is not added`, () => a),
    mistake('residual-subtracted', `${change} subtracted from the residual stream`, () =>
      floats(a.length, (i) => a[i] - b[i]),
    ),
    ...others.flatMap(({ tensor: other, rows }) => [
      mistake('residual-of-other', `${change} added to ${other.name} in place of ${stream}`, () =>
        floats(a.length, (i) => rows[i] + b[i]),
      ),
      mistake('change-of-other', `${other.name} added in place of ${change}`, () =>
        floats(a.length, (i) => a[i] + rows[i]),
      ),
    ]),
  ];
}

export function scaleAlternatives({ tensor, inputs: [x] }: Question): Alternative[] {
  if (x === undefined) return [];
  const factor = f(Number(tensor.facts.factor));
  const by = (other: number) => () => floats(x.length, (i) => x[i] * other);
  return [
    mistake('reference-differs', DEFINITION, by(factor)),
    mistake('factor-missing', `not multiplied by ${factor}`, () => x),
    mistake('factor-inverse', `divided by ${factor} in place of multiplied`, by(1 / factor)),
    mistake('factor-twice', `multiplied by ${factor} twice`, by(factor * factor)),
    variant('factor-bf16', `multiplied by ${factor} rounded to bf16`, by(bf16ToNumber(numberToBF16(factor)))),
  ];
}
