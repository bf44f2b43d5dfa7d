"""A model of the kit: its GGUF file, and its graph as the manifest lists it, node by node."""
import struct
import numpy as np
import ops
from ops import F

TERNARY = {34: 'TQ1_0', 35: 'TQ2_0', 36: 'I2_S', 38: 'TL1', 42: 'TL2'}

def read_gguf(path, layout):
    """Metadata; and tensors, ternary ones as (trits, scale), or None where ops.py cannot read them."""
    data, at = open(path, 'rb').read(), 8
    def take(kind):
        nonlocal at
        at += struct.calcsize('<' + kind)
        return struct.unpack_from('<' + kind, data, at - struct.calcsize('<' + kind))[0]
    def text(): return take(f'{take("Q")}s').decode()
    def value(kind):
        if kind == 9:
            of, n = take('I'), take('Q')
            return [value(of) for _ in range(n)]
        return text() if kind == 8 else take('BbHhIif?--Qqd'[kind])
    n_tensors, n_keys = take('Q'), take('Q')
    meta = {text(): value(take('I')) for _ in range(n_keys)}
    infos = [(text(), [take('Q') for _ in range(take('I'))][::-1], take('I'), take('Q')) for _ in range(n_tensors)]
    tensors, start = {}, -(-at // 32) * 32
    for i, (name, shape, kind, offset) in enumerate(infos):
        end = start + infos[i + 1][3] if i + 1 < len(infos) else len(data)
        raw, plain = np.frombuffer(data[start + offset:end], np.uint8), {0: '<f4', 1: '<f2'}.get(kind)
        if plain:
            size = int(np.prod(shape)) * np.dtype(plain).itemsize
            tensors[name] = raw[:size].view(plain).astype(F).reshape(shape)
        else:
            blocks = {34: 54, 35: 66}.get(kind)
            size = shape[0] * shape[1] // 256 * blocks if blocks else len(raw)
            tensors[name] = ops.unpack(TERNARY[kind], raw[:size], *shape, layout)
    return meta, tensors

def run(path, model, k_type, v_type):
    """Computes every node of the graph from the nodes before it. None where a matrix could not be read."""
    meta, tensors = read_gguf(path, model.get('i2sLayout'))
    if any(weight is None for weight in tensors.values()):
        return None
    base, t = meta[model['architecture'] + '.rope.freq_base'], {}
    positions = range(len(model['tokens']))
    for node in model['graph']:
        name, op, facts = node['name'], node['op'], node['facts']
        x, weight = [t[key] for key in node['inputs']], tensors.get(node.get('weight'))
        if op in ('acc', 'ternaryMatmul') and not isinstance(weight, tuple):  # trits as plain floats
            weight = np.sign(weight).astype(np.int8), np.abs(weight).max()
        if op == 'embed': y = weight[model['tokens']]
        elif op == 'rmsNorm': y = ops.rms_norm(x[0].reshape(-1, len(weight)), weight, facts['eps']).reshape(x[0].shape)
        elif op == 'quantizeRows': y = ops.quantize(x[0])[name.endswith('.scales')]
        elif op == 'acc': y = ops.ternary(x[0], np.ones(len(positions), F), *weight)[0]
        elif op == 'ternaryMatmul': y = ops.ternary(*x, *weight)[1]
        elif op == 'denseMatmul': y = ops.dot16(x[0][:, None], weight)
        elif op == 'rope':
            y = ops.rope(x[0], ops.angles(positions, facts['headDim'], base), facts['nHeads'], facts['style'])
        elif op in ('attentionWeights', 'attention'):
            k, v = ops.cached(x[1], k_type), ops.cached(x[-1], v_type)
            y = ops.attention(x[0], k, v, facts['nHeads'], facts['nKvHeads'], 0, facts['scale'])[op == 'attention']
        elif op == 'scale': y = x[0] * F(facts['factor'])
        elif op == 'add': y = x[0] + x[1]
        else: y = {'gatedRelu2': ops.relu2, 'gatedSilu': ops.silu, 'gatedGelu': ops.gelu}[op](x[0]) * x[1]
        t[name] = y.reshape(len(positions), -1)
    return t
