// check GPU.so SHIM.so [small]: every op on both libraries with the same random inputs; every bit of every output must be the same.
// The shim is the same source on a CPU, which the tests compare with the `ts` backend; so what agrees with it is right.
// Each list is run three times on the card: directly, captured and replayed. Lists that change what they read are run as often on the
// CPU, and the last run is compared as well. `small`: few and small cases, for compute-sanitizer.
#include <algorithm>

#include "library.hpp"

namespace {

struct Case {
  std::string name;
  // Fills buffers, returns the list; `outputs` are the handles to compare, with their bytes.
  void (*make)(Library&, Commands&, std::vector<std::pair<int32_t, uint64_t>>& outputs, int32_t m, int32_t k, int32_t n, int32_t extra);
  int32_t m, k, n, extra;
};

using Outputs = std::vector<std::pair<int32_t, uint64_t>>;

constexpr int32_t TOP_COUNT = 40, TOP_ROOM = 296;

std::vector<float> floats(size_t count, uint64_t seed) {
  Random random{seed};
  std::vector<float> out(count);
  for (float& x : out) x = random.unit() + random.unit() + random.unit();
  return out;
}

// What an output is before it is written.
std::vector<uint8_t> nothing(uint64_t bytes) { return std::vector<uint8_t>(bytes, 0xEE); }

int32_t output(Library& lib, Outputs& outputs, uint64_t bytes) {
  const int32_t handle = lib.put(nothing(bytes));
  outputs.emplace_back(handle, bytes);
  return handle;
}

// q, k, v of the same codes, from rows that were added and normalised on the way: all that goes with a projection.
void ternary(Library& lib, Commands& list, Outputs& outputs, int32_t m, int32_t k, int32_t n, int32_t count) {
  const int32_t x = lib.put(floats(static_cast<size_t>(n) * k, 1)), y = lib.put(floats(static_cast<size_t>(n) * k, 2));
  const int32_t gain = lib.put(floats(k, 3));
  const int32_t sum = output(lib, outputs, static_cast<uint64_t>(n) * k * 4);
  const int32_t codes = output(lib, outputs, static_cast<uint64_t>(n) * strideOf(k)), meta = output(lib, outputs, n * 8);
  list.add(BN_ADD, {sum, 0, x, 0, y, 0, n * k});
  list.add(BN_RMS_NORM_QUANTIZE, {codes, 0, meta, 0, sum, 0, gain, 0, bits(1e-5f), k, n});
  for (int32_t i = 0; i < count; i++) {
    const int32_t rows = m - 3 * i, weights = lib.put(packedTrits(rows, k, 10 + i));
    const int32_t out = output(lib, outputs, static_cast<uint64_t>(n) * rows * 4);
    list.add(BN_TERNARY_MATMUL, {out, 0, weights, bits(0.02f + i), rows, k, codes, 0, meta, 0, n});
  }
}

void gated(Library& lib, Commands& list, Outputs& outputs, int32_t op, int32_t k, int32_t n, int32_t) {
  const int32_t gate = lib.put(floats(static_cast<size_t>(n) * k, 1)), up = lib.put(floats(static_cast<size_t>(n) * k, 2));
  const int32_t out = output(lib, outputs, static_cast<uint64_t>(n) * k * 4);
  const int32_t codes = output(lib, outputs, static_cast<uint64_t>(n) * strideOf(k)), meta = output(lib, outputs, n * 8);
  list.add(op, {out, 0, gate, 0, up, 0, n * k});
  list.add(BN_QUANTIZE_ROWS, {codes, 0, meta, 0, out, 0, k, n});
  list.add(BN_SCALE, {up, 0, gate, 0, bits(1.7f), n * k});
  list.add(BN_COPY, {gate, 0, up, 0, k});
  outputs.emplace_back(gate, static_cast<uint64_t>(n) * k * 4);
}

// Bytes of a file of this type, with scales that are ordinary halves and floats.
std::vector<uint8_t> denseFile(int32_t dtype, int32_t rows, int32_t columns, uint64_t seed = 77) {
  const size_t count = static_cast<size_t>(rows) * columns;
  Random random{seed};
  if (dtype == BN_F32) {
    const std::vector<float> data = floats(count, seed);
    const uint8_t* at = reinterpret_cast<const uint8_t*>(data.data());
    return std::vector<uint8_t>(at, at + count * 4);
  }
  const size_t block = dtype == BN_Q6_K ? 256 : dtype >= BN_Q8_0 ? 32 : 1;
  const size_t bytes = dtype == BN_Q6_K ? 210 : dtype == BN_Q8_0 ? 34 : dtype == BN_AFFINE ? 40 : 2;
  std::vector<uint8_t> out(count / block * bytes);
  for (uint8_t& byte : out) byte = static_cast<uint8_t>(random.next());
  for (size_t at = 0; at < out.size(); at += bytes) {
    const size_t d = dtype == BN_Q6_K ? 208 : 0;
    const float step = 0.01f, offset = 1.3f;
    if (dtype == BN_AFFINE) std::memcpy(&out[at], &step, 4), std::memcpy(&out[at + 4], &offset, 4);
    else out[at + d + 1] = static_cast<uint8_t>((out[at + d + 1] & 0x83) | 0x2c);  // exponents of 2^-4: halves and bf16 alike finite
  }
  return out;
}

void dense(Library& lib, Commands& list, Outputs& outputs, int32_t m, int32_t k, int32_t n, int32_t dtype) {
  int32_t weights = lib.put(denseFile(dtype, m, k));
  if (dtype >= BN_Q8_0) {
    const int32_t packed = lib.alloc(lib.denseBytes(dtype, m, k));
    lib.packDense(dtype, weights, packed, m, k);
    weights = packed;
  }
  const int32_t x = lib.put(floats(static_cast<size_t>(n) * k, 3));
  const int32_t ids = lib.put(std::vector<int32_t>(n, m - 1));
  const int32_t out = output(lib, outputs, static_cast<uint64_t>(n) * m * 4), rows = output(lib, outputs, static_cast<uint64_t>(n) * k * 4);
  list.add(BN_DENSE_MATMUL, {out, 0, dtype, weights, m, k, x, 0, n});
  list.add(BN_EMBED, {rows, 0, dtype, weights, m, k, ids, 0, n});
}

// k positions before n rows; heads in `m`, and in `extra` the key/value heads and whether the cache is of halves.
void attention(Library& lib, Commands& list, Outputs& outputs, int32_t m, int32_t k, int32_t n, int32_t extra) {
  const int32_t kvHeads = extra & 255, half = extra >> 8 & 1, dim = extra >> 16, context = k + n + 5, all = k + n;
  const uint64_t cacheBytes = static_cast<uint64_t>(2) * kvHeads * context * dim * (half != 0 ? 2 : 4);
  const int32_t keys = output(lib, outputs, cacheBytes), values = output(lib, outputs, cacheBytes);
  const int32_t kRows = lib.put(floats(static_cast<size_t>(all) * kvHeads * dim, 4));
  const int32_t vRows = lib.put(floats(static_cast<size_t>(all) * kvHeads * dim, 5));
  const int32_t q = lib.put(floats(static_cast<size_t>(all) * m * dim, 6)), angles = lib.put(floats(static_cast<size_t>(all) * dim, 8));
  const int32_t out = output(lib, outputs, static_cast<uint64_t>(all) * m * dim * 4);
  list.add(BN_ROPE, {q, 0, angles, 0, m, dim, 1, all});
  list.add(BN_ROPE, {kRows, 0, angles, 0, kvHeads, dim, 1, all});
  list.add(BN_KV_APPEND, {kRows, 0, vRows, 0, kvHeads, dim, 1, all, half, half, context, keys, values, 0});
  const int32_t first = k * m * dim, scale = bits(0.09f);
  list.add(BN_ATTENTION, {out, first, q, first, m, kvHeads, dim, 1, n, half, half, context, scale, keys, values, k});
}

// A row of each of n sequences, the first of which is at position k; `m` and `extra` as above.
void sequences(Library& lib, Commands& list, Outputs& outputs, int32_t m, int32_t k, int32_t n, int32_t extra) {
  const int32_t kvHeads = extra & 255, half = extra >> 8 & 1, dim = extra >> 16, context = k + 1, width = m * dim;
  const int32_t q = lib.put(floats(static_cast<size_t>(n) * width, 6)), scale = bits(0.5f);
  const int32_t out = output(lib, outputs, static_cast<uint64_t>(n) * width * 4);
  for (int32_t i = 0; i < n; i++) {
    const int32_t keys = lib.put(denseFile(half != 0 ? BN_F16 : BN_F32, kvHeads * context, dim, 20 + i));
    const int32_t values = lib.put(denseFile(half != 0 ? BN_F16 : BN_F32, kvHeads * context, dim, 40 + i));
    list.add(BN_ATTENTION, {out, i * width, q, i * width, m, kvHeads, dim, 0, 1, half, half, context, scale, keys, values, k / (i + 1)});
  }
}

void topK(Library& lib, Commands& list, Outputs& outputs, int32_t m, int32_t k, int32_t n, int32_t) {
  const int32_t x = lib.put(floats(static_cast<size_t>(n) * m, 9));
  const int32_t out = output(lib, outputs, static_cast<uint64_t>(n) * (2 + 2 * TOP_ROOM) * 4);
  list.add(BN_TOP_K, {out, 0, x, 0, m, k, TOP_ROOM, n});
}

// The k greatest of two different estimates: more may come than are asked for, and which depends on the tensor cores.
void denseTopK(Library& lib, Commands& list, Outputs& outputs, int32_t m, int32_t k, int32_t n, int32_t dtype) {
  int32_t weights = lib.put(denseFile(dtype, m, k));
  if (dtype >= BN_Q8_0) {
    const int32_t packed = lib.alloc(lib.denseBytes(dtype, m, k));
    lib.packDense(dtype, weights, packed, m, k);
    weights = packed;
  }
  const int32_t x = lib.put(floats(static_cast<size_t>(n) * k, 3)), out = lib.alloc(static_cast<uint64_t>(n) * m * 4);
  const int32_t index = output(lib, outputs, static_cast<uint64_t>(m) * 12);
  const int32_t top = output(lib, outputs, static_cast<uint64_t>(n) * (2 + 2 * TOP_ROOM) * 4);
  list.add(BN_DENSE_INDEX, {index, dtype, weights, m, k});
  list.add(BN_DENSE_TOP_K, {out, 0, top, 0, dtype, weights, index, m, k, x, 0, TOP_COUNT, TOP_ROOM, n});
}

// Of rows of pairs: the flags, and at most `most` of the greatest with their products, in order. A product of -0 cannot be among them.
std::vector<uint8_t> greatestPairs(const std::vector<uint8_t>& bytes, size_t most) {
  std::vector<uint8_t> out;
  const size_t rowWords = 2 + 2 * TOP_ROOM;
  std::vector<int32_t> words(bytes.size() / 4);
  std::memcpy(words.data(), bytes.data(), bytes.size());
  for (size_t at = 0; at < words.size(); at += rowWords) {
    std::vector<std::pair<float, int32_t>> pairs;
    for (int32_t i = 0; i < std::min(words[at], TOP_ROOM); i++) {
      float value;
      std::memcpy(&value, &words[at + 3 + 2 * i], 4);
      pairs.emplace_back(-value, words[at + 2 + 2 * i]);
    }
    std::sort(pairs.begin(), pairs.end());
    pairs.resize(std::min(pairs.size(), most));
    const auto put = [&out](const void* from) { out.insert(out.end(), static_cast<const uint8_t*>(from), static_cast<const uint8_t*>(from) + 4); };
    put(&words[at + 1]);
    for (const auto& [value, id] : pairs) put(&value), put(&id);
  }
  return out;
}

// Whether every run of the list has other inputs: it rotates or scales what it was given.
bool movesOn(const Case& one) { return one.make == attention || one.make == gated; }

std::vector<std::vector<uint8_t>> runCase(const std::string& path, const Case& one, int times) {
  Library lib(path);
  Commands list;
  Outputs outputs;
  one.make(lib, list, outputs, one.m, one.k, one.n, one.extra);
  std::vector<std::vector<uint8_t>> out;
  for (int i = 0; i < times; i++) {
    if (i > 0 && !movesOn(one)) {  // or what a graph leaves out would still be there from the run before
      for (const auto& [handle, bytes] : outputs) lib.write(handle, nothing(bytes).data(), bytes);
    }
    lib.run(list.words);
    if (i > 0 && !(movesOn(one) && i + 1 == times)) continue;
    for (const auto& [handle, bytes] : outputs) out.push_back(lib.read(handle, bytes));
  }
  if (one.make == topK || one.make == denseTopK) {
    // The first run and the last: pairs come in no order, and of estimates only the greatest have to.
    const size_t most = one.make == topK ? TOP_ROOM : TOP_COUNT;
    const std::vector<uint8_t> first = greatestPairs(out.back(), most);
    out.back() = greatestPairs(lib.read(outputs.back().first, outputs.back().second), most);
    if (first != out.back()) out.back().push_back(1);
    return out;
  }
  if (times > 1 && !movesOn(one)) {
    for (size_t i = 0; i < outputs.size(); i++) {
      if (lib.read(outputs[i].first, outputs[i].second) != out[i]) out[i].push_back(1);  // differs when replayed
    }
  }
  return out;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return std::fprintf(stderr, "check GPU.so SHIM.so [small]\n"), 2;
  const bool small = argc > 3 && std::string(argv[3]) == "small";
  std::vector<Case> cases;
  for (const int32_t n : {1, 2, 4, 7, 16, 33, 130}) cases.push_back({"ternary", ternary, 133, 640, n, 3});
  for (const int32_t op : {BN_GATED_RELU2, BN_GATED_SILU, BN_GATED_GELU}) cases.push_back({"gated", gated, op, 700, 3, 0});
  for (int32_t dtype = BN_F32; dtype <= BN_AFFINE; dtype++) {
    for (const int32_t n : {1, 2, 3, 6}) cases.push_back({"dense", dense, 150, 768, n, dtype});
  }
  cases.push_back({"dense", dense, 21, 45, 3, BN_F16});
  for (const int32_t half : {0, 1 << 8}) {
    cases.push_back({"attention", attention, 20, 37, 1, 5 | half | 128 << 16});
    cases.push_back({"attention", attention, 8, 60, 30, 2 | half | 64 << 16});
    cases.push_back({"attention", attention, 4, 3, 5, 2 | half | 100 << 16});
    cases.push_back({"sequences", sequences, 5, 520, 2, 1 | half | 64 << 16});  // many blocks to a head
  }
  cases.push_back({"topK", topK, 3001, 40, 2, 0});
  for (int32_t dtype = BN_F16; dtype <= BN_AFFINE; dtype++) {
    for (const int32_t n : {5, 20}) cases.push_back({"denseTopK", denseTopK, 1003, 768, n, dtype});
  }
  if (!small) {
    for (const int32_t n : {1, 64}) {
      cases.push_back({"ternary", ternary, 2560, 2560, n, 1});
      cases.push_back({"ternary", ternary, 2560, 6912, n, 1});
    }
    cases.push_back({"ternary", ternary, 6912, 2560, 1, 2});
    cases.push_back({"ternary", ternary, 3200, 8640, 1, 1});
    cases.push_back({"ternary", ternary, 6912, 640, 300, 1});
    cases.push_back({"dense", dense, 8000, 2560, 1, BN_Q6_K});
    cases.push_back({"denseTopK", denseTopK, 4000, 2560, 64, BN_F16});
    cases.push_back({"attention", attention, 20, 1500, 1, 5 | 1 << 8 | 128 << 16});
    for (const int32_t half : {0, 1 << 8}) {
      cases.push_back({"sequences", sequences, 20, 2048, 1, 5 | half | 128 << 16});
      cases.push_back({"sequences", sequences, 8, 4000, 3, 2 | half | 100 << 16});
    }
    for (const int32_t k : {511, 512}) cases.push_back({"sequences", sequences, 10, k, 1, 2 | 1 << 8 | 256 << 16});
    cases.push_back({"sequences", sequences, 20, 900, 9, 5 | 1 << 8 | 128 << 16});  // they fill the card
    cases.push_back({"attention", attention, 20, 200, 300, 5 | 1 << 8 | 128 << 16});
  }
  int bad = 0;
  for (const Case& one : cases) {
    const auto expected = runCase(argv[2], one, movesOn(one) ? 3 : 1), got = runCase(argv[1], one, 3);
    if (expected == got) continue;
    bad++;
    size_t which = 0, at = 0;
    while (expected[which] == got[which]) which++;  // with as many more as there are outputs: of the last run
    while (at < expected[which].size() && expected[which][at] == got[which][at]) at++;
    std::printf("BAD %s m=%d k=%d n=%d extra=%d: output %zu, byte %zu\n", one.name.c_str(), one.m, one.k, one.n, one.extra, which, at);
  }
  std::printf("%zu cases, %d differ from the CPU\n", cases.size(), bad);
  return bad == 0 ? 0 : 1;
}
