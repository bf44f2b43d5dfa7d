/* bn_run: a list is run directly the first time, captured the second, and replayed from then on. */
#include <algorithm>

#include "context.h"

namespace bn {
namespace {

/* Lists that are remembered; a server has some batch sizes, the small ones near and far (isFar), and some lengths of prompts. */
constexpr size_t MAX_PROGRAMS = 48;
/* Scores of attention that may lie in device memory at a time. */
constexpr size_t MAX_SCORE_FLOATS = size_t(64) << 20;

cudaError_t start(const Stream& on, const Op& op) {
  switch (op.kind) {
    case Op::Kind::ROWS: return runRows(on, op.rows);
    case Op::Kind::ELEMENTS: return runElements(on, op.elements);
    case Op::Kind::TERNARY: return runTernary(on, op.ternary);
    case Op::Kind::DENSE: return runDense(on, op.dense);
    case Op::Kind::EMBED: return runEmbed(on, op.embed);
    case Op::Kind::ROPE: return runRope(on, op.rope);
    case Op::Kind::ATTENTION: return runAttention(on, op.attention);
    case Op::Kind::DENSE_INDEX: return runDenseIndex(on, op.denseIndex);
    case Op::Kind::DENSE_TOP_K: return runDenseTopK(on, op.denseTopK);
    default: return runTopK(on, op.topK);
  }
}

cudaError_t startAll(const Stream& on, const std::vector<Op>& ops) {
  for (const Op& op : ops) {
    const cudaError_t e = start(on, op);
    if (e != cudaSuccess) return e;
  }
  return static_cast<cudaError_t>(cudaSuccess);
}

/* Attention whose scores would take too much memory, as several with fewer rows. */
std::vector<Op> cut(const std::vector<Op>& ops, int sms) {
  std::vector<Op> out;
  for (const Op& op : ops) {
    const size_t floats = op.kind == Op::Kind::ATTENTION ? attentionScratch(op.attention, sms) : 0;
    if (floats <= MAX_SCORE_FLOATS) {
      out.push_back(op);
      continue;
    }
    const AttentionArgs& whole = op.attention;
    const int64_t width = static_cast<int64_t>(whole.nHeads) * whole.cache.headDim;
    const int about = static_cast<int>(static_cast<size_t>(whole.n) * MAX_SCORE_FLOATS / floats);
    for (int first = 0, rows = 0; first < whole.n; first += rows) {
      Op piece = op;
      rows = std::max(1, std::min(about, whole.n - first));
      /* Tiles are rounded up, and fewer rows may belong to another kernel. */
      for (piece.attention.n = rows; rows > 1 && attentionScratch(piece.attention, sms) > MAX_SCORE_FLOATS;) piece.attention.n = --rows;
      piece.attention.q = whole.q + first * width;
      piece.attention.out = whole.out + first * width;
      piece.attention.places = whole.places + first;
      out.push_back(piece);
    }
  }
  return out;
}

/* Makes room for what the ops need besides their buffers, and tells them where it is. */
int32_t provide(Context& c, std::vector<Op>& ops) {
  size_t scores = 0, counts = 0;
  for (const Op& op : ops) {
    if (op.kind == Op::Kind::ATTENTION) scores = std::max(scores, attentionScratch(op.attention, c.properties.multiProcessorCount));
    if (op.kind == Op::Kind::TOP_K) counts = std::max(counts, topKScratch(op.topK.n) * sizeof(unsigned));
    if (op.kind == Op::Kind::DENSE_TOP_K) counts = std::max(counts, denseTopKScratch(op.denseTopK));
  }
  if (const int32_t code = c.grow(c.scores, scores * sizeof(float), "scores of attention")) return code;
  if (const int32_t code = c.grow(c.counts, counts, "counts of the top-k")) return code;
  for (Op& op : ops) {
    if (op.kind == Op::Kind::ATTENTION) op.attention.scores = reinterpret_cast<float*>(c.scores.at);
    if (op.kind == Op::Kind::TOP_K) op.topK.scratch = reinterpret_cast<unsigned*>(c.counts.at);
    if (op.kind == Op::Kind::DENSE_TOP_K) op.denseTopK.scratch = c.counts.at;
  }
  return BN_OK;
}

cudaError_t writePlaces(Context& c, const Walk& walked) {
  if (walked.places.empty()) return static_cast<cudaError_t>(cudaSuccess);
  return c.send(c.places.at, walked.places.data(), walked.places.size() * sizeof(RowPlace));
}

/* The list as a graph; null where the runtime will not have it. */
cudaGraphExec_t captureOn(Context& c, const Stream& on, const std::vector<Op>& ops) {
  const uint64_t launches = c.launches;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t made = nullptr;
  if (cudaStreamBeginCapture(c.stream, cudaStreamCaptureModeThreadLocal) != cudaSuccess) return nullptr;
  const cudaError_t started = startAll(on, ops);
  const cudaError_t ended = cudaStreamEndCapture(c.stream, &graph);
  if (started == cudaSuccess && ended == cudaSuccess && cudaGraphInstantiate(&made, graph, 0) != cudaSuccess) made = nullptr;
  if (graph != nullptr) cudaGraphDestroy(graph);
  c.launches = launches;
  return made;
}

/* Kernels that overlap have edges of their own in a graph, which drivers before CUDA 12.3 do not know: then without. */
cudaGraphExec_t capture(Context& c, const std::vector<Op>& ops) {
  Stream on = c.on();
  cudaGraphExec_t made = captureOn(c, on, ops);
  if (made == nullptr && on.overlap) {
    on.overlap = false;
    made = captureOn(c, on, ops);
  }
  cudaGetLastError(); /* of an attempt that failed */
  return made;
}

Program* find(Context& c, const std::vector<int32_t>& key) {
  for (auto at = c.programs.begin(); at != c.programs.end(); ++at) {
    if (at->key != key) continue;
    c.programs.splice(c.programs.begin(), c.programs, at);
    return &c.programs.front();
  }
  return nullptr;
}

void remember(Context& c, std::vector<int32_t>&& key, std::vector<int32_t>&& handles) {
  if (c.programs.size() >= MAX_PROGRAMS) {
    if (c.programs.back().graph != nullptr) cudaGraphExecDestroy(c.programs.back().graph);
    c.programs.pop_back();
  }
  c.programs.emplace_front();
  c.programs.front().key = std::move(key);
  c.programs.front().handles = std::move(handles);
}

}  // namespace

int32_t run(Context& c, const int32_t* words, int32_t count) {
  Walk walked;
  if (const int32_t code = walk(c, words, count, walked)) return code;
  /* May move the table of places, and with it forget all graphs: before anything is looked up. */
  if (const int32_t code = c.grow(c.places, walked.places.size() * sizeof(RowPlace), "the table of rows")) return code;

  Program* known = c.graphs ? find(c, walked.key) : nullptr;
  if (known != nullptr && known->graph != nullptr) {
    cudaError_t e = writePlaces(c, walked);
    if (e == cudaSuccess) e = cudaGraphLaunch(known->graph, c.stream);
    c.replays++;
    return e == cudaSuccess ? BN_OK : c.failCuda(e, "replaying a list of commands");
  }

  std::vector<Op> ops;
  std::vector<int32_t> handles;
  if (const int32_t code = parse(c, words, count, walked, ops, handles)) return code;
  if (c.fuse) ops = fuse(ops);
  ops = cut(ops, c.properties.multiProcessorCount);
  if (const int32_t code = provide(c, ops)) return code;
  known = c.graphs ? find(c, walked.key) : nullptr; /* `provide` may have forgotten it */
  cudaError_t e = writePlaces(c, walked);
  if (e != cudaSuccess) return c.failCuda(e, "writing the places of rows");

  if (known != nullptr && !known->refused) {
    known->graph = capture(c, ops);
    known->refused = known->graph == nullptr;
    if (known->graph != nullptr) {
      e = cudaGraphLaunch(known->graph, c.stream);
      if (e != cudaErrorMemoryAllocation) {
        c.replays++;
        return e == cudaSuccess ? BN_OK : c.failCuda(e, "running a list of commands");
      }
      /* The first launch puts the graph on the card, which may be full of the model: then it goes without one. */
      cudaGetLastError();
      cudaGraphExecDestroy(known->graph);
      known->graph = nullptr;
      known->refused = true;
    }
  }
  e = startAll(c.on(), ops);
  if (e != cudaSuccess) return c.failCuda(e, "starting a kernel");
  if (known == nullptr && c.graphs && !ops.empty()) remember(c, std::move(walked.key), std::move(handles));
  return BN_OK;
}

}  // namespace bn
