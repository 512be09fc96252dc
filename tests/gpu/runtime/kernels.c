// The kernels that torch's libraries register when they are loaded, and their launches.
#include "pretended.h"
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define SLOTS (1 << 20) // torch has a quarter of a million

static struct {
    const void *function;
    const char *name;
} *kernels;

static size_t slot_of(const void *function) {
    size_t slot = ((uintptr_t)function >> 3) * 11400714819323198485ull >> 44;
    while (kernels[slot].function && kernels[slot].function != function)
        slot = (slot + 1) % SLOTS;
    return slot;
}

void **__cudaRegisterFatBinary(void *binary) {
    static void *handle[4];
    return handle;
}

void __cudaRegisterFatBinaryEnd(void **handle) {}

void __cudaUnregisterFatBinary(void **handle) {}

char __cudaInitModule(void **handle) { return 0; }

void __cudaRegisterFunction(void **handle, const char *function, char *device_function, const char *name, int limit,
                            uint3 *thread, uint3 *block, dim3 *block_size, dim3 *grid_size, int *warp_size) {
    HOLD_LOCK;
    static size_t count;
    if (!kernels)
        kernels = calloc(SLOTS, sizeof *kernels);
    if (++count == SLOTS)
        abort();
    size_t slot = slot_of(function);
    kernels[slot].function = function;
    kernels[slot].name = name;
}

void __cudaRegisterVar(void **handle, char *variable, char *address, const char *name, int is_external, size_t size,
                       int is_constant, int is_global) {}

cudaError_t __cudaGetKernel(cudaKernel_t *kernel, const void *function) {
    *kernel = (cudaKernel_t)function;
    return cudaSuccess;
}

// --- launches

static __thread struct {
    dim3 grid, block;
    size_t shared;
    cudaStream_t stream;
} configurations[64];
static __thread int depth;

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, cudaStream_t stream) {
    configurations[depth].grid = grid;
    configurations[depth].block = block;
    configurations[depth].shared = shared;
    configurations[depth++].stream = stream;
    return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void *stream) {
    depth--;
    *grid = configurations[depth].grid;
    *block = configurations[depth].block;
    *shared = configurations[depth].shared;
    *(cudaStream_t *)stream = configurations[depth].stream;
    return cudaSuccess;
}

cudaError_t cudaLaunchKernel(const void *function, dim3 grid, dim3 block, void **arguments, size_t shared,
                             cudaStream_t stream) {
    HOLD_LOCK;
    if (pretended_capability() < FIRST_CAPABILITY) // torch was built for none so old
        return pretended_fail(cudaErrorNoKernelImageForDevice);
    const char *name = kernels ? kernels[slot_of(function)].name : NULL;
    return pretended_launch(KERNEL, name ? name : "a kernel without a name", stream);
}

cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void **arguments, size_t shared,
                               cudaStream_t stream) {
    return cudaLaunchKernel((const void *)kernel, grid, block, arguments, shared, stream);
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *configuration, const void *function, void **arguments) {
    return cudaLaunchKernel(function, configuration->gridDim, configuration->blockDim, arguments,
                            configuration->dynamicSmemBytes, configuration->stream);
}

cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *attributes, const void *function) {
    memset(attributes, 0, sizeof *attributes);
    attributes->maxThreadsPerBlock = 1024;
    attributes->numRegs = 32;
    attributes->ptxVersion = attributes->binaryVersion = pretended_capability();
    attributes->maxDynamicSharedSizeBytes = 49152;
    return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *count, const void *function, int block,
                                                                   size_t shared, unsigned flags) {
    *count = block > 64 ? 2048 / block : 32;
    return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *count, const void *function, int block, size_t shared) {
    return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(count, function, block, shared, 0);
}
