/** The summation orders of the kernel contract: `dot16` and `sum8d` of `src/kernels/ts/sums.ts`. */

/** Folds sixteen running sums (four vectors) as the contract says. */
// @ts-ignore: decorator
@inline
export function fold16(s0: v128, s1: v128, s2: v128, s3: v128): f32 {
  const s = f32x4.add(f32x4.add(s0, s2), f32x4.add(s1, s3));
  return (
    f32x4.extract_lane(s, 0) + f32x4.extract_lane(s, 2) + (f32x4.extract_lane(s, 1) + f32x4.extract_lane(s, 3))
  );
}

/** dot16 of two f32 arrays of any length. */
export function dot16(a: usize, b: usize, length: i32): f32 {
  let s0 = f32x4.splat(0);
  let s1 = f32x4.splat(0);
  let s2 = f32x4.splat(0);
  let s3 = f32x4.splat(0);
  const whole = length & ~15;
  const end = a + (<usize>whole << 2);
  while (a < end) {
    s0 = f32x4.add(s0, f32x4.mul(v128.load(a), v128.load(b)));
    s1 = f32x4.add(s1, f32x4.mul(v128.load(a, 16), v128.load(b, 16)));
    s2 = f32x4.add(s2, f32x4.mul(v128.load(a, 32), v128.load(b, 32)));
    s3 = f32x4.add(s3, f32x4.mul(v128.load(a, 48), v128.load(b, 48)));
    a += 64;
    b += 64;
  }
  let rest = length - whole;
  if (rest > 0) {
    // Whole vectors go to sums 0, 1, 2; what is left goes lane by lane into the next one. Lanes without an
    // element must not be touched: adding 0 would turn -0 into 0.
    if (rest >= 4) {
      s0 = f32x4.add(s0, f32x4.mul(v128.load(a), v128.load(b)));
    } else return foldTail(s0, s1, s2, s3, s0, 0, a, b, rest);
    rest -= 4;
    a += 16;
    b += 16;
    if (rest >= 4) {
      s1 = f32x4.add(s1, f32x4.mul(v128.load(a), v128.load(b)));
    } else return foldTail(s0, s1, s2, s3, s1, 1, a, b, rest);
    rest -= 4;
    a += 16;
    b += 16;
    if (rest >= 4) {
      s2 = f32x4.add(s2, f32x4.mul(v128.load(a), v128.load(b)));
    } else return foldTail(s0, s1, s2, s3, s2, 2, a, b, rest);
    rest -= 4;
    a += 16;
    b += 16;
    return foldTail(s0, s1, s2, s3, s3, 3, a, b, rest);
  }
  return fold16(s0, s1, s2, s3);
}

/** Adds the last one to three products to sum vector `which` and folds. */
function foldTail(
  s0: v128,
  s1: v128,
  s2: v128,
  s3: v128,
  tail: v128,
  which: i32,
  a: usize,
  b: usize,
  rest: i32,
): f32 {
  if (rest > 0) tail = f32x4.replace_lane(tail, 0, f32x4.extract_lane(tail, 0) + load<f32>(a) * load<f32>(b));
  if (rest > 1) tail = f32x4.replace_lane(tail, 1, f32x4.extract_lane(tail, 1) + load<f32>(a, 4) * load<f32>(b, 4));
  if (rest > 2) tail = f32x4.replace_lane(tail, 2, f32x4.extract_lane(tail, 2) + load<f32>(a, 8) * load<f32>(b, 8));
  if (which == 0) return fold16(tail, s1, s2, s3);
  if (which == 1) return fold16(s0, tail, s2, s3);
  if (which == 2) return fold16(s0, s1, tail, s3);
  return fold16(s0, s1, s2, tail);
}

/** f64 sums of the low and the high pair of four f32 values are added to `s[pair]` and `s[pair + 1]`. */
// @ts-ignore: decorator
@inline
export function lowPair(x: v128): v128 {
  return f64x2.promote_low_f32x4(x);
}

// @ts-ignore: decorator
@inline
export function highPair(x: v128): v128 {
  return f64x2.promote_low_f32x4(i32x4.shuffle(x, x, 2, 3, 2, 3));
}

/** Folds eight f64 running sums (four vectors) as the contract says. */
// @ts-ignore: decorator
@inline
export function fold8d(s0: v128, s1: v128, s2: v128, s3: v128): f64 {
  const s = f64x2.add(f64x2.add(s0, s2), f64x2.add(s1, s3));
  return f64x2.extract_lane(s, 0) + f64x2.extract_lane(s, 1);
}

/** Adds one f32 to sum `lane` (0..7) of eight f64 running sums kept at `sums` in memory. */
export function addToSum(sums: usize, lane: i32, x: f32): void {
  const at = sums + (<usize>lane << 3);
  store<f64>(at, load<f64>(at) + f64(x));
}
