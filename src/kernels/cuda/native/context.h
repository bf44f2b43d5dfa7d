/* A context: one stream of one device, its buffers, its graphs, and what went wrong last. */
#ifndef BITNET_CUDA_CONTEXT_H
#define BITNET_CUDA_CONTEXT_H

#include <list>
#include <string>
#include <vector>

#include "abi.h"
#include "kernels.h"

namespace bn {

struct Buffer {
  unsigned char* at = nullptr; /* null: no such buffer any more */
  uint64_t bytes = 0;
};

/* A list of commands that was run before; with a graph from the second time on. */
struct Program {
  std::vector<int32_t> key;     /* the words, dynamic ones replaced by what of them is structure */
  std::vector<int32_t> handles; /* buffers that the list names outside its dynamic words */
  cudaGraphExec_t graph = nullptr;
  bool refused = false; /* could not be captured: run directly for ever */
};

/* Device memory of the library's own, which grows when a list needs more. */
struct Scratch {
  unsigned char* at = nullptr;
  size_t bytes = 0;
};

struct Context {
  int device = 0;
  int generation = 0; /* of the device when this was opened; a reset since then has taken everything */
  cudaDeviceProp properties = {};
  cudaStream_t stream = nullptr;
  std::vector<Buffer> buffers; /* by handle; 0 is none */
  uint64_t usedBytes = 0;
  Scratch places, scores, counts;
  unsigned char* bounce = nullptr; /* pinned: where small reads arrive, and behind it what was sent and may still be on its way */
  size_t sent = 0;                 /* bytes of the latter since the stream was last waited for */
  std::list<Program> programs;     /* the one used last first */
  std::string message;
  int32_t dead = BN_OK; /* the code that every call returns after a failure of the device */
  bool graphs = true, fuse = true, overlap = true, split = true;
  bool waits = false; /* the code on the device has gridWait in it */
  uint64_t replays = 0, launches = 0;

  Stream on() { return {stream, overlap && waits, properties.multiProcessorCount, properties.sharedMemPerBlockOptin, &launches}; }

  /* Records what went wrong; returns `code`. */
  int32_t fail(int32_t code, const std::string& what);
  /* As `fail` with the runtime's own words; not enough memory leaves the context alive. */
  int32_t failCuda(cudaError_t error, const std::string& doing);

  /* The buffer, or null with a message that says who asked. */
  const Buffer* find(int32_t handle) const;
  int32_t grow(Scratch& scratch, size_t bytes, const char* what);
  /* Waits for everything that was enqueued. */
  cudaError_t wait();
  /* Copies to device memory, in the order of the stream; `from` may be changed as soon as this returns. */
  cudaError_t send(void* to, const void* from, size_t bytes);
  void dropPrograms();
  void dropProgramsOf(int32_t handle);
};

/* A row's place is in the one table or, where a list gives one row two places, in another. */
struct Walk {
  std::vector<int32_t> key;
  std::vector<RowPlace> places;     /* of all tables, one after the other */
  std::vector<size_t> tableOfGroup; /* for every KV command in order: where its table begins in `places` */
};

/* Reads commands only as far as needed to recognise the list: lengths, dynamic words (checked), key. */
int32_t walk(Context&, const int32_t* words, int32_t count, Walk& out);

/* One launch, or a few that belong together. */
struct Op {
  enum class Kind { ROWS, ELEMENTS, TERNARY, DENSE, EMBED, ROPE, ATTENTION, TOP_K, DENSE_INDEX, DENSE_TOP_K } kind;
  union {
    RowsArgs rows;
    ElementArgs elements;
    TernaryArgs ternary;
    DenseArgs dense;
    EmbedArgs embed;
    RopeArgs rope;
    AttentionArgs attention;
    TopKArgs topK;
    DenseIndexArgs denseIndex;
    DenseTopKArgs denseTopK;
  };
  explicit Op(Kind kind) : kind(kind), ternary() {}
};

/* Checks everything and makes ops of it; `places` will be at `Context.places`. */
int32_t parse(Context&, const int32_t* words, int32_t count, const Walk&, std::vector<Op>& ops, std::vector<int32_t>& handles);

/* Puts neighbours together where one kernel does the work of both. */
std::vector<Op> fuse(const std::vector<Op>&);

int32_t run(Context&, const int32_t* words, int32_t count);

}  // namespace bn

#endif
