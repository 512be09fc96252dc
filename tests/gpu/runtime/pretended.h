// A CUDA runtime without a GPU, preloaded under torch. Memory is the host's, kernels are counted and not run,
// and the rules of stream capture are held as the CUDA documentation states them.
//
//   counts.c     how often each kernel was launched and each call made, and the log
//   capture.c    streams, events, captures and graphs: what is legal when
//   memory.c     allocations and copies
//   device.c     what the GPU says of itself
//   kernels.c    the kernels that torch registers, and their launches
//   libraries.c  cuBLAS and cuDNN: one node a call
//   driver.c     libcuda.so.1, a library of its own
#pragma once
#define _GNU_SOURCE
#include <cuda_runtime_api.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

// One lock for everything: torch calls from its own thread and from autograd's. Held until the scope ends.
void pretended_lock(void);
void pretended_unlock(void *);
#define HOLD_LOCK                                                                                                      \
    __attribute__((cleanup(pretended_unlock), unused)) char held = 0;                                                  \
    pretended_lock()

// What is counted under a name. Only the first four become nodes of a graph.
typedef enum { KERNEL, LIBRARY, COPY, MEMSET, CALL } Kind;

// --- counts.c
int pretended_name(Kind kind, const char *name); // the number that a name has
void pretended_count(int name, bool captured);
void pretended_log(const char *format, ...) __attribute__((format(printf, 1, 2)));

// --- capture.c
cudaError_t pretended_fail(cudaError_t error);                                     // it becomes the last error
cudaError_t pretended_launch(Kind kind, const char *name, cudaStream_t stream);    // a node, or work done at once
cudaError_t pretended_forbid(const char *call);                                    // a call that could break a capture
cudaError_t pretended_forbid_on(const char *call, cudaStream_t stream);            // one that does break that stream's
bool pretended_is_captured(cudaStream_t stream);
void pretended_note(const char *name);                                             // a call that launches nothing

// --- device.c
int pretended_capability(void); // 90 for compute capability 9.0
size_t pretended_memory(void);  // bytes of the whole device
