/*
 * What a tensor core may make of sixteen products and an accumulator, at its worst: see head_bound.cuh for what is known of real ones.
 *
 * The knob "tensor" is a seed: how many products a block has (1 to 16, of each instruction anew), which ones, and whether bits that
 * are cut off round toward zero or toward minus infinity. 0: one block, toward zero. Always as few bits are kept as the bound allows
 * ("tensorBits", 24: fewer is a card that is worse than that).
 */
#include "shim.h"

#include <algorithm>
#include <climits>
#include <utility>

#include "state.h"

namespace shim {
namespace {

struct Halves {
  double of[65536];
  int exponents[65536]; /* that of subnormal numbers is theirs, whatever their leading bit */
  Halves() {
    for (unsigned bits = 0; bits < 65536; bits++) {
      const int exponent = static_cast<int>(bits >> 10 & 31), fraction = static_cast<int>(bits & 1023);
      double value = exponent == 0    ? std::ldexp(fraction, -24)
                     : exponent == 31 ? (fraction == 0 ? HUGE_VAL : std::nan(""))
                                      : std::ldexp(1024 + fraction, exponent - 25);
      of[bits] = bits & 0x8000u ? -value : value;
      exponents[bits] = exponent == 0 ? -14 : exponent - 15;
    }
  }
};

uint64_t random = 1;

uint64_t nextRandom() {
  random ^= random << 13;
  random ^= random >> 7;
  random ^= random << 17;
  return random;
}

/* An integer cut off to `bits` bits. */
int64_t cut(int64_t value, int bits, bool down) {
  int drop = 0;
  while ((value < 0 ? -value : value) >> drop >= int64_t(1) << bits) drop++;
  if (drop == 0) return value;
  const int64_t step = int64_t(1) << drop;
  return down ? value >> drop << drop : value / step * step;
}

/* `exponent`: the sum of those of its factors, which may be far above its own where one of them is subnormal. */
struct Addend {
  double value;
  int exponent;
};

/* The sum of a block: aligned to the greatest exponent, cut off, added exactly, cut off again. */
double blockSum(const Addend* addends, int count, bool down) {
  const int bits = static_cast<int>(state().tensorBits);
  int greatest = INT_MIN;
  for (int i = 0; i < count; i++) {
    if (addends[i].value == 0) continue;
    greatest = std::max({greatest, addends[i].exponent, std::ilogb(addends[i].value)});
  }
  if (greatest == INT_MIN) return 0;
  const int exponent = greatest - (bits - 1);
  const double up = std::ldexp(1.0, -exponent);
  int64_t sum = 0;
  for (int i = 0; i < count; i++) sum += static_cast<int64_t>(down ? std::floor(addends[i].value * up) : addends[i].value * up);
  return std::ldexp(static_cast<double>(cut(sum, bits, down)), exponent);
}

}  // namespace

void seedTensor() { random = static_cast<uint64_t>(state().tensor) * 0x9e3779b97f4a7c15u + 1; }

float tensorSum(float start, const unsigned* left, const unsigned* right) {
  static const Halves halves;
  Addend products[16];
  double plain = start;
  for (int i = 0; i < 16; i++) {
    const unsigned a = left[i / 2] >> i % 2 * 16 & 0xffffu, b = right[i / 2] >> i % 2 * 16 & 0xffffu;
    products[i] = {halves.of[a] * halves.of[b], halves.exponents[a] + halves.exponents[b]};
    plain += products[i].value;
  }
  if (!std::isfinite(plain)) return static_cast<float>(plain);
  const bool down = state().tensor % 2 != 0;
  int size = 16;
  if (state().tensor != 0) {
    for (int i = 15; i > 0; i--) std::swap(products[i], products[nextRandom() % static_cast<unsigned>(i + 1)]);
    size = 1 << nextRandom() % 5;
  }
  double sum = start;
  for (int first = 0; first < 16; first += size) {
    Addend addends[17];
    addends[0] = {sum, INT_MIN};
    for (int i = 0; i < size; i++) addends[1 + i] = products[first + i];
    sum = blockSum(addends, size + 1, down);
  }
  return static_cast<float>(sum);
}

}  // namespace shim
