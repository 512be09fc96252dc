// Allocations and copies. Device memory is the host's and begins as zeros; copies are done at once, but for those in a
// capture, which belong to the graph and are not done at all.
#include "pretended.h"
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define MOST 100000 // torch's allocators ask for large blocks, so there are few

typedef struct {
    char *start;
    size_t size;
} Block;

typedef struct {
    Block blocks[MOST];
    int count;
    size_t bytes;
} Blocks;

static Blocks device, pinned;

static cudaError_t add(Blocks *all, void *start, size_t size) {
    if (all->count == MOST)
        return pretended_fail(cudaErrorMemoryAllocation);
    all->blocks[all->count++] = (Block){start, size};
    all->bytes += size;
    return cudaSuccess;
}

static size_t drop(Blocks *all, const void *start) {
    for (int index = 0; index < all->count; index++)
        if (all->blocks[index].start == start) {
            size_t size = all->blocks[index].size;
            all->blocks[index] = all->blocks[--all->count];
            all->bytes -= size;
            return size;
        }
    return 0;
}

static bool holds(const Blocks *all, const void *address) {
    for (int index = 0; index < all->count; index++) {
        const Block *block = &all->blocks[index];
        if ((const char *)address >= block->start && (const char *)address < block->start + block->size)
            return true;
    }
    return false;
}

// --- the device's

cudaError_t cudaMalloc(void **start, size_t size) {
    HOLD_LOCK;
    cudaError_t wrong = pretended_forbid("cudaMalloc");
    if (wrong)
        return wrong;
    size = size ? size : 1;
    if (device.bytes + size > pretended_memory())
        return pretended_fail(cudaErrorMemoryAllocation);
    // Unreserved: pages that are never touched, as no kernel runs, take no memory.
    void *found = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (found == MAP_FAILED)
        return pretended_fail(cudaErrorMemoryAllocation);
    pretended_note("cudaMalloc");
    *start = found;
    return add(&device, found, size);
}

cudaError_t cudaFree(void *start) {
    HOLD_LOCK;
    if (!start)
        return cudaSuccess;
    cudaError_t wrong = pretended_forbid("cudaFree"); // it waits for the device
    if (wrong)
        return wrong;
    pretended_note("cudaFree");
    munmap(start, drop(&device, start));
    return cudaSuccess;
}

cudaError_t cudaMallocAsync(void **start, size_t size, cudaStream_t stream) { return cudaMalloc(start, size); }

cudaError_t cudaFreeAsync(void *start, cudaStream_t stream) { return cudaFree(start); }

cudaError_t cudaMallocManaged(void **start, size_t size, unsigned flags) { return cudaMalloc(start, size); }

cudaError_t cudaMemGetInfo(size_t *unused, size_t *total) {
    HOLD_LOCK;
    *total = pretended_memory();
    *unused = *total - device.bytes;
    return cudaSuccess;
}

// --- the host's, pinned

cudaError_t cudaHostAlloc(void **start, size_t size, unsigned flags) {
    HOLD_LOCK;
    cudaError_t wrong = pretended_forbid("cudaHostAlloc");
    if (wrong)
        return wrong;
    *start = calloc(1, size ? size : 1);
    return add(&pinned, *start, size ? size : 1);
}

cudaError_t cudaMallocHost(void **start, size_t size) { return cudaHostAlloc(start, size, 0); }

cudaError_t cudaFreeHost(void *start) {
    HOLD_LOCK;
    cudaError_t wrong = pretended_forbid("cudaFreeHost");
    if (wrong)
        return wrong;
    drop(&pinned, start);
    free(start);
    return cudaSuccess;
}

cudaError_t cudaHostRegister(void *start, size_t size, unsigned flags) {
    HOLD_LOCK;
    return add(&pinned, start, size);
}

cudaError_t cudaHostUnregister(void *start) {
    HOLD_LOCK;
    drop(&pinned, start);
    return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *attributes, const void *address) {
    HOLD_LOCK;
    memset(attributes, 0, sizeof *attributes);
    attributes->device = cudaInvalidDeviceId;
    attributes->hostPointer = (void *)address;
    if (holds(&device, address)) {
        attributes->type = cudaMemoryTypeDevice;
        attributes->device = 0;
        attributes->devicePointer = (void *)address;
        attributes->hostPointer = NULL;
    } else if (holds(&pinned, address)) {
        attributes->type = cudaMemoryTypeHost;
        attributes->device = 0;
        attributes->devicePointer = (void *)address;
    }
    return cudaSuccess;
}

// --- copies

static bool is_pageable(const void *address) { return !holds(&device, address) && !holds(&pinned, address); }

static const char *direction(const void *target, const void *source) {
    if (holds(&device, target))
        return holds(&device, source) ? "copy within the device" : "copy to the device";
    return holds(&device, source) ? "copy to the host" : "copy within the host";
}

// A copy from or to memory that is not pinned waits for the host, which a capture cannot.
static cudaError_t copy(void *target, const void *source, cudaStream_t stream) {
    bool waits = is_pageable(target) || is_pageable(source);
    cudaError_t wrong = waits ? pretended_forbid_on("cudaMemcpyAsync of pageable memory", stream) : cudaSuccess;
    return wrong ? wrong : pretended_launch(COPY, direction(target, source), stream);
}

cudaError_t cudaMemcpyAsync(void *target, const void *source, size_t size, enum cudaMemcpyKind kind,
                            cudaStream_t stream) {
    HOLD_LOCK;
    cudaError_t wrong = copy(target, source, stream);
    if (!wrong && !pretended_is_captured(stream))
        memmove(target, source, size);
    return wrong;
}

cudaError_t cudaMemcpy2DAsync(void *target, size_t target_pitch, const void *source, size_t source_pitch, size_t width,
                              size_t height, enum cudaMemcpyKind kind, cudaStream_t stream) {
    HOLD_LOCK;
    cudaError_t wrong = copy(target, source, stream);
    for (size_t row = 0; !wrong && !pretended_is_captured(stream) && row < height; row++)
        memmove((char *)target + row * target_pitch, (const char *)source + row * source_pitch, width);
    return wrong;
}

cudaError_t cudaMemcpyPeerAsync(void *target, int to, const void *source, int from, size_t size, cudaStream_t stream) {
    return cudaMemcpyAsync(target, source, size, cudaMemcpyDeviceToDevice, stream);
}

cudaError_t cudaMemcpy(void *target, const void *source, size_t size, enum cudaMemcpyKind kind) {
    HOLD_LOCK;
    cudaError_t wrong = pretended_forbid("cudaMemcpy");
    if (wrong)
        return wrong;
    pretended_note("cudaMemcpy");
    memmove(target, source, size);
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *target, int value, size_t size, cudaStream_t stream) {
    HOLD_LOCK;
    cudaError_t wrong = pretended_launch(MEMSET, "memset", stream);
    if (!wrong && !pretended_is_captured(stream))
        memset(target, value, size);
    return wrong;
}

cudaError_t cudaMemset(void *target, int value, size_t size) {
    HOLD_LOCK;
    cudaError_t wrong = pretended_forbid("cudaMemset");
    if (!wrong)
        memset(target, value, size);
    return wrong;
}

cudaError_t cudaMemcpyToSymbol(const void *symbol, const void *source, size_t size, size_t offset,
                               enum cudaMemcpyKind kind) {
    return pretended_forbid("cudaMemcpyToSymbol");
}

cudaError_t cudaGetSymbolAddress(void **address, const void *symbol) {
    static char all_symbols[65536]; // torch writes to some
    *address = all_symbols;
    return cudaSuccess;
}

// --- what torch asks and a pretended GPU has not

cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t *pool, int number) {
    static char the_pool;
    *pool = (cudaMemPool_t)&the_pool;
    return cudaSuccess;
}

cudaError_t cudaIpcOpenMemHandle(void **start, cudaIpcMemHandle_t handle, unsigned flags) {
    return pretended_fail(cudaErrorNotSupported);
}

cudaError_t cudaIpcOpenEventHandle(cudaEvent_t *event, cudaIpcEventHandle_t handle) {
    return pretended_fail(cudaErrorNotSupported);
}
