"""The ops of README.md in numpy, which rounds float32 after every operation: that, and the order of sums, is all exactness takes."""
import numpy as np
F = np.float32

def lanes(x, n, dtype):
    """n running sums: sum l takes the elements l, l + n, l + 2n, ... in this order; then they are folded in halves."""
    s = np.zeros(x.shape[:-1] + (n,), dtype)
    for i in range(0, x.shape[-1], n):
        s[..., :x[..., i:i + n].shape[-1]] += x[..., i:i + n]
    while s.shape[-1] > 4:
        s = s[..., :s.shape[-1] // 2] + s[..., s.shape[-1] // 2:]
    return (s[..., 0] + s[..., 2]) + (s[..., 1] + s[..., 3])

def dot16(a, b): return lanes(a * b, 16, F)
def sum8d(x): return lanes(x, 8, np.float64)

def exp(x):
    n = np.rint(x * F(1.4426950408889634))
    r = x - n * F(0.693359375) - n * F(-0.00021219444005469057)
    y = F(1.98756915e-4)
    for p in (1.39819995e-3, 8.33345191e-3, 4.16657959e-2, 1.66666655e-1, 5.00000012e-1):
        y = y * r + F(p)
    y = np.ldexp(y * r * r + r + F(1), np.nan_to_num(n).clip(-200, 200).astype(int))
    return np.where(x < -87, F(0), np.where(x > 88, F(np.inf), y))

def rms_norm(x, gain, eps):
    return x * (F(1) / np.sqrt((sum8d(x * x) / x.shape[-1]).astype(F) + F(eps)))[..., None] * gain

def quantize(x):
    scales = F(127) / np.fmax(F(1e-5), np.fmax.reduce(np.abs(x), -1))  # fmax ignores NaN
    return np.nan_to_num(np.rint(x * scales[:, None]), nan=0).clip(-128, 127).astype(np.int8), scales

def digits(codes, rows, columns):
    return codes.reshape(rows, columns).astype(np.int8) - np.int8(1)

def unpack(kind, raw, rows, columns, layout='x86'):
    """A ternary matrix as its file has it: trits and scale. None for types that are left to you."""
    n, shifts = rows * columns, np.array([[6], [4], [2], [0]], np.uint8)
    if kind == 'I2_S':
        shape = {'x86': (-1, 1, 32), 'arm64': (-1, 1, 16), 'rows4': (-1, 1, columns)}[layout]
        return digits(raw[:n // 4].reshape(shape) >> shifts & 3, rows, columns), raw[n // 4:][:4].view(F)[0]
    if kind not in ('TQ1_0', 'TQ2_0'):
        return None
    blocks = raw.reshape(-1, 54 if kind == 'TQ1_0' else 66)
    scale = blocks[:, -2:].copy().view(np.float16).astype(F).max()  # of blocks that are not all zeros
    if kind == 'TQ2_0':
        return digits(blocks[:, :64].reshape(-1, 1, 32) >> shifts[::-1] & 3, rows, columns), scale
    powers = 3 ** np.arange(5, dtype=np.uint16)[:, None]
    trits = lambda b, count: ((b[:, None] * powers[:count] & 255) * 3 >> 8).reshape(len(b), -1)
    parts = [trits(blocks[:, :32], 5), trits(blocks[:, 32:48], 5), trits(blocks[:, 48:52], 4)]
    return digits(np.hstack(parts), rows, columns), scale

def table(kind, raw):
    """Rows of an embedding. None for types that are left to you."""
    if kind == 'Q8_0':
        blocks = raw.reshape(-1, 34)
        return [(blocks[:, :2].copy().view(np.float16).astype(F) * blocks[:, 2:].view(np.int8)).reshape(-1)]
    if kind == 'BF16':
        return [(raw.view(np.uint16).astype(np.uint32) << 16).view(F)]
    return [raw.view({'F32': F, 'F16': np.float16}[kind]).astype(F)] if kind in ('F32', 'F16') else None

def to_bf16(x):
    bits = x.view(np.uint32)
    return (bits + 0x7fff + (bits >> 16 & 1) >> 16).astype(np.uint16)

def ternary(codes, scales, trits, scale):
    sums = codes.astype(np.int32) @ trits.T.astype(np.int32)
    return sums, sums.astype(F) / scales.reshape(-1, 1) * scale

def angles(positions, dim, base, factor=1, divisors=1):
    a = np.float64(positions)[:, None] * (np.float64(base) ** (-2 * np.arange(dim // 2) / dim) / factor / divisors)
    return np.hstack([np.cos(a), np.sin(a)]).astype(F)

def rope(x, table, heads, style):
    y, half = x.reshape(len(x), heads, -1).copy(), table.shape[1] // 2
    a, b = (y[..., :half], y[..., half:]) if style == 'neox' else (y[..., ::2], y[..., 1::2])
    cos, sin = table[:, None, :half], table[:, None, half:]
    a[:], b[:] = a * cos - b * sin, a * sin + b * cos
    return y.reshape(len(x), -1)

def softmax(scores):
    e = exp(scores - scores.max())
    return e, F(sum8d(e)), e / F(sum8d(e))

def attention(q, k, v, heads, kv_heads, position, scale):
    n, d = len(q), q.shape[1] // heads
    out, weights = np.zeros((n, heads, d), F), np.zeros((n, heads, len(k)), F)
    for i, h in np.ndindex(n, heads):
        seen, at = position + i + 1, h * kv_heads // heads * d
        e, total, weights[i, h, :seen] = softmax(dot16(q[i, h * d:(h + 1) * d], k[:seen, at:at + d]) * F(scale))
        for j in range(seen):
            out[i, h] += e[j] * v[j, at:at + d]
        out[i, h] /= total
    return weights, out.reshape(n, -1)

def relu2(x): return np.maximum(x, F(0)) ** 2
def silu(x): return x / (F(1) + exp(-x))
def gelu(x): return x / (F(1) + exp(-(F(1.5957691216057308) * x * (F(1) + F(0.044715) * x * x))))

def cached(x, kind): return x.astype(np.float16).astype(F) if kind == 'f16' else x
def attend(i, p):
    k, v = cached(i['k'], p['kType']), cached(i['v'], p['vType'])
    return (k, v) + attention(i['q'], k, v, p['nHeads'], p['nKvHeads'], p['position'], p['scale'])

OPS = {  # inputs and parameters by name -> outputs in the order of the manifest
    'quantizeRows': lambda i, p: quantize(i['x']),
    'rmsNorm': lambda i, p: [rms_norm(i['x'], i['gain'], p['eps'])],
    'denseMatmul': lambda i, p: [dot16(i['x'][:, None], i['weight'])],
    'ternaryMatmul': lambda i, p: ternary(
        i['codes'], i['scales'], *unpack('I2_S', i['weight'], p['rows'], p['columns'])),
    'decodeTernary': lambda i, p: unpack(p['type'], i['bytes'], p['rows'], p['columns'], p.get('layout')),
    'decodeFloats': lambda i, p: table(p['type'], i['bytes']),
    'ropeAngles': lambda i, p: [angles(i['positions'], p['headDim'], p['base'], p['factor'], i.get('divisors', 1))],
    'rope': lambda i, p: [rope(i['x'], i['angles'], p['nHeads'], p['style'])],
    'softmax': lambda i, p: softmax(i['scores']),
    'sum8d': lambda i, p: [np.array([sum8d(i['x'][:n]) for n in p['lengths']])],
    'attention': attend,
    'gatedRelu2': lambda i, p: [relu2(i['gate']) * i['up']],
    'gatedSilu': lambda i, p: [silu(i['gate']) * i['up']],
    'gatedGelu': lambda i, p: [gelu(i['gate']) * i['up']],
    'add': lambda i, p: [i['a'] + i['b']],
    'scale': lambda i, p: [i['x'] * F(p['factor'])],
    'expF32': lambda i, p: [exp(i['x'])],
    'f16ToF32': lambda i, p: [i['bits'].view(np.float16).astype(F)],
    'f32ToF16': lambda i, p: [i['x'].astype(np.float16).view(np.uint16)],
    'f32ToBf16': lambda i, p: [to_bf16(i['x'])],
    'bf16ToF32': lambda i, p: [(i['bits'].astype(np.uint32) << 16).view(F)],
    'exp': lambda i, p: [np.exp(i['x'])],
    'log': lambda i, p: [np.log(i['x'])],
    'pow': lambda i, p: [i['base'] ** i['y']],
    'sinCos': lambda i, p: [np.sin(i['x']), np.cos(i['x'])],
}
WITHIN_BOUNDS = ('ropeAngles', 'exp', 'log', 'pow', 'sinCos')  # numpy's own functions: their last place may differ
