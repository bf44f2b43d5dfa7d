/* The functions of abi.h but bn_run: devices, buffers, copies. */
#include "context.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

#include "dense_layout.h"

namespace bn {
namespace {

constexpr int MAX_DEVICES = 64;
constexpr size_t BOUNCE_BYTES = 1 << 20;
constexpr size_t SEND_BYTES = 4 << 20;
constexpr int LEAST_COMPUTE = 80;

/* How often a device was reset by bn_close after a failure: contexts from before have lost all they had. */
std::atomic<int> resets[MAX_DEVICES];

/* Short enough to be kept without memory. */
constexpr char NO_HOST_MEMORY[] = "no host memory";

/* For failures before there is a context. */
thread_local std::string libraryMessage;

int32_t failLibrary(int32_t code, const std::string& what) {
  libraryMessage = what;
  return code;
}

std::string wordsOf(cudaError_t error) {
  return std::string(cudaGetErrorName(error)) + ": " + cudaGetErrorString(error);
}

std::string version(int v) { return std::to_string(v / 1000) + "." + std::to_string(v % 1000 / 10); }

int32_t failDriver(cudaError_t error) {
  int driver = 0, runtime = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  cudaGetLastError();
  if (driver == 0) return failLibrary(BN_ERR_DRIVER, "no NVIDIA driver on this machine");
  if (error == cudaErrorInsufficientDriver) {
    return failLibrary(BN_ERR_DRIVER, "the driver is for CUDA " + version(driver) + ", expected " + version(runtime / 1000 * 1000) +
                                          " or newer");
  }
  if (error == cudaErrorNoDevice) {
    const char* const visible = std::getenv("CUDA_VISIBLE_DEVICES");
    if (visible == nullptr) return failLibrary(BN_ERR_DEVICE, "no CUDA device on this machine");
    return failLibrary(BN_ERR_DEVICE, std::string("no CUDA device that CUDA_VISIBLE_DEVICES lets through, which is '") + visible + "'");
  }
  return failLibrary(BN_ERR_DRIVER, "the driver does not answer: " + wordsOf(error));
}

/* Whether the failure of a dead context is one that stays. */
bool stillFails(const Context& c) {
  size_t free = 0, total = 0;
  return (c.stream == nullptr ? cudaMemGetInfo(&free, &total) : cudaStreamSynchronize(c.stream)) != cudaSuccess;
}

/* Everything that the context has, whatever state the device is in. */
void release(Context& c) {
  const bool lost = c.generation != resets[c.device];
  if (!lost) {
    cudaSetDevice(c.device);
    if (c.stream != nullptr) cudaStreamSynchronize(c.stream);
    /* A refused launch leaves the device as it was, a kernel that crashed does not: every call fails from then on. */
    const bool broken = c.dead != BN_OK && stillFails(c);
    c.dropPrograms();
    for (const Buffer& buffer : c.buffers) cudaFree(buffer.at);
    for (const Scratch* scratch : {&c.places, &c.scores, &c.counts}) cudaFree(scratch->at);
    cudaFreeHost(c.bounce);
    if (c.stream != nullptr) cudaStreamDestroy(c.stream);
    if (broken) {
      /*
       * Until the primary context is made anew, if then: for some failures the runtime's documentation wants a new process. It takes
       * away what everybody in this process has on the device, all of which has failed as well.
       */
      cudaDeviceReset();
      resets[c.device]++;
    }
    cudaGetLastError();
  }
}

std::string cardOf(const Context& c) {
  return std::string(c.properties.name) + ": compute capability " + std::to_string(c.properties.major) + "." +
         std::to_string(c.properties.minor);
}

/* Why a device that is there cannot be had. */
int32_t failOpening(Context& c, cudaError_t error) {
  const int32_t code = c.failCuda(error, "opening device " + std::to_string(c.device));
  if (error == cudaErrorDevicesUnavailable) return c.fail(BN_ERR_DEVICE, c.message + " (another process may have it for itself)");
  if (code == BN_ERR_CUDA && resets[c.device] > 0) return c.fail(code, c.message + " (it failed before: this takes a new process)");
  return code;
}

int32_t selfTest(Context& c) {
  const int32_t start[2] = {-1, 0x3f800000}; /* the result; 1.0f */
  int32_t result[2] = {-1, 0};
  cudaError_t e = c.send(c.places.at, start, sizeof(start));
  if (e == cudaSuccess) e = runSelfTest(c.on(), reinterpret_cast<int*>(c.places.at));
  if (e == cudaSuccess) e = cudaMemcpyAsync(result, c.places.at, sizeof(result), cudaMemcpyDeviceToHost, c.stream);
  if (e == cudaSuccess) e = c.wait();
  if (e == cudaErrorNoKernelImageForDevice || e == cudaErrorUnsupportedPtxVersion || e == cudaErrorInvalidPtx || e == cudaErrorJitCompilerNotFound) {
    return c.fail(BN_ERR_DEVICE, "the library has no code for " + cardOf(c) + ". Build it with --arch " +
                                     std::to_string(c.properties.major * 10 + c.properties.minor) + " (" + wordsOf(e) + ")");
  }
  if (e != cudaSuccess) return c.failCuda(e, "the first kernel");
  if (result[0] != 0) return c.fail(BN_ERR_SELF_TEST, "the device breaks rule " + std::to_string(result[0]) + " of the self-test");
  c.waits = result[1] == 1;
  return BN_OK;
}

int32_t open(int32_t device, Context& c) {
  c.device = device;
  c.generation = resets[device];
  cudaError_t e = cudaSetDevice(device);
  if (e == cudaSuccess) e = cudaGetDeviceProperties(&c.properties, device);
  if (e != cudaSuccess) return failOpening(c, e);
  const int compute = c.properties.major * 10 + c.properties.minor;
  if (compute < LEAST_COMPUTE) {
    return c.fail(BN_ERR_DEVICE, cardOf(c) + ", expected 8.0 or more");
  }
  e = cudaStreamCreateWithFlags(&c.stream, cudaStreamNonBlocking);
  void* bounce = nullptr;
  if (e == cudaSuccess) e = cudaMallocHost(&bounce, BOUNCE_BYTES + SEND_BYTES);
  c.bounce = static_cast<unsigned char*>(bounce);
  if (e != cudaSuccess) return failOpening(c, e);
  c.buffers.resize(1);
  if (const int32_t code = c.grow(c.places, 64 * sizeof(RowPlace), "the table of rows")) return code;
  return selfTest(c);
}

Context* contextOf(void* context) { return static_cast<Context*>(context); }

/* Nothing thrown gets out of `body`: containers and messages take memory. */
template <typename Body>
int32_t shielded(std::string& message, Body body) {
  try {
    return body();
  } catch (...) {
    message = NO_HOST_MEMORY;
    return BN_ERR_MEMORY;
  }
}

/* Calls `body` unless the context is dead. */
template <typename Body>
int32_t guarded(void* context, Body body) {
  Context* c = contextOf(context);
  return shielded(c == nullptr ? libraryMessage : c->message, [&]() -> int32_t {
    if (c == nullptr) return failLibrary(BN_ERR_ARGUMENT, "no context");
    if (c->dead == BN_OK && c->generation != resets[c->device]) {
      c->dead = BN_ERR_CUDA;
      return c->fail(c->dead, "the device was reset after it had failed in another context");
    }
    if (c->dead != BN_OK) return c->dead;
    const cudaError_t e = cudaSetDevice(c->device);
    if (e != cudaSuccess) return c->failCuda(e, "choosing the device");
    return body(*c);
  });
}

int32_t checkRange(Context& c, const char* who, int32_t handle, uint64_t offset, uint64_t bytes, const Buffer*& buffer) {
  buffer = c.find(handle);
  if (buffer == nullptr) return c.fail(BN_ERR_ARGUMENT, std::string(who) + ": no buffer " + std::to_string(handle));
  if (offset > buffer->bytes || bytes > buffer->bytes - offset) {
    return c.fail(BN_ERR_ARGUMENT, std::string(who) + ": bytes " + std::to_string(offset) + " .. " + std::to_string(offset + bytes) +
                                       " of a buffer of " + std::to_string(buffer->bytes));
  }
  return BN_OK;
}

}  // namespace

int32_t Context::fail(int32_t code, const std::string& what) {
  message = what;
  return code;
}

int32_t Context::failCuda(cudaError_t error, const std::string& doing) {
  const std::string words = doing + ": " + wordsOf(error);
  cudaGetLastError();
  if (error == cudaErrorMemoryAllocation) return fail(BN_ERR_MEMORY, words);
  dead = fail(BN_ERR_CUDA, words);
  return dead;
}

cudaError_t Context::wait() {
  const cudaError_t e = cudaStreamSynchronize(stream);
  sent = 0;
  return e;
}

/*
 * By way of pinned memory, which is the library's own until the stream has been waited for. Handing over the caller's would not do:
 * that the runtime takes pageable memory away before it returns holds where it has to stage it, not where the card reads the host's
 * pages itself (Grace Hopper, Linux with HMM).
 */
cudaError_t Context::send(void* to, const void* from, size_t bytes) {
  cudaError_t e = static_cast<cudaError_t>(cudaSuccess);
  if (bytes > SEND_BYTES) {
    e = cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream);
    return e == cudaSuccess ? wait() : e;
  }
  if (bytes > SEND_BYTES - sent) e = wait();
  if (e != cudaSuccess) return e;
  unsigned char* const via = bounce + BOUNCE_BYTES + sent;
  std::memcpy(via, from, bytes);
  sent += (bytes + 15) / 16 * 16;
  return cudaMemcpyAsync(to, via, bytes, cudaMemcpyHostToDevice, stream);
}

const Buffer* Context::find(int32_t handle) const {
  if (handle <= 0 || static_cast<size_t>(handle) >= buffers.size()) return nullptr;
  return buffers[handle].at == nullptr ? nullptr : &buffers[handle];
}

static int32_t take(Context& c, size_t bytes, const std::string& what, unsigned char*& out) {
  void* at = nullptr;
  const cudaError_t e = cudaMalloc(&at, bytes);
  if (e == cudaErrorMemoryAllocation) {
    size_t free = 0, total = 0;
    cudaGetLastError();
    cudaMemGetInfo(&free, &total);
    return c.fail(BN_ERR_MEMORY, what + ": expected " + std::to_string(bytes) + " bytes, got " + std::to_string(free) + " free of " +
                                     std::to_string(total) + ", of which " + std::to_string(c.usedBytes) + " are in use here");
  }
  if (e != cudaSuccess) return c.failCuda(e, what);
  out = static_cast<unsigned char*>(at);
  c.usedBytes += bytes;
  return BN_OK;
}

int32_t Context::grow(Scratch& scratch, size_t bytes, const char* what) {
  if (bytes <= scratch.bytes) return BN_OK;
  /* The old one goes first, so that both need not fit; graphs know its address. */
  const cudaError_t e = wait();
  if (e != cudaSuccess) return failCuda(e, what);
  dropPrograms();
  cudaFree(scratch.at);
  usedBytes -= scratch.bytes;
  scratch = {};
  const size_t rounded = (bytes + bytes / 4 + 4095) / 4096 * 4096;
  if (const int32_t code = take(*this, rounded, what, scratch.at)) return code;
  scratch.bytes = rounded;
  return BN_OK;
}

void Context::dropPrograms() {
  for (Program& program : programs) {
    if (program.graph != nullptr) cudaGraphExecDestroy(program.graph);
  }
  programs.clear();
}

void Context::dropProgramsOf(int32_t handle) {
  programs.remove_if([handle](Program& program) {
    if (!std::binary_search(program.handles.begin(), program.handles.end(), handle)) return false;
    if (program.graph != nullptr) cudaGraphExecDestroy(program.graph);
    return true;
  });
}

}  // namespace bn

using bn::Context;

BN_API int32_t bn_abi_version(void) { return BN_ABI_VERSION; }

BN_API const char* bn_message(void* context) {
  return context == nullptr ? bn::libraryMessage.c_str() : bn::contextOf(context)->message.c_str();
}

BN_API int32_t bn_devices(int32_t* count) {
  return bn::shielded(bn::libraryMessage, [&]() -> int32_t {
    if (count == nullptr) return bn::failLibrary(BN_ERR_ARGUMENT, "no place for the count");
    int found = 0;
    const cudaError_t e = cudaGetDeviceCount(&found);
    *count = e == cudaSuccess ? found : 0;
    return e == cudaSuccess ? BN_OK : bn::failDriver(e);
  });
}

BN_API int32_t bn_open(int32_t device, void** context) {
  return bn::shielded(bn::libraryMessage, [&]() -> int32_t {
    if (context == nullptr) return bn::failLibrary(BN_ERR_ARGUMENT, "no place for the context");
    *context = nullptr;
    int32_t count = 0;
    if (const int32_t code = bn_devices(&count)) return code;
    count = std::min(count, bn::MAX_DEVICES);
    if (device < 0 || device >= count) {
      return bn::failLibrary(BN_ERR_DEVICE, "no device " + std::to_string(device) + ", expected 0 to " + std::to_string(count - 1));
    }
    Context* c = new Context;
    const int32_t code = bn::shielded(c->message, [&] { return bn::open(device, *c); });
    if (code == BN_OK) {
      *context = c;
      return BN_OK;
    }
    bn::libraryMessage.swap(c->message);
    bn::release(*c);
    delete c;
    return code;
  });
}

BN_API int32_t bn_close(void* context) {
  Context* c = bn::contextOf(context);
  if (c == nullptr) return BN_OK;
  bn::release(*c);
  delete c;
  return BN_OK;
}

BN_API int32_t bn_info(void* context, char* json, int32_t bytes) {
  return bn::guarded(context, [&](Context& c) -> int32_t {
    size_t free = 0, total = 0;
    int driver = 0, runtime = 0;
    cudaMemGetInfo(&free, &total);
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    std::string name;
    for (const char* at = c.properties.name; *at != 0; at++) name += *at < ' ' || *at == '"' || *at == '\\' ? ' ' : *at;
    int graphs = 0;
    for (const bn::Program& program : c.programs) graphs += program.graph != nullptr;
    const std::string text =
        "{\"name\":\"" + name + "\",\"computeCapability\":\"" + std::to_string(c.properties.major) + "." +
        std::to_string(c.properties.minor) + "\",\"driver\":" + std::to_string(driver) + ",\"runtime\":" + std::to_string(runtime) +
        ",\"totalBytes\":" + std::to_string(total) + ",\"freeBytes\":" + std::to_string(free) +
        ",\"usedBytes\":" + std::to_string(c.usedBytes) + ",\"sms\":" + std::to_string(c.properties.multiProcessorCount) +
        ",\"graphs\":" + std::to_string(graphs) + ",\"replays\":" + std::to_string(c.replays) +
        ",\"launches\":" + std::to_string(c.launches) + "}";
    if (json == nullptr || bytes <= static_cast<int32_t>(text.size())) {
      return c.fail(BN_ERR_ARGUMENT, "info: expected room for " + std::to_string(text.size() + 1) + " bytes");
    }
    std::memcpy(json, text.c_str(), text.size() + 1);
    return BN_OK;
  });
}

BN_API int32_t bn_set(void* context, int32_t option, int32_t value) {
  return bn::guarded(context, [&](Context& c) -> int32_t {
    bool* const options[] = {&c.graphs, &c.fuse, &c.overlap, &c.split};
    if (option < 0 || option > 3) return c.fail(BN_ERR_ARGUMENT, "set: no option " + std::to_string(option));
    *options[option] = value != 0;
    c.dropPrograms();
    return BN_OK;
  });
}

BN_API int32_t bn_alloc(void* context, uint64_t bytes, int32_t* handle) {
  return bn::guarded(context, [&](Context& c) -> int32_t {
    if (handle == nullptr || bytes == 0 || c.buffers.size() >= 0x7fffffff) return c.fail(BN_ERR_ARGUMENT, "alloc: nothing to take");
    bn::Buffer buffer;
    buffer.bytes = bytes;
    if (const int32_t code = bn::take(c, bytes, "a buffer", buffer.at)) return code;
    const cudaError_t e = cudaMemsetAsync(buffer.at, 0, bytes, c.stream);
    *handle = static_cast<int32_t>(c.buffers.size());
    c.buffers.push_back(buffer); /* known from here on, so that bn_close frees it in any case */
    return e == cudaSuccess ? BN_OK : c.failCuda(e, "clearing a buffer");
  });
}

BN_API int32_t bn_free(void* context, int32_t handle) {
  return bn::guarded(context, [&](Context& c) -> int32_t {
    if (c.find(handle) == nullptr) return c.fail(BN_ERR_ARGUMENT, "free: no buffer " + std::to_string(handle));
    const cudaError_t e = c.wait();
    if (e != cudaSuccess) return c.failCuda(e, "what ran before a buffer was freed");
    c.dropProgramsOf(handle);
    bn::Buffer& buffer = c.buffers[handle];
    const cudaError_t freed = cudaFree(buffer.at);
    c.usedBytes -= buffer.bytes;
    buffer = {};
    return freed == cudaSuccess ? BN_OK : c.failCuda(freed, "freeing a buffer");
  });
}

BN_API int32_t bn_write(void* context, int32_t handle, uint64_t offset, const void* data, uint64_t bytes) {
  return bn::guarded(context, [&](Context& c) -> int32_t {
    const bn::Buffer* buffer = nullptr;
    if (const int32_t code = bn::checkRange(c, "write", handle, offset, bytes, buffer)) return code;
    if (bytes == 0) return BN_OK;
    if (data == nullptr) return c.fail(BN_ERR_ARGUMENT, "write: no data");
    const cudaError_t e = c.send(buffer->at + offset, data, bytes);
    return e == cudaSuccess ? BN_OK : c.failCuda(e, "writing to a buffer");
  });
}

BN_API int32_t bn_read(void* context, int32_t handle, uint64_t offset, void* data, uint64_t bytes) {
  return bn::guarded(context, [&](Context& c) -> int32_t {
    const bn::Buffer* buffer = nullptr;
    if (const int32_t code = bn::checkRange(c, "read", handle, offset, bytes, buffer)) return code;
    if (bytes > 0 && data == nullptr) return c.fail(BN_ERR_ARGUMENT, "read: no place for the data");
    const bool small = bytes <= bn::BOUNCE_BYTES;
    cudaError_t e = cudaSuccess;
    if (bytes > 0) {
      e = cudaMemcpyAsync(small ? c.bounce : data, buffer->at + offset, bytes, cudaMemcpyDeviceToHost, c.stream);
    }
    if (e == cudaSuccess) e = c.wait();
    if (e != cudaSuccess) return c.failCuda(e, "running what was enqueued");
    if (small && bytes > 0) std::memcpy(data, c.bounce, bytes);
    return BN_OK;
  });
}

static bool isShape(int32_t dtype, int32_t rows, int32_t columns) {
  return dtype >= BN_F32 && dtype <= BN_AFFINE && rows > 0 && columns > 0 && columns <= bn::MAX_COLUMNS &&
         columns % bn::blockColumns(dtype) == 0;
}

BN_API int32_t bn_dense_bytes(int32_t dtype, int32_t rows, int32_t columns, uint64_t* bytes) {
  return bn::shielded(bn::libraryMessage, [&]() -> int32_t {
    if (bytes == nullptr || !isShape(dtype, rows, columns)) return bn::failLibrary(BN_ERR_ARGUMENT, "dense bytes: not a shape of that type");
    *bytes = static_cast<uint64_t>(rows) * static_cast<uint64_t>(bn::denseRowBytes(dtype, columns));
    return BN_OK;
  });
}

BN_API int32_t bn_pack_dense(void* context, int32_t dtype, int32_t from, int32_t to, int32_t rows, int32_t columns, int32_t firstRow,
                             int32_t count) {
  return bn::guarded(context, [&](Context& c) -> int32_t {
    if (!isShape(dtype, rows, columns) || !bn::isPacked(dtype)) return c.fail(BN_ERR_ARGUMENT, "pack: not a shape of a type that is packed");
    if (firstRow < 0 || count < 0 || count > rows - firstRow) return c.fail(BN_ERR_ARGUMENT, "pack: rows beyond the matrix");
    const bn::Buffer *source = nullptr, *target = nullptr;
    const uint64_t needs = static_cast<uint64_t>(rows) * static_cast<uint64_t>(bn::denseRowBytes(dtype, columns));
    const uint64_t has = static_cast<uint64_t>(count) * static_cast<uint64_t>(bn::fileRowBytes(dtype, columns));
    if (const int32_t code = bn::checkRange(c, "pack: from", from, 0, has, source)) return code;
    if (const int32_t code = bn::checkRange(c, "pack: to", to, 0, needs, target)) return code;
    cudaError_t e = bn::runPack(c.on(), {dtype, source->at, target->at, columns, firstRow, count});
    /* Kernels read weights before they wait for other kernels (`gridWait`), so these have to be there. */
    if (e == cudaSuccess) e = c.wait();
    return e == cudaSuccess ? BN_OK : c.failCuda(e, "packing a matrix");
  });
}

BN_API int32_t bn_run(void* context, const int32_t* words, int32_t count) {
  return bn::guarded(context, [&](Context& c) -> int32_t {
    if (count < 0 || (count > 0 && words == nullptr)) return c.fail(BN_ERR_ARGUMENT, "run: no commands");
    return bn::run(c, words, count);
  });
}
