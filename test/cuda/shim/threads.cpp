/* Blocks of coroutines; see shim.h. */
#include "shim.h"

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include <sys/mman.h>
#include <ucontext.h>

#include "state.h"

#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim

namespace shim {

Place* here = nullptr;

namespace {

constexpr size_t STACK_BYTES = 128 * 1024;
constexpr int MAX_THREADS = 1024;

struct Warp {
  Slots slots[2];
  unsigned arrived = 0;
  unsigned generation = 0;
  unsigned alive = 0;
};

struct Copy {
  void* to;
  const void* from;
  bool valid;
  unsigned group;
};

/* Of __builtin_setjmp: it keeps no more than where the stack and the code are, and longjmp of libc takes a fifth of all time. */
using Jump = void* [5];

struct Thread {
  Place place;
  Jump resume;
  ucontext_t context;
  bool started = false;
  bool done = true;
  /* Waits while *waitsFor == waitsAt. */
  const unsigned* waitsFor = nullptr;
  unsigned waitsAt = 0;
  std::vector<Copy> copies;
  unsigned groups = 0; /* committed so far */
};

/* One block at a time: kernels run one after the other, in the thread that launched them. */
struct Block {
  std::vector<std::unique_ptr<Thread>> threads;
  Warp warps[MAX_THREADS / 32];
  int count = 0;
  int alive = 0;
  int arrived = 0;
  unsigned generation = 0;
  const std::function<void()>* body = nullptr;
  const char* complaint = nullptr;
  Jump scheduler;
  Thread* current = nullptr;
  /* The order of this round, and who is next in it. */
  std::vector<Thread*> order;
  int cursor = 0;
  bool progress = false;
  uint64_t random = 1;
  std::vector<unsigned char> shared;
};

Block block;

unsigned nextRandom(unsigned below) {
  block.random ^= block.random << 13;
  block.random ^= block.random >> 7;
  block.random ^= block.random << 17;
  return static_cast<unsigned>((block.random >> 32) * below >> 32);
}

void passBarrierIfComplete() {
  if (block.arrived == 0 || block.arrived < block.alive) return;
  block.arrived = 0;
  block.generation++;
}

/* A jump must not be in the function that the jump leads to. */
[[noreturn]] __attribute__((noinline)) void toScheduler() { __builtin_longjmp(block.scheduler, 1); }

[[noreturn]] __attribute__((noinline)) void enter(Thread* thread) {
  thread->waitsFor = nullptr;
  block.progress = true;
  block.current = thread;
  here = &thread->place;
  if (thread->started) __builtin_longjmp(thread->resume, 1);
  thread->started = true;
  setcontext(&thread->context);
  std::abort(); /* cannot come back */
}

/* The next of this round that waits for nothing; the scheduler when there is none. */
[[noreturn]] void toNext() {
  while (block.cursor < block.count) {
    Thread* thread = block.order[block.cursor++];
    if (thread->done || (thread->waitsFor != nullptr && *thread->waitsFor == thread->waitsAt)) continue;
    enter(thread);
  }
  toScheduler();
}

void waitOn(const unsigned* generation, unsigned at) {
  Thread* me = block.current;
  me->waitsFor = generation;
  me->waitsAt = at;
  if (__builtin_setjmp(me->resume) == 0) toNext();
}

int indexOf(const Thread* thread) {
  return static_cast<int>(thread->place.threadIdx.x);
}

void arrive(const Copy& copy) {
  if (copy.valid) std::memcpy(copy.to, copy.from, 16);
  else std::memset(copy.to, 0, 16);
}

/* A coroutine lives as long as the process: it runs one thread of a block after the other. */
void coroutine() {
  for (;;) {
    (*block.body)();
    Thread* me = block.current;
    me->done = true;
    block.alive--;
    block.warps[indexOf(me) / 32].alive &= ~(1u << (indexOf(me) & 31));
    passBarrierIfComplete();
    if (__builtin_setjmp(me->resume) == 0) toNext();
  }
}

/* Comes back when no thread of the round is left, or one complained. */
__attribute__((noinline)) void runRound() {
  block.cursor = 0;
  block.progress = false;
  if (__builtin_setjmp(block.scheduler) == 0) toNext();
}

Thread* makeThread() {
  Thread* thread = new Thread;
  getcontext(&thread->context);
  thread->context.uc_stack.ss_sp =
      mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  /* Stacks of equal alignment would all meet in the same few lines of the cache. */
  thread->context.uc_stack.ss_size = STACK_BYTES - block.threads.size() % 64 * 320;
  thread->context.uc_link = nullptr;
  makecontext(&thread->context, coroutine, 0);
  return thread;
}

/* Runs all threads of the block to their end; false when they wait for one another for ever. */
bool runThreads() {
  while (block.alive > 0) {
    if (state().seed != 0) {
      for (int i = block.count - 1; i > 0; i--) std::swap(block.order[i], block.order[nextRandom(i + 1)]);
    }
    runRound();
    if (block.complaint != nullptr) return false;
    if (!block.progress) {
      block.complaint = "threads of a block wait at different barriers";
      return false;
    }
  }
  return true;
}

}  // namespace

void meetBlock() {
  if (state().barriers == 0) return; /* as if they had been forgotten */
  const unsigned at = block.generation;
  block.arrived++;
  passBarrierIfComplete();
  if (block.generation == at) waitOn(&block.generation, at);
}

const Slots& meetWarp(unsigned mask, const void* data, int bytes) {
  const int index = indexOf(block.current);
  Warp& warp = block.warps[index / 32];
  const unsigned at = warp.generation;
  Slots& slots = warp.slots[at & 1];
  if (bytes > 0) std::memcpy(slots.words[index & 31], data, bytes);
  if (mask != 0xffffffffu || warp.alive != 0xffffffffu) {
    block.complaint = "a warp operation without all 32 lanes";
    toScheduler();
  }
  warp.arrived |= 1u << (index & 31);
  if (warp.arrived == mask) {
    warp.arrived = 0;
    warp.generation++;
  } else {
    waitOn(&warp.generation, at);
  }
  return slots;
}

void sendCopy(void* to, const void* from, bool valid) {
  if (((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) & 15) != 0) {
    block.complaint = "an asynchronous copy of 16 bytes that are not at a multiple of 16";
    toScheduler();
  }
  const Copy copy = {to, from, valid, block.current->groups};
  if (state().seed != 0 && nextRandom(2) == 0) arrive(copy);
  else block.current->copies.push_back(copy);
}

void commitCopies() { block.current->groups++; }

void awaitCopies(unsigned pending) {
  Thread* me = block.current;
  std::vector<Copy> later;
  for (const Copy& copy : me->copies) {
    if (copy.group + pending >= me->groups) later.push_back(copy);
    else arrive(copy);
  }
  me->copies.swap(later);
}

void* sharedMemory() { return block.shared.data(); }

const char* runGrid(dim3 grid, dim3 size, size_t sharedBytes, const std::function<void()>& body) {
  block.count = static_cast<int>(size.x);
  while (static_cast<int>(block.threads.size()) < block.count) block.threads.emplace_back(makeThread());
  block.order.clear();
  for (int i = 0; i < block.count; i++) block.order.push_back(block.threads[i].get());
  block.random = static_cast<uint64_t>(state().seed) * 0x9e3779b97f4a7c15u + 1;
  block.body = &body;
  /* Blocks in any order as well: backwards when the seed is odd. */
  const unsigned total = grid.x * grid.y * grid.z;
  for (unsigned i = 0; i < total; i++) {
    const unsigned at = state().seed & 1 ? total - 1 - i : i;
    const dim3 place(at % grid.x, at / grid.x % grid.y, at / grid.x / grid.y);
    block.alive = block.count;
    block.arrived = 0;
    block.complaint = nullptr;
    /* To the byte, so that a tool that watches memory sees one too many. */
    block.shared.assign(sharedBytes, 0xCD);
    for (int i = 0; i < block.count; i++) {
      Thread* thread = block.threads[i].get();
      thread->place = {dim3(i), place, size, grid};
      thread->done = false;
      thread->waitsFor = nullptr;
      thread->copies.clear();
      thread->groups = 0;
    }
    for (int w = 0; w * 32 < block.count; w++) {
      const int lanes = block.count - w * 32;
      block.warps[w].arrived = 0;
      block.warps[w].alive = lanes >= 32 ? 0xffffffffu : (1u << lanes) - 1;
    }
    if (!runThreads()) {
      block.threads.clear(); /* their stacks hold half-run kernels: leaked, on a path that only a bug takes */
      return block.complaint;
    }
  }
  return nullptr;
}

}  // namespace shim
