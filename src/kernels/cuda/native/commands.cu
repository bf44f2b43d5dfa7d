/* Lists of commands (../commands.md): recognised by `walk`, checked and turned into ops by `parse`. */
#include <algorithm>
#include <cstring>

#include "context.h"
#include "head_bound.cuh"

namespace bn {
namespace {

/* Rows of an op whose grid has them as its second dimension. */
constexpr int MAX_ROWS = 65535;
constexpr int MAX_HEAD_DIM = 1024;
/* Rows of four matrices in one launch, and steps beyond the last of a row of logits, are counted in 31 bits. */
constexpr int MAX_MATRIX_ROWS = 1 << 28;
constexpr int HEADER_WORDS = 2;
constexpr int DYNAMIC_WORDS = 3; /* keys, values, position: the last words of a KV command */

struct Rule {
  int code;
  const char* name;
  int words;
};

const Rule RULES[] = {
    {BN_EMBED, "embed", 11},          {BN_RMS_NORM, "rmsNorm", 11},
    {BN_QUANTIZE_ROWS, "quantizeRows", 10}, {BN_TERNARY_MATMUL, "ternaryMatmul", 13},
    {BN_DENSE_MATMUL, "denseMatmul", 11},   {BN_ROPE, "rope", 10},
    {BN_KV_APPEND, "kvAppend", 16},         {BN_ATTENTION, "attention", 18},
    {BN_GATED_RELU2, "gatedRelu2", 9},      {BN_GATED_SILU, "gatedSilu", 9},
    {BN_ADD, "add", 9},                     {BN_COPY, "copyRows", 7},
    {BN_RMS_NORM_QUANTIZE, "rmsNormQuantize", 13}, {BN_GATED_GELU, "gatedGelu", 9},
    {BN_SCALE, "scale", 8},                 {BN_TOP_K, "topK", 10},
    {BN_DENSE_INDEX, "denseIndex", 7},      {BN_DENSE_TOP_K, "denseTopK", 16},
};

const Rule* ruleOf(int32_t code) {
  for (const Rule& rule : RULES)
    if (rule.code == code) return &rule;
  return nullptr;
}

/* A handle and the first element, not yet looked up: how much is needed may stand in a later word. */
struct Ref {
  int32_t handle;
  int32_t first;
};

/* The arguments of one command, taken one after the other. After the first mistake the rest is not believed. */
class Arguments {
 public:
  Arguments(Context& c, const char* op, int index, const int32_t* words, std::vector<int32_t>* handles)
      : c_(c), op_(op), index_(index), at_(words + HEADER_WORDS), handles_(handles) {}

  int32_t word() { return *at_++; }
  Ref ref() {
    const Ref out = {at_[0], at_[1]};
    at_ += 2;
    return out;
  }
  float f32() {
    float out;
    std::memcpy(&out, at_++, 4);
    return out;
  }
  /* `low` in place of a wrong one: others are divided by it before anybody asks whether it was right. */
  int number(const char* name, int64_t low, int64_t high) {
    const int32_t value = word();
    if (value >= low && value <= high) return value;
    wrong(std::string(name) + ": expected " + std::to_string(low) + " to " + std::to_string(high) + ", got " + std::to_string(value));
    return static_cast<int>(low);
  }
  int maxRowColumns() const { return bn::maxRowColumns(c_.properties.sharedMemPerBlockOptin); }
  void want(bool condition, const char* what) {
    if (!condition) wrong(what);
  }

  template <typename T>
  T* at(const char* name, Ref ref, int64_t count, int64_t elementBytes = sizeof(T)) {
    if (code != BN_OK) return nullptr;
    const Buffer* buffer = c_.find(ref.handle);
    if (buffer == nullptr) {
      wrong(std::string(name) + ": no buffer " + std::to_string(ref.handle));
      return nullptr;
    }
    const int64_t has = static_cast<int64_t>(buffer->bytes / static_cast<uint64_t>(elementBytes));
    if (ref.first < 0 || count < 0 || count > has - ref.first) {
      wrong(std::string(name) + ": elements " + std::to_string(ref.first) + " .. " + std::to_string(ref.first + count) +
            " of a buffer of " + std::to_string(has));
      return nullptr;
    }
    if (handles_ != nullptr) handles_->push_back(ref.handle);
    return reinterpret_cast<T*>(buffer->at + static_cast<int64_t>(ref.first) * elementBytes);
  }

  void wrong(const std::string& what) {
    if (code == BN_OK) code = c_.fail(BN_ERR_ARGUMENT, std::string(op_) + " (command " + std::to_string(index_) + "): " + what);
  }

  int32_t code = BN_OK;

 private:
  Context& c_;
  const char* op_;
  int index_;
  const int32_t* at_;
  std::vector<int32_t>* handles_;
};

/* Calls `each(rule, index, words)` for every command of a list. */
template <typename Each>
int32_t forEach(Context& c, const int32_t* words, int32_t count, Each each) {
  int index = 0;
  for (int32_t at = 0; at < count; index++) {
    const Rule* rule = ruleOf(words[at]);
    const std::string where = "command " + std::to_string(index);
    if (rule == nullptr) return c.fail(BN_ERR_ARGUMENT, where + ": no op " + std::to_string(words[at]));
    if (count - at < rule->words || words[at + 1] != rule->words) {
      return c.fail(BN_ERR_ARGUMENT, where + ": " + rule->name + " has " + std::to_string(rule->words) + " words");
    }
    if (const int32_t code = each(*rule, index, words + at)) return code;
    at += rule->words;
  }
  return BN_OK;
}

/* What KV_APPEND and ATTENTION have in common. */
struct KvCommand {
  Ref first, second; /* k, v; or out, q */
  int nHeads = 0;
  CacheShape cache = {};
  int count = 0;
  float scale = 0;
  Ref keys = {}, values = {};
  int position = 0;
};

KvCommand readKv(Arguments& a, int opcode) {
  KvCommand kv;
  kv.first = a.ref();
  kv.second = a.ref();
  if (opcode == BN_ATTENTION) kv.nHeads = a.number("heads", 1, MAX_ROWS);
  kv.cache.nKvHeads = a.number("key/value heads", 1, MAX_ROWS);
  kv.cache.headDim = a.number("head dimension", 1, MAX_HEAD_DIM);
  kv.cache.layer = a.number("layer", 0, 1 << 20);
  kv.count = a.number("rows", 0, MAX_ROWS);
  kv.cache.halfKeys = a.number("type of keys", BN_KV_F32, BN_KV_F16) == BN_KV_F16;
  kv.cache.halfValues = a.number("type of values", BN_KV_F32, BN_KV_F16) == BN_KV_F16;
  /* Elements of a head are counted in 31 bits. */
  kv.cache.context = a.number("context", 1, INT32_MAX / MAX_HEAD_DIM);
  if (opcode == BN_ATTENTION) kv.scale = a.f32();
  kv.keys = {a.word(), 0};
  kv.values = {a.word(), 0};
  kv.position = a.number("position", 0, static_cast<int64_t>(kv.cache.context) - kv.count);
  if (opcode == BN_ATTENTION) a.want(kv.nHeads % kv.cache.nKvHeads == 0, "heads are no multiple of key/value heads");
  return kv;
}

/* Puts rows first .. first + count with consecutive places into the first table in which nothing contradicts. */
size_t enter(std::vector<std::vector<RowPlace>>& tables, size_t first, int count, RowPlace place) {
  const auto same = [](const RowPlace& a, const RowPlace& b) {
    return a.keys == nullptr || (a.keys == b.keys && a.values == b.values && a.position == b.position);
  };
  for (size_t which = 0;; which++) {
    if (which == tables.size()) tables.emplace_back();
    std::vector<RowPlace>& table = tables[which];
    bool fits = true;
    for (int i = 0; i < count && fits && first + i < table.size(); i++) {
      fits = same(table[first + i], {place.keys, place.values, place.position + i});
    }
    if (!fits) continue;
    if (table.size() < first + count) table.resize(first + count);
    for (int i = 0; i < count; i++) table[first + i] = {place.keys, place.values, place.position + i};
    return which;
  }
}

}  // namespace

int32_t walk(Context& c, const int32_t* words, int32_t count, Walk& out) {
  std::vector<std::vector<RowPlace>> tables;
  std::vector<std::pair<size_t, size_t>> groups; /* table, first row */
  out.key.assign(words, words + count);
  /*
   * Attentions one after the other, of which `fuse` makes one launch: whether they are far is one thing for all of them, and the only
   * one of their positions that makes another list. Their position words in the key tell it.
   */
  std::vector<int32_t*> run;
  int64_t heads = 0, furthest = 0;
  const auto endRun = [&] {
    if (c.split && isFar(furthest, heads, c.properties.multiProcessorCount)) {
      for (int32_t* const word : run) *word = 1;
    }
    run.clear();
    heads = furthest = 0;
  };
  const int32_t code = forEach(c, words, count, [&](const Rule& rule, int index, const int32_t* command) -> int32_t {
    if (rule.code != BN_ATTENTION) endRun();
    if (rule.code != BN_KV_APPEND && rule.code != BN_ATTENTION) return BN_OK;
    Arguments a(c, rule.name, index, command, nullptr);
    const KvCommand kv = readKv(a, rule.code);
    const CacheShape& cache = kv.cache;
    const int64_t ofLayer = static_cast<int64_t>(cache.nKvHeads) * cache.context * cache.headDim;
    a.want(a.code != BN_OK || cache.layer < INT64_MAX / ofLayer, "a cache of more elements than there are numbers");
    const int64_t elements = a.code == BN_OK ? (static_cast<int64_t>(cache.layer) + 1) * ofLayer : 0;
    RowPlace place = {};
    place.keys = a.at<unsigned char>("keys", kv.keys, elements, cache.halfKeys ? 2 : 4);
    place.values = a.at<unsigned char>("values", kv.values, elements, cache.halfValues ? 2 : 4);
    place.position = kv.position;
    /* The row within the batch: that of k, or of q. */
    const Ref rows = rule.code == BN_ATTENTION ? kv.second : kv.first;
    const int64_t width = static_cast<int64_t>(rule.code == BN_ATTENTION ? kv.nHeads : cache.nKvHeads) * cache.headDim;
    a.at<float>("rows", rows, kv.count * width);
    if (a.code == BN_OK) a.want(rows.first % width == 0, "begins within a row");
    if (a.code != BN_OK) return a.code;
    const size_t first = static_cast<size_t>(rows.first / width);
    const size_t table = enter(tables, first, kv.count, place);
    groups.emplace_back(table, first);
    int32_t* dynamic = out.key.data() + (command - words) + rule.words - DYNAMIC_WORDS;
    dynamic[0] = static_cast<int32_t>(table);
    dynamic[1] = dynamic[2] = 0;
    if (rule.code == BN_ATTENTION && kv.count > 0) {
      run.push_back(dynamic + 2);
      heads += static_cast<int64_t>(kv.count) * kv.nHeads;
      furthest = std::max(furthest, static_cast<int64_t>(kv.position) + kv.count - 1);
    }
    return BN_OK;
  });
  if (code != BN_OK) return code;
  endRun();
  std::vector<size_t> starts;
  for (const std::vector<RowPlace>& table : tables) {
    starts.push_back(out.places.size());
    out.places.insert(out.places.end(), table.begin(), table.end());
  }
  for (const auto& [table, first] : groups) out.tableOfGroup.push_back(starts[table] + first);
  return BN_OK;
}

namespace {

void parseRows(Arguments& a, int opcode, std::vector<Op>& ops) {
  Op op(Op::Kind::ROWS);
  RowsArgs& rows = op.rows;
  rows = {};
  rows.made = Made::LOADED;
  const bool quantizes = opcode != BN_RMS_NORM, normalises = opcode != BN_QUANTIZE_ROWS;
  const Ref out = a.ref(), meta = quantizes ? a.ref() : Ref{}, x = a.ref(), gain = normalises ? a.ref() : Ref{};
  if (normalises) rows.eps = a.f32();
  rows.columns = a.number("columns", 1, a.maxRowColumns());
  rows.n = a.number("rows", 0, INT32_MAX);
  const int64_t elements = static_cast<int64_t>(rows.n) * rows.columns;
  rows.a = a.at<float>("x", x, elements);
  if (normalises) rows.gain = a.at<float>("gain", gain, rows.columns);
  if (quantizes) {
    rows.codes = a.at<int8_t>("codes", out, rows.n * codeStride(rows.columns));
    rows.meta = reinterpret_cast<RowMeta*>(a.at<int32_t>("meta", meta, 2 * static_cast<int64_t>(rows.n)));
    a.want(out.first % 16 == 0, "codes: expected a multiple of 16");
  } else {
    rows.normed = a.at<float>("out", out, elements);
  }
  ops.push_back(op);
}

void parseElements(Arguments& a, int opcode, std::vector<Op>& ops) {
  Op op(Op::Kind::ELEMENTS);
  ElementArgs& e = op.elements;
  e = {};
  e.op = opcode;
  const bool two = opcode != BN_SCALE && opcode != BN_COPY;
  const Ref out = a.ref(), first = a.ref(), second = two ? a.ref() : Ref{};
  if (opcode == BN_SCALE) e.factor = a.f32();
  e.length = a.number("elements", 0, INT32_MAX);
  e.out = a.at<float>("out", out, e.length);
  e.a = a.at<float>("first input", first, e.length);
  if (two) e.b = a.at<float>("second input", second, e.length);
  ops.push_back(op);
}

void parseTernary(Arguments& a, std::vector<Op>& ops) {
  Op op(Op::Kind::TERNARY);
  TernaryArgs& t = op.ternary;
  const Ref out = a.ref(), weight = {a.word(), 0};
  t.count = 1;
  t.matrices[0].scale = a.f32();
  t.matrices[0].rows = a.number("rows of the matrix", 1, MAX_MATRIX_ROWS);
  t.columns = a.number("columns", 1, MAX_COLUMNS);
  const Ref codes = a.ref(), meta = a.ref();
  t.n = a.number("rows", 0, MAX_ROWS);
  const int64_t rows = t.matrices[0].rows, stride = codeStride(t.columns);
  t.matrices[0].out = a.at<float>("out", out, t.n * rows);
  t.matrices[0].weights = a.at<uint8_t>("weight", weight, rows * (stride / 4));
  t.codes = a.at<int8_t>("codes", codes, t.n * stride);
  t.meta = reinterpret_cast<const RowMeta*>(a.at<int32_t>("meta", meta, 2 * static_cast<int64_t>(t.n)));
  a.want(codes.first % 16 == 0, "codes: expected a multiple of 16");
  ops.push_back(op);
}

void parseDense(Arguments& a, std::vector<Op>& ops) {
  Op op(Op::Kind::DENSE);
  DenseArgs& d = op.dense;
  const Ref out = a.ref();
  d.dtype = a.number("type", BN_F32, BN_AFFINE);
  const Ref weight = {a.word(), 0};
  d.rows = a.number("rows of the matrix", 1, MAX_MATRIX_ROWS);
  d.columns = a.number("columns", 1, MAX_COLUMNS);
  const Ref x = a.ref();
  d.n = a.number("rows", 0, MAX_ROWS);
  a.want(d.columns % blockColumns(d.dtype) == 0, "columns are no whole blocks of the type");
  d.weights = a.at<uint8_t>("weight", weight, d.rows * denseRowBytes(d.dtype, d.columns));
  d.out = a.at<float>("out", out, static_cast<int64_t>(d.n) * d.rows);
  d.x = a.at<float>("x", x, static_cast<int64_t>(d.n) * d.columns);
  ops.push_back(op);
}

void parseEmbed(Arguments& a, std::vector<Op>& ops) {
  Op op(Op::Kind::EMBED);
  EmbedArgs& e = op.embed;
  const Ref out = a.ref();
  e.dtype = a.number("type", BN_F32, BN_AFFINE);
  const Ref table = {a.word(), 0};
  e.rows = a.number("rows of the table", 1, INT32_MAX);
  e.columns = a.number("columns", 1, MAX_COLUMNS);
  const Ref ids = a.ref();
  e.n = a.number("rows", 0, INT32_MAX);
  a.want(e.columns % blockColumns(e.dtype) == 0, "columns are no whole blocks of the type");
  e.table = a.at<uint8_t>("table", table, e.rows * denseRowBytes(e.dtype, e.columns));
  e.out = a.at<float>("out", out, static_cast<int64_t>(e.n) * e.columns);
  e.ids = a.at<int32_t>("ids", ids, e.n);
  ops.push_back(op);
}

void parseRope(Arguments& a, std::vector<Op>& ops) {
  Op op(Op::Kind::ROPE);
  RopeArgs& r = op.rope;
  r = {};
  const Ref x = a.ref(), angles = a.ref();
  r.nHeads = a.number("heads", 1, MAX_ROWS);
  r.headDim = a.number("head dimension", 2, MAX_HEAD_DIM);
  r.neox = a.number("style", 0, 1) == 1;
  r.n = a.number("rows", 0, INT32_MAX);
  a.want(r.headDim % 2 == 0, "the head dimension is odd");
  r.q = a.at<float>("x", x, static_cast<int64_t>(r.n) * r.nHeads * r.headDim);
  r.angles = a.at<float>("angles", angles, static_cast<int64_t>(r.n) * r.headDim);
  ops.push_back(op);
}

void parseKv(Arguments& a, int opcode, const RowPlace* places, bool far, std::vector<Op>& ops) {
  const KvCommand kv = readKv(a, opcode);
  const int64_t elements = static_cast<int64_t>(kv.count) * kv.cache.headDim * (opcode == BN_ATTENTION ? kv.nHeads : kv.cache.nKvHeads);
  float* const first = a.at<float>(opcode == BN_ATTENTION ? "out" : "k", kv.first, elements);
  float* const second = a.at<float>(opcode == BN_ATTENTION ? "q" : "v", kv.second, elements);
  Op op(opcode == BN_ATTENTION ? Op::Kind::ATTENTION : Op::Kind::ROPE);
  if (opcode == BN_ATTENTION) {
    op.attention = {first, second, kv.nHeads, kv.cache, kv.scale, places, kv.count, kv.count > 1, far, nullptr};
  } else {
    op.rope = {};
    op.rope.storeK = first;
    op.rope.storeV = second;
    op.rope.cache = kv.cache;
    op.rope.places = places;
    op.rope.n = kv.count;
  }
  ops.push_back(op);
}

void parseTopK(Arguments& a, std::vector<Op>& ops) {
  Op op(Op::Kind::TOP_K);
  TopKArgs& t = op.topK;
  const Ref out = a.ref(), x = a.ref();
  t.columns = a.number("columns", 1, MAX_MATRIX_ROWS);
  t.k = a.number("k", 1, t.columns);
  t.room = a.number("room", 1, 1 << 24);
  t.n = a.number("rows", 0, MAX_ROWS);
  t.out = a.at<int32_t>("out", out, t.n * (2 + 2 * static_cast<int64_t>(t.room)));
  t.x = a.at<float>("x", x, static_cast<int64_t>(t.n) * t.columns);
  t.scratch = nullptr;
  ops.push_back(op);
}

/* Dense types whose rows DENSE_TOP_K can estimate. F32 is not among them: nobody keeps a head that large. */
void wantEstimable(Arguments& a, int dtype, int columns) {
  a.want(columns % greatest(32, blockColumns(dtype)) == 0, "columns are no whole blocks of the type, or no multiple of 32");
}

void parseDenseIndex(Arguments& a, std::vector<Op>& ops) {
  Op op(Op::Kind::DENSE_INDEX);
  DenseIndexArgs& d = op.denseIndex;
  const Ref index = {a.word(), 0};
  d.dtype = a.number("type", BN_F16, BN_AFFINE);
  const Ref weight = {a.word(), 0};
  d.rows = a.number("rows of the matrix", 1, MAX_MATRIX_ROWS);
  d.columns = a.number("columns", 1, MAX_ESTIMATED_COLUMNS);
  wantEstimable(a, d.dtype, d.columns);
  d.index = a.at<float>("index", index, 3 * static_cast<int64_t>(d.rows));
  d.weights = a.at<uint8_t>("weight", weight, d.rows * denseRowBytes(d.dtype, d.columns));
  ops.push_back(op);
}

void parseDenseTopK(Arguments& a, std::vector<Op>& ops) {
  Op op(Op::Kind::DENSE_TOP_K);
  DenseTopKArgs& t = op.denseTopK;
  DenseArgs& d = t.dense;
  const Ref out = a.ref(), top = a.ref();
  d.dtype = a.number("type", BN_F16, BN_AFFINE);
  const Ref weight = {a.word(), 0}, index = {a.word(), 0};
  d.rows = a.number("rows of the matrix", 1, MAX_MATRIX_ROWS);
  d.columns = a.number("columns", 1, MAX_ESTIMATED_COLUMNS);
  const Ref x = a.ref();
  t.k = a.number("k", 1, d.rows);
  t.room = a.number("room", 1, 1 << 24);
  d.n = a.number("rows", 0, MAX_ROWS);
  wantEstimable(a, d.dtype, d.columns);
  a.want(x.first % 4 == 0, "x: expected a multiple of 4");
  d.weights = a.at<uint8_t>("weight", weight, d.rows * denseRowBytes(d.dtype, d.columns));
  t.index = a.at<float>("index", index, 3 * static_cast<int64_t>(d.rows));
  d.out = a.at<float>("out", out, static_cast<int64_t>(d.n) * d.rows);
  d.x = a.at<float>("x", x, static_cast<int64_t>(d.n) * d.columns);
  t.top = a.at<int32_t>("top", top, d.n * (2 + 2 * static_cast<int64_t>(t.room)));
  t.scratch = nullptr;
  ops.push_back(op);
}

int rowsOf(const Op& op) {
  switch (op.kind) {
    case Op::Kind::ROWS: return op.rows.n;
    case Op::Kind::ELEMENTS: return op.elements.length > 0;
    case Op::Kind::TERNARY: return op.ternary.n;
    case Op::Kind::DENSE: return op.dense.n;
    case Op::Kind::EMBED: return op.embed.n;
    case Op::Kind::ROPE: return op.rope.n;
    case Op::Kind::ATTENTION: return op.attention.n;
    case Op::Kind::DENSE_INDEX: return op.denseIndex.rows;
    case Op::Kind::DENSE_TOP_K: return op.denseTopK.dense.n;
    default: return op.topK.n;
  }
}

}  // namespace

int32_t parse(Context& c, const int32_t* words, int32_t count, const Walk& walked, std::vector<Op>& ops, std::vector<int32_t>& handles) {
  const RowPlace* const places = reinterpret_cast<const RowPlace*>(c.places.at);
  size_t group = 0;
  const int32_t code = forEach(c, words, count, [&](const Rule& rule, int index, const int32_t* command) -> int32_t {
    Arguments a(c, rule.name, index, command, &handles);
    switch (rule.code) {
      case BN_RMS_NORM:
      case BN_QUANTIZE_ROWS:
      case BN_RMS_NORM_QUANTIZE: parseRows(a, rule.code, ops); break;
      case BN_TERNARY_MATMUL: parseTernary(a, ops); break;
      case BN_DENSE_MATMUL: parseDense(a, ops); break;
      case BN_EMBED: parseEmbed(a, ops); break;
      case BN_ROPE: parseRope(a, ops); break;
      case BN_KV_APPEND:
      case BN_ATTENTION: {
        const bool far = walked.key[static_cast<size_t>(command - words) + rule.words - 1] != 0;
        parseKv(a, rule.code, places + walked.tableOfGroup[group++], far, ops);
        break;
      }
      case BN_TOP_K: parseTopK(a, ops); break;
      case BN_DENSE_INDEX: parseDenseIndex(a, ops); break;
      case BN_DENSE_TOP_K: parseDenseTopK(a, ops); break;
      default: parseElements(a, rule.code, ops);
    }
    if (a.code == BN_OK && rowsOf(ops.back()) == 0) ops.pop_back();
    return a.code;
  });
  if (code != BN_OK) return code;
  std::sort(handles.begin(), handles.end());
  handles.erase(std::unique(handles.begin(), handles.end()), handles.end());
  return BN_OK;
}

}  // namespace bn
