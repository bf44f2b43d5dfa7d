// measure LIB.so [tiny]: what the kernels and whole steps take, each beside its ceiling. Compiled with -DWITH_CUDART (nvcc) it measures
// the ceiling too: a copy from device memory to device memory. `tiny` is for trying the program on the CPU shim; its numbers mean
// nothing.
//
// Weights are random but legal, of the shapes of BitNet-b1.58-2B-4T. Each kernel runs in a list of many with weights or keys that are
// not in any cache (several hundred MB between two uses), replayed as a graph as a token would: the time is that of a command within a
// token, to which starting the list and waiting for it, some 15 us, adds next to nothing.
// Every figure is the median of runs; the spread is (max - min) / median. Lines that begin with `reach |` say what was hoped for, and
// the ceiling: bench/cuda/run.sh makes a table of them.
#include <algorithm>
#include <chrono>

#include "library.hpp"
#ifdef WITH_CUDART
#include <cuda_runtime.h>

#include "peer.hpp"
#endif

namespace {

struct Sizes {
  int32_t hidden = 2560, ffn = 6912, heads = 20, kvHeads = 5, dim = 128, layers = 30, vocabulary = 128256;
  int32_t runs = 20, context = 4096;
  uint64_t rotate = uint64_t(400) << 20;
  bool screens = true;
};

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Timing {
  double seconds, spread;
};

Timing median(std::vector<double> times) {
  std::sort(times.begin(), times.end());
  const double middle = times[times.size() / 2];
  return {middle, (times.back() - times.front()) / middle};
}

// After three runs (directly, captured, replayed).
Timing timeList(Library& lib, const std::vector<int32_t>& words, int runs) {
  for (int i = 0; i < 3; i++) lib.run(words);
  lib.wait();
  std::vector<double> times;
  for (int i = 0; i < runs; i++) {
    const double start = now();
    lib.run(words);
    lib.wait();
    times.push_back(now() - start);
  }
  return median(times);
}

double copyCeiling() {
#ifdef WITH_CUDART
  const size_t bytes = size_t(1) << 30;
  void *a = nullptr, *b = nullptr;
  cudaEvent_t start, stop;
  if (cudaMalloc(&a, bytes) != cudaSuccess || cudaMalloc(&b, bytes) != cudaSuccess) return 0;
  cudaEventCreate(&start);
  cudaEventCreate(&stop);
  std::vector<double> times;
  for (int i = 0; i < 12; i++) {
    float ms = 0;
    cudaEventRecord(start);
    cudaMemcpyAsync(b, a, bytes, cudaMemcpyDeviceToDevice);
    cudaEventRecord(stop);
    cudaEventSynchronize(stop);
    cudaEventElapsedTime(&ms, start, stop);
    if (i > 1) times.push_back(ms / 1e3);
  }
  cudaFree(a);
  cudaFree(b);
  return 2.0 * static_cast<double>(bytes) / median(times).seconds / 1e9;
#else
  return 0;
#endif
}

void line(const std::string& what, double microseconds, double spread, const std::string& rate) {
  std::printf("%-46s %12.2f us  +-%3.0f%%  %s\n", what.c_str(), microseconds, spread * 100, rate.c_str());
}

std::string share(double gbps, double ceiling) {
  char text[80];
  std::snprintf(text, sizeof(text), ceiling > 0 ? "%8.0f GB/s  %3.0f%% of copy" : "%8.0f GB/s", gbps, 100 * gbps / ceiling);
  return text;
}

// `by` says what the ceiling follows from; 0 is a ceiling that was not measured.
void reach(const std::string& what, double figure, double goal, double ceiling, const char* unit, const char* by) {
  char most[48] = "not measured,", least[48] = "a share of it";
  if (ceiling > 0) std::snprintf(most, sizeof(most), "%.0f", ceiling);
  if (goal != 0) std::snprintf(least, sizeof(least), goal > 0 ? "%.0f" : "-", goal);
  std::printf("reach | %s | %.0f %s | %s | %s by %s\n", what.c_str(), figure, unit, least, most, by);
}

std::vector<float> floats(size_t count) {
  Random random{5};
  std::vector<float> out(count);
  for (float& x : out) x = random.unit();
  return out;
}

// The same ones every time: a whole head of them takes half a second to make, and is wanted some twenty times.
int32_t halves(Library& lib, uint64_t count) {
  static std::vector<uint8_t> bytes;
  static Random random{6};
  for (size_t i = bytes.size(); i < count * 2; i += 2) {
    bytes.push_back(static_cast<uint8_t>(random.next()));
    bytes.push_back(static_cast<uint8_t>((random.next() & 0x83) | 0x2c));
  }
  const int32_t handle = lib.alloc(count * 2);
  lib.write(handle, bytes.data(), count * 2);
  return handle;
}

// `count` handles of the same matrix in different memory.
std::vector<int32_t> copies(Library& lib, int32_t m, int32_t k, int count) {
  const std::vector<uint8_t> bytes = packedTrits(m, k, 3);
  std::vector<int32_t> out;
  for (int i = 0; i < count; i++) out.push_back(lib.put(bytes));
  return out;
}

// Bytes of weights a second, in GB.
double ternary(Library& lib, const Sizes& s, double ceiling, int32_t m, int32_t k, int32_t n) {
  const uint64_t bytes = static_cast<uint64_t>(m) * (strideOf(k) / 4);
  const int count = static_cast<int>(n > 64 ? 8 : s.rotate / bytes + 2);
  const std::vector<int32_t> weights = copies(lib, m, k, count);
  const int32_t x = lib.put(floats(static_cast<size_t>(n) * k)), codes = lib.alloc(static_cast<uint64_t>(n) * strideOf(k));
  const int32_t meta = lib.alloc(n * 8), out = lib.alloc(static_cast<uint64_t>(n) * m * 4);
  Commands first, list;
  first.add(BN_QUANTIZE_ROWS, {codes, 0, meta, 0, x, 0, k, n});
  lib.run(first.words);
  for (const int32_t w : weights) list.add(BN_TERNARY_MATMUL, {out, 0, w, bits(0.02f), m, k, codes, 0, meta, 0, n});
  lib.set(BN_OPTION_FUSE, 0);
  const Timing t = timeList(lib, list.words, s.runs);
  lib.set(BN_OPTION_FUSE, 1);
  const double each = t.seconds / count;
  char rate[80];
  std::snprintf(rate, sizeof(rate), "%8.1f TOPS", 2.0 * m * k * n / each / 1e12);
  const std::string name = "ternary " + std::to_string(m) + " x " + std::to_string(k) + ", " + std::to_string(n) + " rows";
  line(name, each * 1e6, t.spread, n > 64 ? rate : share(static_cast<double>(bytes) / each / 1e9, ceiling));
  for (const int32_t handle : weights) lib.free(handle);
  for (const int32_t handle : {x, codes, meta, out}) lib.free(handle);
  return static_cast<double>(bytes) / each / 1e9;
}

// How often a list has the same command, where its weights are larger than all caches, or it has none.
constexpr int HEADS_OF_LIST = 4, TOPS_OF_LIST = 32;

void head(Library& lib, const Sizes& s, double ceiling, int32_t dtype, const char* name, int32_t n) {
  const uint64_t bytes = lib.denseBytes(dtype, s.vocabulary, s.hidden);
  const int32_t weights = halves(lib, (bytes + 1) / 2);
  const int32_t x = lib.put(floats(static_cast<size_t>(n) * s.hidden)), out = lib.alloc(static_cast<uint64_t>(n) * s.vocabulary * 4);
  Commands list;
  for (int i = 0; i < HEADS_OF_LIST; i++) list.add(BN_DENSE_MATMUL, {out, 0, dtype, weights, s.vocabulary, s.hidden, x, 0, n});
  const Timing t = timeList(lib, list.words, s.runs);
  const double each = t.seconds / HEADS_OF_LIST;
  line(std::string("head ") + name + ", " + std::to_string(n) + " rows", each * 1e6, t.spread,
       share(static_cast<double>(bytes) / each / 1e9, ceiling));
  Commands top;
  const int32_t pairs = lib.alloc(static_cast<uint64_t>(n) * 2 * 300 * 4);
  for (int i = 0; i < TOPS_OF_LIST; i++) top.add(BN_TOP_K, {pairs, 0, out, 0, s.vocabulary, 40, 296, n});
  const Timing u = timeList(lib, top.words, s.runs);
  if (dtype == BN_F16) line("top 40, " + std::to_string(n) + " rows", u.seconds / TOPS_OF_LIST * 1e6, u.spread, "");
  for (const int32_t handle : {weights, x, out, pairs}) lib.free(handle);
}

// A row of every layer, of as many layers as fill the cache at this position: no layer's keys are in the L2 when their turn comes, as in
// a token, where a gigabyte of weights goes by in between. With many blocks to a head, and with one.
void attention(Library& lib, const Sizes& s, double ceiling, const std::vector<int32_t>& positions) {
  const int32_t qDim = s.heads * s.dim, kvDim = s.kvHeads * s.dim;
  const uint64_t elements = static_cast<uint64_t>(s.layers) * kvDim * s.context;
  const int32_t keys = halves(lib, elements), values = halves(lib, elements);
  const int32_t q = lib.put(floats(qDim)), out = lib.alloc(static_cast<uint64_t>(qDim) * 4);
  for (const int32_t position : positions) {
    Commands list;
    const int32_t context = position + 1, layers = s.layers * (s.context / context);
    for (int32_t i = 0; i < layers; i++) {
      list.add(BN_ATTENTION, {out, 0, q, 0, s.heads, s.kvHeads, s.dim, i, 1, 1, 1, context, bits(0.088f), keys, values, position});
      list.add(BN_COPY, {out, 0, q, 0, 0});  // nothing: attentions one after the other are taken for those of a batch
    }
    for (const int32_t split : {1, 0}) {
      lib.set(BN_OPTION_SPLIT, split);
      const Timing t = timeList(lib, list.words, s.runs);
      const double each = t.seconds / layers, bytes = 4.0 * kvDim * (position + 1);
      const std::string name = "attention, 1 row at " + std::to_string(position) + (split != 0 ? "" : ", a block to a head");
      line(name, each * 1e6, t.spread, share(bytes / each / 1e9, ceiling));
    }
  }
  lib.set(BN_OPTION_SPLIT, 1);
  for (const int32_t handle : {keys, values, q, out}) lib.free(handle);
}

// The 40 greatest of each row without all products; the one above makes them all.
void screenedHead(Library& lib, const Sizes& s, double ceiling, int32_t dtype, const char* name, int32_t n) {
  const uint64_t bytes = lib.denseBytes(dtype, s.vocabulary, s.hidden);
  const int32_t weights = halves(lib, (bytes + 1) / 2), index = lib.alloc(static_cast<uint64_t>(s.vocabulary) * 12);
  const int32_t x = lib.put(floats(static_cast<size_t>(n) * s.hidden)), out = lib.alloc(static_cast<uint64_t>(n) * s.vocabulary * 4);
  const int32_t top = lib.alloc(static_cast<uint64_t>(n) * 594 * 4);
  Commands once, list;
  once.add(BN_DENSE_INDEX, {index, dtype, weights, s.vocabulary, s.hidden});
  const Timing first = timeList(lib, once.words, 1);
  for (int i = 0; i < HEADS_OF_LIST; i++) {
    list.add(BN_DENSE_TOP_K, {out, 0, top, 0, dtype, weights, index, s.vocabulary, s.hidden, x, 0, 40, 296, n});
  }
  const Timing t = timeList(lib, list.words, s.runs);
  int64_t taken = 0, whole = 0;
  const std::vector<uint8_t> rows = lib.read(top, static_cast<uint64_t>(n) * 594 * 4);
  for (int32_t row = 0; row < n; row++) {
    int32_t head[2];
    std::memcpy(head, &rows[static_cast<size_t>(row) * 594 * 4], 8);
    taken += head[0];
    whole += head[1] != 0;
  }
  char text[120];
  std::snprintf(text, sizeof(text), "; %.0f products a row, %lld rows whole, index %.0f us", static_cast<double>(taken) / n,
                static_cast<long long>(whole), first.seconds * 1e6);
  const double each = t.seconds / HEADS_OF_LIST;
  line(std::string("screened head ") + name + ", top 40, " + std::to_string(n) + " rows", each * 1e6, t.spread,
       share(static_cast<double>(bytes) / each / 1e9, ceiling) + text);
  for (const int32_t handle : {weights, index, x, out, top}) lib.free(handle);
}

// The model: weights of all layers, buffers for `rows`, one cache for each of `sequences`.
struct Model {
  Library& lib;
  const Sizes& s;
  int32_t rows, sequences;
  struct Layer {
    int32_t q, k, v, o, gate, up, down;
  };
  std::vector<Layer> layers;
  std::vector<int32_t> keys, values, all;
  int32_t embedding, gain, ids, angles, x, h, q, k, v, a, gate, up, hCodes, hMeta, fCodes, fMeta, logits, top, index;

  int32_t keep(int32_t handle) {
    all.push_back(handle);
    return handle;
  }
  int32_t rowsOf(int64_t columns) { return keep(lib.alloc(static_cast<uint64_t>(rows) * columns * 4)); }

  Model(Library& lib, const Sizes& s, int32_t rows, int32_t sequences) : lib(lib), s(s), rows(rows), sequences(sequences) {
    const int32_t qDim = s.heads * s.dim, kvDim = s.kvHeads * s.dim;
    const auto matrix = [&](int32_t m, int32_t k) { return keep(lib.put(packedTrits(m, k, m + 7 * k))); };
    for (int32_t i = 0; i < s.layers; i++) {
      layers.push_back({matrix(qDim, s.hidden), matrix(kvDim, s.hidden), matrix(kvDim, s.hidden), matrix(s.hidden, qDim),
                        matrix(s.ffn, s.hidden), matrix(s.ffn, s.hidden), matrix(s.hidden, s.ffn)});
    }
    embedding = keep(halves(lib, static_cast<uint64_t>(s.vocabulary) * s.hidden));
    gain = keep(lib.put(std::vector<float>(s.ffn, 1.0f)));
    ids = keep(lib.put(std::vector<int32_t>(rows, 17)));
    angles = keep(lib.put(floats(static_cast<size_t>(rows) * s.dim)));
    x = rowsOf(s.hidden), h = rowsOf(s.hidden), q = rowsOf(qDim), k = rowsOf(kvDim), v = rowsOf(kvDim), a = rowsOf(qDim);
    gate = rowsOf(s.ffn), up = rowsOf(s.ffn), logits = keep(lib.alloc(static_cast<uint64_t>(std::min(rows, 64)) * s.vocabulary * 4));
    hCodes = rowsOf(strideOf(s.hidden) / 4), fCodes = rowsOf(strideOf(s.ffn) / 4), hMeta = rowsOf(2), fMeta = rowsOf(2);
    top = keep(lib.alloc(static_cast<uint64_t>(rows) * 600 * 4));
    index = keep(lib.alloc(static_cast<uint64_t>(s.vocabulary) * 12));
    Commands once;
    once.add(BN_DENSE_INDEX, {index, BN_F16, embedding, s.vocabulary, s.hidden});
    lib.run(once.words);
    const uint64_t cache = static_cast<uint64_t>(s.layers) * kvDim * s.context * 2;
    for (int32_t i = 0; i < sequences; i++) {
      keys.push_back(keep(lib.alloc(cache)));
      values.push_back(keep(lib.alloc(cache)));
    }
  }
  ~Model() {
    for (const int32_t handle : all) lib.free(handle);
  }

  // `count` tokens of every sequence from `position` on, as src/model/architectures/bitnet.ts has them; logits of at most 64 rows.
  std::vector<int32_t> step(int32_t position, int32_t count, bool withHead) const {
    const int32_t n = sequences * count, qDim = s.heads * s.dim, kvDim = s.kvHeads * s.dim, eps = bits(1e-5f), one = bits(1.0f);
    Commands c;
    const auto norm = [&](int32_t codes, int32_t meta, int32_t from, int32_t columns) {
      c.add(BN_RMS_NORM_QUANTIZE, {codes, 0, meta, 0, from, 0, gain, 0, eps, columns, n});
    };
    const auto project = [&](int32_t out, int32_t weight, int32_t m, int32_t columns, int32_t codes, int32_t meta) {
      c.add(BN_TERNARY_MATMUL, {out, 0, weight, bits(0.02f), m, columns, codes, 0, meta, 0, n});
    };
    c.add(BN_EMBED, {x, 0, BN_F16, embedding, s.vocabulary, s.hidden, ids, 0, n});
    for (int32_t i = 0; i < s.layers; i++) {
      const Layer& w = layers[i];
      norm(hCodes, hMeta, x, s.hidden);
      project(q, w.q, qDim, s.hidden, hCodes, hMeta);
      project(k, w.k, kvDim, s.hidden, hCodes, hMeta);
      project(v, w.v, kvDim, s.hidden, hCodes, hMeta);
      c.add(BN_ROPE, {q, 0, angles, 0, s.heads, s.dim, 1, n});
      c.add(BN_ROPE, {k, 0, angles, 0, s.kvHeads, s.dim, 1, n});
      for (int32_t j = 0; j < sequences; j++) {
        const int32_t row = j * count * kvDim;
        c.add(BN_KV_APPEND, {k, row, v, row, s.kvHeads, s.dim, i, count, 1, 1, s.context, keys[j], values[j], position});
      }
      for (int32_t j = 0; j < sequences; j++) {
        const int32_t row = j * count * qDim;
        c.add(BN_ATTENTION, {a, row, q, row, s.heads, s.kvHeads, s.dim, i, count, 1, 1, s.context, bits(0.088f), keys[j], values[j], position});
      }
      norm(hCodes, hMeta, a, qDim);
      project(h, w.o, s.hidden, qDim, hCodes, hMeta);
      c.add(BN_ADD, {x, 0, x, 0, h, 0, n * s.hidden});
      norm(hCodes, hMeta, x, s.hidden);
      project(gate, w.gate, s.ffn, s.hidden, hCodes, hMeta);
      project(up, w.up, s.ffn, s.hidden, hCodes, hMeta);
      c.add(BN_GATED_RELU2, {gate, 0, gate, 0, up, 0, n * s.ffn});
      norm(fCodes, fMeta, gate, s.ffn);
      project(h, w.down, s.hidden, s.ffn, fCodes, fMeta);
      c.add(BN_ADD, {x, 0, x, 0, h, 0, n * s.hidden});
    }
    const int32_t last = withHead ? std::min(n, 64) : 0;
    c.add(BN_RMS_NORM, {h, 0, x, 0, gain, 0, one, s.hidden, last});
    if (last >= 5 && s.screens) {  // as src/kernels/cuda/screen.ts has it
      c.add(BN_DENSE_TOP_K, {logits, 0, top, 0, BN_F16, embedding, index, s.vocabulary, s.hidden, h, 0, 40, 296, last});
    } else {
      c.add(BN_DENSE_MATMUL, {logits, 0, BN_F16, embedding, s.vocabulary, s.hidden, h, 0, last});
      c.add(BN_TOP_K, {top, 0, logits, 0, s.vocabulary, 40, 296, last});
    }
    return c.words;
  }
};

// The shapes by bitnet.cpp's kernel, GB/s; 0 where there is none.
std::vector<double> peerRates(const Sizes& s, double ceiling, const std::vector<std::pair<int32_t, int32_t>>& shapes) {
  std::vector<double> out;
#ifdef WITH_CUDART
  const Peer peer;
  for (const auto& [m, k] : shapes) {
    const double seconds = peer.has(m, k) ? peer.seconds(m, k, s.rotate, s.runs) : 0;
    out.push_back(seconds > 0 ? m * static_cast<double>(k) / 4 / seconds / 1e9 : 0);
    if (seconds > 0) line("bitnet.cpp " + std::to_string(m) + " x " + std::to_string(k), seconds * 1e6, 0, share(out.back(), ceiling));
  }
#else
  (void)s, (void)ceiling;
  out.resize(shapes.size());
#endif
  return out;
}

// Bytes of ternary weights that a step reads.
double ternaryBytes(const Sizes& s) {
  const double q = s.heads * s.dim, kv = s.kvHeads * s.dim;
  return s.layers * ((2 * q + 2 * kv) * s.hidden + 3.0 * s.ffn * s.hidden) / 4;
}
double headBytes(const Sizes& s) { return 2.0 * s.vocabulary * s.hidden; }

// Generation as a program would do it: a list a token, and a read of what the sampler needs. Tokens a second.
double generation(Library& lib, const Sizes& s, int32_t sequences, int32_t position, int32_t tokens) {
  Model model(lib, s, sequences, sequences);
  for (int i = 0; i < 3; i++) lib.run(model.step(position, 1, true));
  lib.wait();
  std::vector<double> times;
  for (int32_t i = 0; i < tokens; i++) {
    const double start = now();
    lib.run(model.step(position + i, 1, true));
    lib.read(model.top, static_cast<uint64_t>(sequences) * 594 * 4);
    times.push_back(now() - start);
  }
  const Timing t = median(times);
  char rate[80];
  std::snprintf(rate, sizeof(rate), "%8.0f tokens/s in all (F16 head)", sequences / t.seconds);
  line("generation, " + std::to_string(sequences) + " sequences from " + std::to_string(position), t.seconds * 1e6, t.spread, rate);
  return sequences / t.seconds;
}

double prompt(Library& lib, const Sizes& s, int32_t tokens, int32_t chunk) {
  Model model(lib, s, chunk, 1);
  std::vector<double> times;
  for (int run = 0; run < 5; run++) {
    const double start = now();
    for (int32_t at = 0; at < tokens; at += chunk) lib.run(model.step(at, chunk, false));
    lib.wait();
    if (run > 1) times.push_back(now() - start);
  }
  const Timing t = median(times);
  char rate[80];
  std::snprintf(rate, sizeof(rate), "%8.0f tokens/s", tokens / t.seconds);
  line("prompt of " + std::to_string(tokens) + " in chunks of " + std::to_string(chunk), t.seconds * 1e6, t.spread, rate);
  return tokens / t.seconds;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return std::fprintf(stderr, "measure LIB.so [tiny]\n"), 2;
  Sizes s;
  const bool tiny = argc > 2 && std::string(argv[2]) == "tiny";
  if (tiny) s = {256, 384, 4, 2, 64, 2, 500, 2, 600, 1 << 15};
  Library lib(argv[1]);
  lib.alloc(16);  // buffer 1, which `wait` reads
  std::printf("%s\n", lib.info().c_str());
  const double ceiling = copyCeiling();
  std::printf("copy from device memory to device memory: %.0f GB/s read and written\n", ceiling);
  const int32_t qkv = (s.heads + 2 * s.kvHeads) * s.dim;
  const std::vector<std::pair<int32_t, int32_t>> shapes = {
      {s.hidden, s.hidden}, {qkv, s.hidden}, {2 * s.ffn, s.hidden}, {s.hidden, s.ffn}, {tiny ? 64 : 3200, tiny ? 64 : 3200}, {tiny ? 128 : 20480, tiny ? 64 : 3200}};
  std::vector<double> vectors;
  for (const auto& [m, k] : shapes) vectors.push_back(ternary(lib, s, ceiling, m, k, 1));
  const std::vector<double> peers = peerRates(s, ceiling, shapes);
  for (const int32_t n : {2, 4, 8, 16, 64, 512, 2048}) ternary(lib, s, ceiling, 2 * s.ffn, s.hidden, tiny ? std::min(n, 64) : n);
  head(lib, s, ceiling, BN_F16, "F16", 1);
  head(lib, s, ceiling, BN_Q8_0, "Q8_0", 1);
  head(lib, s, ceiling, BN_Q6_K, "Q6_K", 1);
  for (const int32_t n : {4, 8, 16, 64}) {
    head(lib, s, ceiling, BN_F16, "F16", n);
    screenedHead(lib, s, ceiling, BN_F16, "F16", n);
  }
  screenedHead(lib, s, ceiling, BN_Q8_0, "Q8_0", 64);
  screenedHead(lib, s, ceiling, BN_Q6_K, "Q6_K", 64);
  attention(lib, s, ceiling, tiny ? std::vector<int32_t>{20, 590} : std::vector<int32_t>{128, 512, 2048, 4000});
  const double one = generation(lib, s, 1, tiny ? 3 : 64, tiny ? 4 : 64);
  generation(lib, s, 1, tiny ? 512 : 2000, tiny ? 4 : 64);
  generation(lib, s, 1, tiny ? 540 : 4000, tiny ? 4 : 64);
  const double many = generation(lib, s, tiny ? 6 : 64, tiny ? 3 : 64, tiny ? 4 : 64);
  s.screens = false;
  std::printf("with all products of the head:\n");
  generation(lib, s, tiny ? 6 : 64, tiny ? 3 : 64, tiny ? 4 : 64);
  s.screens = true;
  prompt(lib, s, tiny ? 32 : 512, tiny ? 32 : 512);
  const double chunks = prompt(lib, s, tiny ? 64 : 2048, tiny ? 32 : 512);
  const double whole = prompt(lib, s, tiny ? 64 : 2048, tiny ? 64 : 2048);
  lib.set(BN_OPTION_SPLIT, 0);
  std::printf("with one block of attention to a head:\n");
  generation(lib, s, 1, tiny ? 512 : 2000, tiny ? 4 : 64);
  generation(lib, s, 1, tiny ? 540 : 4000, tiny ? 4 : 64);
  lib.set(BN_OPTION_SPLIT, 1);
  lib.set(BN_OPTION_OVERLAP, 0);
  std::printf("without overlapping kernels:\n");
  generation(lib, s, 1, tiny ? 3 : 64, tiny ? 4 : 64);
  lib.set(BN_OPTION_FUSE, 0);
  std::printf("without overlapping and fused kernels:\n");
  generation(lib, s, 1, tiny ? 3 : 64, tiny ? 4 : 64);
  lib.set(BN_OPTION_GRAPHS, 0);
  std::printf("and without graphs:\n");
  generation(lib, s, 1, tiny ? 3 : 64, tiny ? 4 : 64);
  const double steps = ceiling * 1e9 / (ternaryBytes(s) + headBytes(s));
  reach("one sequence, 64 tokens from 64, F16 head", one, 1200, steps, "tokens/s", "bytes of weights");
  reach("64 sequences", many, 20000, 64 * steps, "tokens/s", "bytes of weights");
  reach("prompt of 2048", std::max(chunks, whole), 40000, 1979e12 / (8 * ternaryBytes(s)), "tokens/s", "1979 int8 TOPS");
  for (const size_t i : {2, 3, 5}) {
    const std::string shape = std::to_string(shapes[i].first) + " x " + std::to_string(shapes[i].second);
    reach("matrix x vector, " + shape, vectors[i], 0.7 * ceiling, ceiling, "GB/s", "a copy in device memory");
    if (peers[i] > 0) reach("the same by bitnet.cpp's kernel", peers[i], -1, ceiling, "GB/s", "a copy in device memory");
  }
  std::printf("%s\n", lib.info().c_str());
  return 0;
}
