/*
 * The border of the CUDA library: plain C, int32 results, no exception and no exit crosses it.
 *
 * Every function returns BN_OK or a BN_ERR_ code; `bn_message` then tells what happened, with the numbers. Buffers are handles:
 * small positive integers, never reused in the life of a context. Work goes in as lists of commands (`../commands.md` draws their
 * words) and runs in order on one stream. `bn_read`, `bn_free`, `bn_pack_dense` and `bn_close` wait for it, and writes of more than
 * 4 MiB; the others only where the library has to make room for itself.
 *
 * A context may be used from one thread at a time. Several contexts may be open, on one device or more. A process that was forked
 * cannot use what was opened before.
 */
#ifndef BITNET_CUDA_ABI_H
#define BITNET_CUDA_ABI_H

#include <stdint.h>

#if defined(_WIN32)
#define BN_API extern "C" __declspec(dllexport)
#else
#define BN_API extern "C" __attribute__((visibility("default")))
#endif

/* Raised on any change of this file or of a command's words. */
#define BN_ABI_VERSION 1

enum {
  BN_OK = 0,
  BN_ERR_ARGUMENT = 1, /* a wrong handle, range, shape or command; nothing was run */
  BN_ERR_DRIVER = 2,   /* no driver, or one too old for the runtime inside */
  BN_ERR_DEVICE = 3,   /* no such device, or its compute capability is below 8.0 */
  BN_ERR_MEMORY = 4,   /* not enough device memory; the context goes on working */
  BN_ERR_CUDA = 5,     /* the device or the driver failed: every later call fails the same way, except bn_close */
  BN_ERR_SELF_TEST = 6 /* the device computes something else than the contract says */
};

/* Types of dense weights; the numbers of `DENSE_CODE` in src/kernels/wasm/memory.ts. */
enum { BN_F32 = 0, BN_F16 = 1, BN_BF16 = 2, BN_Q8_0 = 3, BN_Q6_K = 4, BN_AFFINE = 5 };

/* Types of KV caches. */
enum { BN_KV_F32 = 0, BN_KV_F16 = 1 };

/* Opcodes; where the op is the same, the number of src/kernels/wasm/commands.ts. */
enum {
  BN_EMBED = 1,
  BN_RMS_NORM = 2,
  BN_QUANTIZE_ROWS = 3,
  BN_TERNARY_MATMUL = 4,
  BN_DENSE_MATMUL = 5,
  BN_ROPE = 6,
  BN_KV_APPEND = 7,
  BN_ATTENTION = 8,
  BN_GATED_RELU2 = 9,
  BN_GATED_SILU = 10,
  BN_ADD = 11,
  BN_COPY = 12,
  BN_RMS_NORM_QUANTIZE = 16,
  BN_GATED_GELU = 17,
  BN_SCALE = 18,
  BN_TOP_K = 19,
  BN_DENSE_INDEX = 20,
  BN_DENSE_TOP_K = 21
};

/* Options of bn_set. */
enum {
  BN_OPTION_GRAPHS = 0, /* 1 (default): a list seen twice is captured and then replayed */
  BN_OPTION_FUSE = 1,   /* 1 (default): neighbours that fit are run by one kernel; the bits are the same */
  BN_OPTION_OVERLAP = 2, /* 1 (default): on compute capability 9.0 and newer a kernel may start before the one before has ended */
  BN_OPTION_SPLIT = 3   /* 1 (default): few rows of attention that see much are shared by many blocks; the bits are the same */
};

BN_API int32_t bn_abi_version(void);

/* The last message of this context, or of the library where `context` is null; UTF-8, never null, valid until the next call. */
BN_API const char* bn_message(void* context);

BN_API int32_t bn_devices(int32_t* count);

/* Takes a device: checks driver and compute capability (8.0 at least) and has a small kernel prove the arithmetic. */
BN_API int32_t bn_open(int32_t device, void** context);

/*
 * Frees everything, whatever has happened before. After a failure that stays (a kernel that crashed) it resets the device, which takes
 * what the rest of the process has there; then the next bn_open works, or says that only a new process helps.
 */
BN_API int32_t bn_close(void* context);

/*
 * Facts as JSON, cut off nowhere: BN_ERR_ARGUMENT when `bytes` is too few (1024 are enough).
 * {"name":"...","computeCapability":"9.0","driver":13000,"runtime":13000,"totalBytes":1,"freeBytes":1,"usedBytes":1,"sms":132,
 *  "graphs":1,"replays":1,"launches":1}
 */
BN_API int32_t bn_info(void* context, char* json, int32_t bytes);

BN_API int32_t bn_set(void* context, int32_t option, int32_t value);

/* A zeroed buffer. At least one byte. */
BN_API int32_t bn_alloc(void* context, uint64_t bytes, int32_t* handle);
/* Waits until nothing uses it. */
BN_API int32_t bn_free(void* context, int32_t handle);

/* `data` may be changed as soon as this returns. */
BN_API int32_t bn_write(void* context, int32_t handle, uint64_t offset, const void* data, uint64_t bytes);
/* Runs everything before, waits, copies. */
BN_API int32_t bn_read(void* context, int32_t handle, uint64_t offset, void* data, uint64_t bytes);

/*
 * Ternary weights are used as `src/tensors/packed.ts` draws them, F32, F16 and BF16 as files have them: write the bytes, that is all.
 * Q8_0, Q6_K and AFFINE are rearranged on the device, some rows at a time: `from` holds rows `firstRow .. firstRow + count` as files
 * have them, `to` is a buffer of bn_dense_bytes for all `rows`. (`dense_layout.h` draws what comes out.) `from` may be freed after.
 */
BN_API int32_t bn_dense_bytes(int32_t dtype, int32_t rows, int32_t columns, uint64_t* bytes);
BN_API int32_t bn_pack_dense(void* context, int32_t dtype, int32_t from, int32_t to, int32_t rows, int32_t columns, int32_t firstRow,
                             int32_t count);

/* Checks all commands, then enqueues them; where one is wrong nothing is run. */
BN_API int32_t bn_run(void* context, const int32_t* words, int32_t count);

#endif
