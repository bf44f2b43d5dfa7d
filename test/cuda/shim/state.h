/* What the two halves of the shim share. */
#ifndef BITNET_CUDA_SHIM_STATE_H
#define BITNET_CUDA_SHIM_STATE_H

#include "shim.h"

namespace shim {

struct State {
  int64_t seed = 0;
  int64_t devices = 1;
  int64_t compute = 90;
  int64_t driver = 13000;
  int64_t memory = int64_t(16) << 30;
  int64_t failAfter = -1;
  int64_t failWith = 0;
  int64_t barriers = 1;
  int64_t sms = 132;
  int64_t shared = 232448;
  int64_t late = 0;
  int64_t tensor = 0;
  int64_t tensorBits = 24;
  int64_t waits = 0;
  int64_t odd = 0;
};

State& state();

/* Begins the random numbers of tensorSum again. */
void seedTensor();

/* Runs every block of a grid; what went wrong, or null. */
const char* runGrid(dim3 grid, dim3 block, size_t sharedBytes, const std::function<void()>& body);

}  // namespace shim

#endif
