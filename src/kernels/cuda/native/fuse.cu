/*
 * Neighbours that one kernel does together, with the same bits as apart:
 *
 *     ternaryMatmul of the same codes, up to four       q, k, v; gate, up
 *     add or a gated activation, then a norm or quantisation of what it made
 *     rope of q, rope of k, kvAppend of that k
 *     kvAppend, and attention, of rows that follow one another: the sequences of a batch
 */
#include "context.h"

namespace bn {
namespace {

/* Whether `count` floats from `a` and `more` from `b` have none in common. */
bool apart(const float* a, int64_t count, const float* b, int64_t more) { return a + count <= b || b + more <= a; }

bool sharesCodes(const Op& a, const Op& b) {
  if (a.kind != Op::Kind::TERNARY || b.kind != Op::Kind::TERNARY) return false;
  const TernaryArgs &x = a.ternary, &y = b.ternary;
  if (x.codes != y.codes || x.meta != y.meta || x.n != y.n || x.columns != y.columns || x.count == MAX_SHARERS) return false;
  for (int i = 0; i < x.count; i++)
    if (!apart(x.matrices[i].out, static_cast<int64_t>(x.n) * x.matrices[i].rows, y.matrices[0].out, static_cast<int64_t>(x.n) * y.matrices[0].rows)) return false;
  return true;
}

Made madeBy(int opcode) {
  switch (opcode) {
    case BN_ADD: return Made::ADDED;
    case BN_GATED_RELU2: return Made::RELU2;
    case BN_GATED_SILU: return Made::SILU;
    case BN_GATED_GELU: return Made::GELU;
    default: return Made::LOADED;
  }
}

/* Whether the rows of `b` are all that `a` has just made. */
bool makesRows(const Op& a, const Op& b) {
  if (a.kind != Op::Kind::ELEMENTS || b.kind != Op::Kind::ROWS) return false;
  if (madeBy(a.elements.op) == Made::LOADED) return false;
  const int64_t length = a.elements.length;
  if (a.elements.out != b.rows.a || length != static_cast<int64_t>(b.rows.n) * b.rows.columns) return false;
  if (b.rows.gain != nullptr && !apart(a.elements.out, length, b.rows.gain, b.rows.columns)) return false;
  /* A row is read before it is written over; another row must not be written over instead. */
  const float* const normed = b.rows.normed;
  const auto safe = [&](const float* input) { return normed == nullptr || normed == input || apart(normed, length, input, length); };
  return safe(a.elements.a) && safe(a.elements.b) && safe(a.elements.out);
}

void takeMaker(const ElementArgs& maker, RowsArgs& rows) {
  rows.made = madeBy(maker.op);
  rows.a = maker.a;
  rows.b = maker.b;
  rows.kept = maker.out;
}

bool sameCache(const CacheShape& a, const CacheShape& b) {
  return a.nKvHeads == b.nKvHeads && a.headDim == b.headDim && a.layer == b.layer && a.context == b.context && a.halfKeys == b.halfKeys &&
         a.halfValues == b.halfValues;
}

bool isRope(const Op& op) { return op.kind == Op::Kind::ROPE && op.rope.q != nullptr && op.rope.storeV == nullptr; }
bool isAppend(const Op& op) { return op.kind == Op::Kind::ROPE && op.rope.q == nullptr; }

/* q and k of the same rows. */
bool ropesBoth(const Op& a, const Op& b) {
  return isRope(a) && isRope(b) && a.rope.k == nullptr && a.rope.angles == b.rope.angles &&
         a.rope.headDim == b.rope.headDim && a.rope.neox == b.rope.neox && a.rope.n == b.rope.n &&
         apart(a.rope.q, static_cast<int64_t>(a.rope.n) * a.rope.nHeads * a.rope.headDim, b.rope.q,
               static_cast<int64_t>(b.rope.n) * b.rope.nHeads * b.rope.headDim);
}

bool followsOn(const RopeArgs& a, const RopeArgs& b) {
  const int64_t elements = static_cast<int64_t>(a.n) * a.cache.nKvHeads * a.cache.headDim;
  return sameCache(a.cache, b.cache) && a.places + a.n == b.places && a.storeK + elements == b.storeK && a.storeV + elements == b.storeV;
}

bool followsOn(const AttentionArgs& a, const AttentionArgs& b) {
  const int64_t elements = static_cast<int64_t>(a.n) * a.nHeads * a.cache.headDim;
  return sameCache(a.cache, b.cache) && a.nHeads == b.nHeads && a.scale == b.scale && a.places + a.n == b.places &&
         a.q + elements == b.q && a.out + elements == b.out && a.n + b.n <= 65535;
}

/* A rope of q and k that leaves what this stores. */
bool storesRotated(const Op& a, const Op& b) {
  return isRope(a) && a.rope.k != nullptr && isAppend(b) && b.rope.storeK == a.rope.k && b.rope.storeV != a.rope.k &&
         b.rope.storeV != a.rope.q && b.rope.n == a.rope.n && b.rope.cache.nKvHeads == a.rope.nKvHeads &&
         b.rope.cache.headDim == a.rope.headDim;
}

/* Rows of one sequence that are worth a launch of their own. */
constexpr int LONG = 9;

/* Puts `next` into `last`, where that is possible. */
bool join(Op& last, const Op& next) {
  if (sharesCodes(last, next)) {
    last.ternary.matrices[last.ternary.count++] = next.ternary.matrices[0];
    return true;
  }
  if (makesRows(last, next)) {
    const ElementArgs maker = last.elements;
    last = next;
    takeMaker(maker, last.rows);
    return true;
  }
  if (ropesBoth(last, next)) {
    last.rope.k = next.rope.q;
    last.rope.nKvHeads = next.rope.nHeads;
    return true;
  }
  if (last.kind == Op::Kind::ROPE && isAppend(last) && isAppend(next) && followsOn(last.rope, next.rope)) {
    last.rope.n += next.rope.n;
    return true;
  }
  if (last.kind == Op::Kind::ATTENTION && next.kind == Op::Kind::ATTENTION &&
      !(last.attention.oneSequence && last.attention.n >= LONG) && next.attention.n < LONG && followsOn(last.attention, next.attention)) {
    last.attention.n += next.attention.n;
    last.attention.oneSequence = false;
    return true;
  }
  return false;
}

}  // namespace

std::vector<Op> fuse(const std::vector<Op>& ops) {
  std::vector<Op> out;
  for (const Op& op : ops) {
    if (!out.empty() && join(out.back(), op)) continue;
    out.push_back(op);
  }
  /* Appends of several sequences are one now, and may be the end of a rope. */
  std::vector<Op> done;
  for (const Op& op : out) {
    if (!done.empty() && storesRotated(done.back(), op)) {
      RopeArgs& rope = done.back().rope;
      rope.storeK = op.rope.storeK;
      rope.storeV = op.rope.storeV;
      rope.cache = op.rope.cache;
      rope.places = op.rope.places;
      continue;
    }
    done.push_back(op);
  }
  return done;
}

}  // namespace bn
