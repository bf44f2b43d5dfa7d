// The CUDA library (or its CPU shim) opened by path, and lists of its commands: what the programs of this folder share.
#ifndef BITNET_BENCH_CUDA_LIBRARY_H
#define BITNET_BENCH_CUDA_LIBRARY_H

#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "../../src/kernels/cuda/native/abi.h"

inline int32_t bits(float x) {
  int32_t out;
  std::memcpy(&out, &x, 4);
  return out;
}

// splitmix64: the same numbers everywhere.
struct Random {
  uint64_t state;
  uint64_t next() {
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
  }
  float unit() { return static_cast<float>(static_cast<int32_t>(next() >> 40) - (1 << 23)) / (1 << 23); }
};

// One opened library. Ends the program with the library's message where something fails: these are tools.
class Library {
 public:
  explicit Library(const std::string& path, int device = 0) : path_(path) {
    handle_ = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle_ == nullptr) end(dlerror());
    take(message_, "bn_message");
    take(open_, "bn_open");
    take(close_, "bn_close");
    take(info_, "bn_info");
    take(set_, "bn_set");
    take(alloc_, "bn_alloc");
    take(free_, "bn_free");
    take(write_, "bn_write");
    take(read_, "bn_read");
    take(run_, "bn_run");
    take(denseBytes_, "bn_dense_bytes");
    take(packDense_, "bn_pack_dense");
    int32_t (*version)(void) = nullptr;
    take(version, "bn_abi_version");
    if (version() != BN_ABI_VERSION) end("another version of the ABI");
    if (open_(device, &context_) != BN_OK) end(message_(nullptr));
  }
  ~Library() { close_(context_); }

  int32_t alloc(uint64_t bytes) {
    int32_t handle = 0;
    check(alloc_(context_, bytes, &handle));
    return handle;
  }
  void free(int32_t handle) { check(free_(context_, handle)); }
  void write(int32_t handle, const void* data, uint64_t bytes, uint64_t offset = 0) {
    check(write_(context_, handle, offset, data, bytes));
  }
  template <typename T>
  int32_t put(const std::vector<T>& data) {
    const int32_t handle = alloc(data.size() * sizeof(T));
    write(handle, data.data(), data.size() * sizeof(T));
    return handle;
  }
  std::vector<uint8_t> read(int32_t handle, uint64_t bytes) {
    std::vector<uint8_t> out(bytes);
    check(read_(context_, handle, 0, out.data(), bytes));
    return out;
  }
  void wait() { check(read_(context_, 1, 0, &state_, 1)); }  // buffer 1: any
  void set(int32_t option, int32_t value) { check(set_(context_, option, value)); }
  void run(const std::vector<int32_t>& words) { check(run_(context_, words.data(), static_cast<int32_t>(words.size()))); }
  uint64_t denseBytes(int32_t dtype, int32_t rows, int32_t columns) {
    uint64_t out = 0;
    if (denseBytes_(dtype, rows, columns, &out) != BN_OK) end(message_(nullptr));
    return out;
  }
  void packDense(int32_t dtype, int32_t from, int32_t to, int32_t rows, int32_t columns) {
    check(packDense_(context_, dtype, from, to, rows, columns, 0, rows));
  }
  std::string info() {
    char text[1024];
    check(info_(context_, text, sizeof(text)));
    return text;
  }

 private:
  template <typename F>
  void take(F& function, const char* name) {
    function = reinterpret_cast<F>(dlsym(handle_, name));
    if (function == nullptr) end(name);
  }
  void check(int32_t code) {
    if (code != BN_OK) end(message_(context_));
  }
  [[noreturn]] void end(const char* why) {
    std::fprintf(stderr, "%s: %s\n", path_.c_str(), why);
    std::exit(1);
  }

  std::string path_;
  void* handle_ = nullptr;
  void* context_ = nullptr;
  char state_ = 0;
  decltype(&bn_message) message_ = nullptr;
  decltype(&bn_open) open_ = nullptr;
  decltype(&bn_close) close_ = nullptr;
  decltype(&bn_info) info_ = nullptr;
  decltype(&bn_set) set_ = nullptr;
  decltype(&bn_alloc) alloc_ = nullptr;
  decltype(&bn_free) free_ = nullptr;
  decltype(&bn_write) write_ = nullptr;
  decltype(&bn_read) read_ = nullptr;
  decltype(&bn_run) run_ = nullptr;
  decltype(&bn_dense_bytes) denseBytes_ = nullptr;
  decltype(&bn_pack_dense) packDense_ = nullptr;
};

// A list of commands; src/kernels/cuda/commands.md tells their words.
struct Commands {
  std::vector<int32_t> words;

  void add(int32_t op, std::initializer_list<int32_t> args) {
    words.push_back(op);
    words.push_back(static_cast<int32_t>(args.size()) + 2);
    words.insert(words.end(), args);
  }
};

inline int32_t strideOf(int32_t columns) { return (columns + 127) / 128 * 128; }

// Rows of packed trits; no code 3.
inline std::vector<uint8_t> packedTrits(int32_t rows, int32_t columns, uint64_t seed) {
  Random random{seed};
  std::vector<uint8_t> out(static_cast<size_t>(rows) * static_cast<size_t>(strideOf(columns) / 4));
  for (size_t i = 0; i < out.size(); i += 8) {
    uint64_t word = random.next();
    word &= ~((word & word >> 1 & 0x5555555555555555u) << 1);  // 11 becomes 01
    std::memcpy(&out[i], &word, 8);
  }
  return out;
}

#endif
