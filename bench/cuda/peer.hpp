// bitnet.cpp's own kernel for one row of activations beside ours, in the same run: PEER=/path/libbitnet.so of its gpu/bitnet_kernels,
// built by whoever measures. Its weights are bytes in another order, which takes no other time, so random ones will do.
#ifndef BITNET_BENCH_PEER_HPP
#define BITNET_BENCH_PEER_HPP

#include <dlfcn.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include <cuda_runtime.h>

class Peer {
 public:
  Peer() {
    const char* path = std::getenv("PEER");
    if (path == nullptr || *path == 0) return;
    void* const library = dlopen(path, RTLD_NOW);
    if (library != nullptr) kernel_ = reinterpret_cast<Kernel>(dlsym(library, "bitlinear_int8xint2"));
    if (kernel_ == nullptr) std::printf("PEER=%s: %s\n", path, library == nullptr ? dlerror() : "no bitlinear_int8xint2 in it");
  }

  // It has these shapes and no others, and writes to stdout what it lacks.
  bool has(int m, int k) const {
    static const int shapes[][2] = {{3840, 2560}, {2560, 2560}, {13824, 2560}, {2560, 6912}, {4800, 3200}, {3200, 3200}, {20480, 3200}, {3200, 10240}};
    return kernel_ != nullptr && std::any_of(std::begin(shapes), std::end(shapes), [&](const int (&one)[2]) { return one[0] == m && one[1] == k; });
  }

  // Seconds of a launch: many of them in a graph, each with weights that are in no cache, as ours are timed. 0 where that fails.
  double seconds(int m, int k, size_t rotate, int runs) const {
    const size_t bytes = static_cast<size_t>(m) * k / 4;
    const int count = static_cast<int>(rotate / bytes + 2);
    const size_t small = 1 << 16;  // codes, result and scales: at most 20480 bf16
    int8_t *weights = nullptr, *rest = nullptr;
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t all;
    if (cudaMalloc(&weights, bytes * count) != cudaSuccess || cudaMalloc(&rest, 4 * small) != cudaSuccess) return 0;
    cudaMemset(weights, 0x5a, bytes * count);
    cudaMemset(rest, 1, 4 * small);
    cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    cudaDeviceSynchronize();
    cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
    for (int i = 0; i < count; i++) {
      kernel_(rest, weights + bytes * i, rest + small, rest + 2 * small, rest + 3 * small, 1, m, k, stream);
    }
    if (cudaStreamEndCapture(stream, &graph) != cudaSuccess || cudaGraphInstantiate(&all, graph, 0) != cudaSuccess) return 0;
    cudaEvent_t start, stop;
    cudaEventCreate(&start);
    cudaEventCreate(&stop);
    std::vector<float> times;
    for (int i = 0; i < runs + 3; i++) {
      float ms = 0;
      cudaEventRecord(start, stream);
      cudaGraphLaunch(all, stream);
      cudaEventRecord(stop, stream);
      if (cudaEventSynchronize(stop) != cudaSuccess) return 0;
      cudaEventElapsedTime(&ms, start, stop);
      if (i >= 3) times.push_back(ms);
    }
    std::sort(times.begin(), times.end());
    cudaGraphExecDestroy(all);
    cudaGraphDestroy(graph);
    cudaStreamDestroy(stream);
    cudaFree(weights);
    cudaFree(rest);
    return times[times.size() / 2] / 1e3 / count;
  }

 private:
  using Kernel = void (*)(int8_t* codes, int8_t* weights, void* out, void* scale, void* weightScales, int n, int m, int k, cudaStream_t);
  Kernel kernel_ = nullptr;
};

#endif
