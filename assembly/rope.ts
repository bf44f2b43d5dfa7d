/** `Backend.rope` for rows first..last-1. Pairs of a row are independent, so no order to keep. */
export function rope(x: usize, angles: usize, nHeads: i32, headDim: i32, neox: i32, first: i32, last: i32): void {
  const half = headDim >> 1;
  for (let row = first; row < last; row++) {
    const cosines = angles + ((<usize>row * <usize>headDim) << 2);
    const sines = cosines + ((<usize>half) << 2);
    for (let head = 0; head < nHeads; head++) {
      const at = x + <usize>(row * nHeads + head) * ((<usize>headDim) << 2);
      if (neox) rotateHalves(at, cosines, sines, half);
      else rotateNeighbours(at, cosines, sines, half);
    }
  }
}

export function rotateHalves(x: usize, cosines: usize, sines: usize, half: i32): void {
  const bytes = (<usize>half) << 2;
  let i: usize = 0;
  for (; i + 16 <= bytes; i += 16) {
    const a = v128.load(x + i);
    const b = v128.load(x + bytes + i);
    const cos = v128.load(cosines + i);
    const sin = v128.load(sines + i);
    v128.store(x + i, f32x4.sub(f32x4.mul(a, cos), f32x4.mul(b, sin)));
    v128.store(x + bytes + i, f32x4.add(f32x4.mul(a, sin), f32x4.mul(b, cos)));
  }
  for (; i < bytes; i += 4) {
    const a = load<f32>(x + i);
    const b = load<f32>(x + bytes + i);
    const cos = load<f32>(cosines + i);
    const sin = load<f32>(sines + i);
    store<f32>(x + i, a * cos - b * sin);
    store<f32>(x + bytes + i, a * sin + b * cos);
  }
}

export function rotateNeighbours(x: usize, cosines: usize, sines: usize, half: i32): void {
  for (let i: usize = 0; i < <usize>half; i++) {
    const at = x + (i << 3);
    const a = load<f32>(at);
    const b = load<f32>(at, 4);
    const cos = load<f32>(cosines + (i << 2));
    const sin = load<f32>(sines + (i << 2));
    store<f32>(at, a * cos - b * sin);
    store<f32>(at, a * sin + b * cos, 4);
  }
}
