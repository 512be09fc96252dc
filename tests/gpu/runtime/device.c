// What the GPU says of itself: $PRETENDED_GPU is h100 (default), t4 or p100.
#include "pretended.h"
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const char *key, *name;
    int major, minor;
    size_t memory;
    int processors, threads, blocks; // threads and blocks of one multiprocessor
    int shared, shared_at_most;      // bytes of a multiprocessor, and of a block that asks for more than usual
    int cache, bus;                  // bytes of L2, bits of the memory bus
} Gpu;

// The names say that they are pretended: no record of one may pass for a GPU's.
static const Gpu gpus[] = {
    {"h100", "Pretended H100", 9, 0, 80ul << 30, 132, 2048, 32, 233472, 232448, 50 << 20, 5120},
    {"t4", "Pretended T4", 7, 5, 15ul << 30, 40, 1024, 16, 65536, 65536, 4 << 20, 256},
    {"p100", "Pretended P100", 6, 0, 16ul << 30, 56, 2048, 32, 65536, 49152, 4 << 20, 4096},
};

static const Gpu *gpu(void) {
    const char *asked = getenv("PRETENDED_GPU");
    for (size_t index = 0; index < sizeof gpus / sizeof *gpus; index++)
        if (!asked || !*asked || !strcmp(asked, gpus[index].key))
            return &gpus[index];
    fprintf(stderr, "pretended GPU: there is no '%s'; legal: h100, t4, p100\n", asked);
    exit(2);
}

int pretended_capability(void) { return 10 * gpu()->major + gpu()->minor; }

size_t pretended_memory(void) { return gpu()->memory; }

cudaError_t cudaGetDeviceCount(int *count) {
    *count = 1;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *number) {
    *number = 0;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int number) { return cudaSuccess; }

cudaError_t cudaDriverGetVersion(int *version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *found, int number) {
    const Gpu *device = gpu();
    memset(found, 0, sizeof *found);
    strcpy(found->name, device->name);
    found->major = device->major;
    found->minor = device->minor;
    found->totalGlobalMem = device->memory;
    found->multiProcessorCount = device->processors;
    found->maxThreadsPerMultiProcessor = device->threads;
    found->maxBlocksPerMultiProcessor = device->blocks;
    found->sharedMemPerMultiprocessor = device->shared;
    found->sharedMemPerBlockOptin = device->shared_at_most;
    found->l2CacheSize = device->cache;
    found->memoryBusWidth = device->bus;
    found->sharedMemPerBlock = 49152;
    found->regsPerBlock = found->regsPerMultiprocessor = 65536;
    found->totalConstMem = 65536;
    found->warpSize = 32;
    found->maxThreadsPerBlock = found->maxThreadsDim[0] = found->maxThreadsDim[1] = 1024;
    found->maxThreadsDim[2] = 64;
    found->maxGridSize[0] = 2147483647;
    found->maxGridSize[1] = found->maxGridSize[2] = 65535;
    found->textureAlignment = 512;
    found->concurrentKernels = found->unifiedAddressing = 1;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int number) {
    struct cudaDeviceProp device;
    cudaGetDeviceProperties(&device, number);
    switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor: *value = device.major; break;
    case cudaDevAttrComputeCapabilityMinor: *value = device.minor; break;
    case cudaDevAttrMultiProcessorCount: *value = device.multiProcessorCount; break;
    case cudaDevAttrWarpSize: *value = device.warpSize; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = device.maxThreadsPerMultiProcessor; break;
    case cudaDevAttrMaxBlocksPerMultiprocessor: *value = device.maxBlocksPerMultiProcessor; break;
    case cudaDevAttrMaxThreadsPerBlock: *value = device.maxThreadsPerBlock; break;
    case cudaDevAttrMaxBlockDimX: *value = device.maxThreadsDim[0]; break;
    case cudaDevAttrMaxBlockDimY: *value = device.maxThreadsDim[1]; break;
    case cudaDevAttrMaxBlockDimZ: *value = device.maxThreadsDim[2]; break;
    case cudaDevAttrMaxGridDimX: *value = device.maxGridSize[0]; break;
    case cudaDevAttrMaxGridDimY: *value = device.maxGridSize[1]; break;
    case cudaDevAttrMaxGridDimZ: *value = device.maxGridSize[2]; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = device.sharedMemPerBlock; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = device.sharedMemPerBlockOptin; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = device.sharedMemPerMultiprocessor; break;
    case cudaDevAttrMaxRegistersPerBlock: *value = device.regsPerBlock; break;
    case cudaDevAttrMaxRegistersPerMultiprocessor: *value = device.regsPerMultiprocessor; break;
    case cudaDevAttrL2CacheSize: *value = device.l2CacheSize; break;
    default: *value = 1; // whether it can do something: yes
    }
    return cudaSuccess;
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    *least = 0;
    *greatest = -5;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char *text, int length, int number) {
    snprintf(text, length, "0000:00:00.0");
    return cudaSuccess;
}

cudaError_t cudaDeviceCanAccessPeer(int *can, int number, int other) {
    *can = 0;
    return cudaSuccess;
}

// --- the driver, by name

static int succeed(void) { return 0; }

cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **function, unsigned version,
                                             unsigned long long flags, enum cudaDriverEntryPointQueryResult *status) {
    void *driver = dlopen("libcuda.so.1", RTLD_LAZY);
    *function = driver ? dlsym(driver, name) : NULL;
    if (!*function)
        *function = succeed;
    if (status)
        *status = cudaDriverEntryPointSuccess;
    return cudaSuccess;
}
