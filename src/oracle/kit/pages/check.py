#!/usr/bin/env python3
"""Recomputes the kit with numpy and nothing else: python3 check.py [KIT]. Exit status 1, and a line for every array that differs.

ops.py has the ops, model.py a whole model; here they meet what is expected. What OPS lacks is counted, not passed."""
import json, os, sys
import numpy as np
sys.dont_write_bytecode = True  # the kit stays as it was written
from model import run
from ops import OPS, WITHIN_BOUNDS

KIT = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__))
np.seterr(all='ignore')  # NaN and infinities are among the inputs
counts = {True: 0, False: 0}

def load(path):
    return np.load(os.path.join(KIT, path))

def compare(name, got, path, bound=None):
    """The same bits, all NaN being one; with a bound, within it."""
    want = load(path)
    got = np.asarray(got).reshape(want.shape)
    equal = (got == want) & (np.signbit(got) == np.signbit(want)) | (got != got) & (want != want)
    if bound:
        equal |= np.abs(got - want) <= bound['relative'] * np.abs(want) + bound['absolute']
    ok = got.dtype == want.dtype and bool(equal.all())
    counts[ok] += 1
    if not ok:
        at = tuple(int(i) for i in np.unravel_index(np.argmin(equal), equal.shape))
        print(f'{name}: {np.sum(~equal)} of {equal.size} differ, first at {at}: expected {want[at]!r}, got {got[at]!r}')

manifest = json.load(open(os.path.join(KIT, 'manifest.json')))
left = []
for vector in manifest['kernels']:
    op, inputs = vector['op'], {key: load(path) for key, path in vector['inputs'].items()}
    outputs = OPS[op](inputs, vector['parameters']) if op in OPS else None
    if outputs is None:
        left.append(vector['name'])
        continue
    assert len(outputs) == len(vector['outputs']), vector['name']
    bound = vector['bound'] if op in WITHIN_BOUNDS else None
    for (key, path), got in zip(vector['outputs'].items(), outputs):
        compare(f"{vector['name']} {key}", got, path, bound)
for model in manifest['models']:
    for answer in model['logits'] + model['traces']:
        got = run(os.path.join(KIT, model['file']), model, answer['kType'], answer['vType'])
        if got is None:
            left.append(model['name'])
            continue
        names = [node['name'] for node in model['graph']] if 'folder' in answer else ['logits']
        for name in names:
            path = answer.get('file') or f"{answer['folder']}/{name}.npy"
            compare(path, got[name], path)
print(f"{counts[True]} arrays as expected, {counts[False]} not; left to you: {', '.join(sorted(set(left)))}")
sys.exit(counts[False] > 0)
