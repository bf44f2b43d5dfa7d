/*
 * The host's memory ends at each allocation in turn, in the calls that answer before a device is asked: what they throw must not get
 * out of the library (`abi.h`). Prints how many allocations were refused. Its operator new is everybody's in this process.
 */
#include <cstdio>
#include <cstdlib>
#include <new>

#include "abi.h"

static long left = -1; /* allocations until one is refused; below 0 none is */

void* operator new(size_t bytes) {
  if (left >= 0 && left-- == 0) throw std::bad_alloc();
  void* const at = std::malloc(bytes);
  if (at == nullptr) throw std::bad_alloc();
  return at;
}
void operator delete(void* at) noexcept { std::free(at); }
void operator delete(void* at, size_t) noexcept { std::free(at); }

template <typename Call>
static int refused(int32_t expected, Call call) {
  for (int count = 0;; count++) {
    left = count;
    const int32_t code = call();
    const bool wasRefused = left < 0;
    left = -1;
    if (code != (wasRefused ? BN_ERR_MEMORY : expected)) {
      std::printf("allocation %d: expected %d, got %d: %s\n", count, wasRefused ? BN_ERR_MEMORY : expected, code, bn_message(nullptr));
      std::exit(1);
    }
    if (!wasRefused) return count;
  }
}

int main() {
  uint64_t bytes = 0;
  int32_t count = 0;
  void* context = nullptr;
  if (bn_devices(&count) != BN_OK) return 1; /* what the runtime needs itself */
  const int devices = refused(BN_ERR_ARGUMENT, [] { return bn_devices(nullptr); });
  const int place = refused(BN_ERR_ARGUMENT, [] { return bn_open(0, nullptr); });
  const int device = refused(BN_ERR_DEVICE, [&] { return bn_open(1000, &context); });
  const int shape = refused(BN_ERR_ARGUMENT, [&] { return bn_dense_bytes(BN_Q8_0, 1, 33, &bytes); });
  const int nobody = refused(BN_ERR_ARGUMENT, [] { return bn_free(nullptr, 1); });
  std::printf("%d %d %d %d %d\n", devices, place, device, shape, nobody);
}
