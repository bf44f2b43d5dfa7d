/* The part of the CUDA runtime that the library calls; see shim.h. Streams run at once, what is enqueued is done, or late: see "late". */
#include "shim.h"

#include <cstdio>
#include <cstdlib>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "state.h"

struct shimStream {
  int device = 0;
  bool capturing = false;
  std::vector<std::function<cudaError_t()>> pending;
  std::vector<std::function<cudaError_t()>> captured;
};
struct shimGraph {
  std::vector<std::function<cudaError_t()>> work;
};

/* Drivers from this one on know the edges between kernels that overlap. */
constexpr int64_t KNOWS_EDGES = 12030;

namespace shim {

State& state() {
  static State one;
  return one;
}

namespace {

constexpr size_t GUARD_BYTES = 256;
constexpr unsigned char GUARD = 0xAB;
const std::string GUARDS(GUARD_BYTES, static_cast<char>(GUARD));

struct Memory {
  std::map<char*, size_t> pieces; /* by the address that the caller has */
  std::map<char*, size_t> pinned; /* of the host's memory */
  size_t used = 0;
  bool written = false; /* since the guards of all pieces were looked at */
  int64_t overlaps = 0; /* launches that may begin early */
  cudaError_t sticky = cudaSuccess;
  int broken = 0; /* the device that failed so */
  cudaError_t last = cudaSuccess;
  std::string complaint;
};

Memory& memory() {
  static Memory one;
  return one;
}

int& currentDevice() {
  static int one = 0;
  return one;
}

bool guardsStand(const char* at, size_t bytes) {
  return std::memcmp(at - GUARD_BYTES, GUARDS.data(), GUARD_BYTES) == 0 && std::memcmp(at + bytes, GUARDS.data(), GUARD_BYTES) == 0;
}

cudaError_t fail(cudaError_t code) {
  if (code >= cudaErrorIllegalAddress) memory().sticky = code, memory().broken = currentDevice();
  if (code != cudaSuccess) memory().last = code;
  return code;
}

/* Every call begins here: counts down to the failure that a test ordered. */
cudaError_t enter() {
  State& s = state();
  if (memory().sticky != cudaSuccess) return memory().sticky;
  if (s.failAfter >= 0 && s.failAfter-- == 0) return fail(static_cast<cudaError_t>(s.failWith));
  return cudaSuccess;
}

char* guarded(char* base, size_t bytes) {
  std::memset(base, 0xCD, bytes + GUARD_BYTES);
  std::memset(base, GUARD, GUARD_BYTES);
  std::memset(base + GUARD_BYTES + bytes, GUARD, GUARD_BYTES);
  return base + GUARD_BYTES;
}

cudaError_t lookAtGuards(const char* at, size_t bytes) {
  if (guardsStand(at, bytes)) return cudaSuccess;
  memory().complaint = "written beside " + std::to_string(bytes) + " bytes of memory";
  return fail(cudaErrorIllegalAddress);
}

/* Of all pieces, where anything was written since the last time: a backend waits often, and has thousands. */
cudaError_t lookAtGuards() {
  for (const auto& [at, bytes] : memory().pinned) {
    if (const cudaError_t e = lookAtGuards(at, bytes)) return e;
  }
  if (!memory().written) return cudaSuccess;
  for (const auto& [at, bytes] : memory().pieces) {
    if (const cudaError_t e = lookAtGuards(at, bytes)) return e;
  }
  memory().written = false;
  return cudaSuccess;
}

/* What was made and not yet given back, besides memory. */
struct Living {
  std::set<shimStream*> streams;
  std::set<shimGraph*> graphs; /* those that can be launched as well */
};

Living& living() {
  static Living one;
  return one;
}

cudaError_t destroy(shimGraph* graph) {
  if (living().graphs.erase(graph) == 0) return fail(cudaErrorInvalidValue);
  delete graph;
  return cudaSuccess;
}

/* Now, or when somebody waits, or, while the stream is captured, when the graph is launched. */
cudaError_t enqueue(cudaStream_t stream, std::function<cudaError_t()> work) {
  if (!stream->capturing && state().late == 0) return work();
  (stream->capturing ? stream->captured : stream->pending).push_back(std::move(work));
  return cudaSuccess;
}

/* Does what is pending, up to the first failure. */
cudaError_t drain(cudaStream_t stream) {
  std::vector<std::function<cudaError_t()>> work;
  work.swap(stream->pending);
  for (const auto& one : work) {
    if (const cudaError_t e = one()) return e;
  }
  return cudaSuccess;
}

void freeAll() {
  for (shimStream* stream : living().streams) delete stream;
  for (shimGraph* graph : living().graphs) delete graph;
  living() = Living();
  for (const auto* pieces : {&memory().pieces, &memory().pinned}) {
    for (const auto& [at, bytes] : *pieces) std::free(at - GUARD_BYTES);
  }
  memory() = Memory();
}

}  // namespace

bool waits() { return state().waits != 0; }

cudaError_t launch(cudaStream_t stream, bool overlap, dim3 grid, dim3 block, size_t sharedBytes, std::function<void()> body) {
  if (const cudaError_t e = enter()) return e;
  if (stream->device != currentDevice()) return fail(cudaErrorInvalidDevice);
  if (overlap && (!waits() || (stream->capturing && state().driver < KNOWS_EDGES))) return fail(cudaErrorInvalidValue);
  if (overlap) memory().overlaps++;
  const bool legal = grid.x > 0 && grid.y > 0 && grid.y < 65536 && grid.z > 0 && grid.z < 65536 && block.x > 0 && block.x <= 1024 &&
                     block.y == 1 && block.z == 1 && sharedBytes <= static_cast<size_t>(state().shared);
  if (!legal) return fail(cudaErrorInvalidValue);
  return enqueue(stream, [=]() -> cudaError_t {
    memory().written = true;
    const char* complaint = runGrid(grid, block, sharedBytes, body);
    if (complaint == nullptr) return cudaSuccess;
    memory().complaint = complaint;
    return fail(cudaErrorLaunchFailure);
  });
}

}  // namespace shim

using shim::enter;
using shim::fail;
using shim::memory;
using shim::state;

extern "C" int32_t bn_shim_set(const char* name, int64_t value) {
  shim::State& s = state();
  const std::map<std::string, int64_t*> knobs = {
      {"seed", &s.seed},     {"devices", &s.devices},     {"compute", &s.compute},   {"driver", &s.driver},
      {"memory", &s.memory}, {"failAfter", &s.failAfter}, {"failWith", &s.failWith},
      {"barriers", &s.barriers},
      {"sms", &s.sms},
      {"shared", &s.shared},
      {"late", &s.late},
      {"tensor", &s.tensor},
      {"tensorBits", &s.tensorBits},
      {"waits", &s.waits},
      {"odd", &s.odd},
  };
  const auto found = knobs.find(name);
  if (found == knobs.end()) return 0;
  *found->second = value;
  shim::seedTensor();
  return 1;
}

/* What the library has of the runtime's, and the failure that nobody has looked at. */
extern "C" int64_t bn_shim_get(const char* name) {
  const shim::Living& living = shim::living();
  const std::map<std::string, size_t> counts = {
      {"streams", living.streams.size()}, {"graphs", living.graphs.size()},  {"pinned", memory().pinned.size()},
      {"pieces", memory().pieces.size()}, {"error", static_cast<size_t>(memory().last)},
      {"overlaps", static_cast<size_t>(memory().overlaps)},
  };
  const auto found = counts.find(name);
  return found == counts.end() ? -1 : static_cast<int64_t>(found->second);
}

const char* cudaGetErrorName(cudaError_t code) {
  switch (code) {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorInvalidValue: return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorInsufficientDriver: return "cudaErrorInsufficientDriver";
    case cudaErrorNoDevice: return "cudaErrorNoDevice";
    case cudaErrorInvalidDevice: return "cudaErrorInvalidDevice";
    case cudaErrorIllegalAddress: return "cudaErrorIllegalAddress";
    case cudaErrorLaunchFailure: return "cudaErrorLaunchFailure";
    default: return "cudaErrorUnknown";
  }
}
const char* cudaGetErrorString(cudaError_t code) {
  return memory().complaint.empty() ? cudaGetErrorName(code) : memory().complaint.c_str();
}
cudaError_t cudaGetLastError() {
  const cudaError_t last = memory().sticky != cudaSuccess ? memory().sticky : memory().last;
  memory().last = cudaSuccess;
  return last;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = static_cast<int>(state().driver);
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int* count) {
  *count = static_cast<int>(state().devices);
  if (state().driver < 0) return fail(cudaErrorInitializationError);
  if (state().driver < 12000) return fail(cudaErrorInsufficientDriver);
  return *count > 0 ? cudaSuccess : fail(cudaErrorNoDevice);
}
cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= state().devices) return fail(cudaErrorInvalidDevice);
  shim::currentDevice() = device;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* out, int) {
  std::snprintf(out->name, sizeof(out->name), "%s", state().odd == 0 ? "CPU shim" : "CPU \"shim\"\t\\ ");
  out->totalGlobalMem = static_cast<size_t>(state().memory);
  out->major = static_cast<int>(state().compute / 10);
  out->minor = static_cast<int>(state().compute % 10);
  out->multiProcessorCount = static_cast<int>(state().sms);
  out->sharedMemPerBlockOptin = static_cast<size_t>(state().shared);
  return cudaSuccess;
}
cudaError_t cudaDeviceReset() {
  if (memory().broken == shim::currentDevice()) shim::freeAll(); /* of the others there is no more than the failure */
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *total = static_cast<size_t>(state().memory);
  *free = *total - memory().used;
  return memory().sticky;
}
cudaError_t cudaMalloc(void** out, size_t bytes) {
  if (const cudaError_t e = enter()) return e;
  if (memory().used + bytes > static_cast<size_t>(state().memory)) return fail(cudaErrorMemoryAllocation);
  char* base = static_cast<char*>(std::aligned_alloc(256, (bytes + 2 * shim::GUARD_BYTES + 255) & ~size_t(255)));
  if (base == nullptr) return fail(cudaErrorMemoryAllocation);
  char* const at = shim::guarded(base, bytes);
  memory().pieces[at] = bytes;
  memory().used += bytes;
  *out = at;
  return cudaSuccess;
}
cudaError_t cudaFree(void* at) {
  if (at == nullptr) return cudaSuccess;
  for (shimStream* stream : shim::living().streams) shim::drain(stream); /* waits for the whole device */
  const auto found = memory().pieces.find(static_cast<char*>(at));
  if (found == memory().pieces.end()) return fail(cudaErrorInvalidValue);
  cudaError_t e = memory().sticky;
  if (e == cudaSuccess) e = shim::lookAtGuards();
  if (e == cudaSuccess) e = shim::lookAtGuards(found->first, found->second);
  memory().used -= found->second;
  memory().pieces.erase(found);
  std::free(static_cast<char*>(at) - shim::GUARD_BYTES);
  return e;
}
cudaError_t cudaMallocHost(void** out, size_t bytes) {
  if (const cudaError_t e = enter()) return e;
  char* base = static_cast<char*>(std::malloc(bytes + 2 * shim::GUARD_BYTES));
  if (base == nullptr) return fail(cudaErrorMemoryAllocation);
  char* const at = shim::guarded(base, bytes);
  memory().pinned[at] = bytes;
  *out = at;
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* at) {
  if (at == nullptr) return memory().sticky;
  const auto found = memory().pinned.find(static_cast<char*>(at));
  if (found == memory().pinned.end()) return fail(cudaErrorInvalidValue);
  const cudaError_t e = memory().sticky != cudaSuccess ? memory().sticky : shim::lookAtGuards(found->first, found->second);
  memory().pinned.erase(found);
  std::free(static_cast<char*>(at) - shim::GUARD_BYTES);
  return e;
}
cudaError_t cudaMemsetAsync(void* at, int value, size_t bytes, cudaStream_t stream) {
  if (const cudaError_t e = enter()) return e;
  return shim::enqueue(stream, [=] {
    memory().written = true;
    std::memset(at, value, bytes);
    return static_cast<cudaError_t>(cudaSuccess);
  });
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  if (const cudaError_t e = enter()) return e;
  return shim::enqueue(stream, [=] {
    if (kind != cudaMemcpyDeviceToHost) memory().written = true;
    std::memcpy(to, from, bytes);
    return static_cast<cudaError_t>(cudaSuccess);
  });
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* out, unsigned) {
  if (const cudaError_t e = enter()) return e;
  *out = new shimStream;
  (*out)->device = shim::currentDevice();
  shim::living().streams.insert(*out);
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  shim::drain(stream);
  shim::living().streams.erase(stream);
  delete stream;
  return memory().sticky;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (const cudaError_t e = enter()) return e;
  if (const cudaError_t e = shim::drain(stream)) return e;
  return shim::lookAtGuards();
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (const cudaError_t e = enter()) return e;
  stream->capturing = true;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* out) {
  stream->capturing = false;
  *out = new shimGraph{std::move(stream->captured)};
  shim::living().graphs.insert(*out);
  stream->captured.clear();
  return enter();
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* out, cudaGraph_t graph, unsigned long long flags) {
  if (const cudaError_t e = enter()) return e;
  if (flags != 0) return fail(cudaErrorInvalidValue);
  *out = new shimGraph(*graph);
  shim::living().graphs.insert(*out);
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
  if (const cudaError_t e = enter()) return e;
  for (const auto& work : graph->work) {
    if (const cudaError_t e = shim::enqueue(stream, work)) return e;
  }
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return shim::destroy(graph); }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) { return shim::destroy(graph); }
