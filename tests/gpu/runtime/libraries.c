// cuBLAS and cuDNN: each call that computes something is one node. On a real GPU it may launch several kernels.
//
// What is not here is generated (pretended.py): a call whose name says that it makes, sets or gets something succeeds
// and does nothing; any other is a node.
#include "pretended.h"
#include <cudnn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

// The stream of the library that was told one last: a thread of torch sets it before each call.
static __thread cudaStream_t blas_stream, dnn_stream;

int pretended_compute(const char *name) {
    bool is_blas = !strncmp(name, "cublas", 6);
    return pretended_launch(LIBRARY, name, is_blas ? blas_stream : dnn_stream);
}

static cudnnStatus_t dnn(const char *name) {
    return pretended_compute(name) ? CUDNN_STATUS_EXECUTION_FAILED : CUDNN_STATUS_SUCCESS;
}

// --- cuBLAS: its own header asks for the C++ toolkit's, so the few calls that say something are declared here

int cublasCreate_v2(void **handle) {
    *handle = calloc(1, 64);
    return 0;
}

int cublasDestroy_v2(void *handle) {
    free(handle);
    return 0;
}

int cublasSetStream_v2(void *handle, cudaStream_t stream) {
    blas_stream = stream;
    return 0;
}

int cublasGetMathMode(void *handle, int *mode) {
    *mode = 0;
    return 0;
}

int cublasGetPointerMode_v2(void *handle, int *mode) {
    *mode = 0;
    return 0;
}

int cublasLtMatmul(void *handle, void *operation, void *alpha, void *a, void *a_layout, void *b, void *b_layout,
                   void *beta, void *c, void *c_layout, void *d, void *d_layout, void *algorithm, void *workspace,
                   size_t size, cudaStream_t stream) {
    return pretended_launch(LIBRARY, "cublasLtMatmul", stream);
}

struct heuristic { // cublasLtMatmulHeuristicResult_t
    char algorithm[64];
    size_t workspace;
    int status;
    float waves;
    int reserved[4];
};

int cublasLtMatmulAlgoGetHeuristic(void *handle, void *operation, void *a, void *b, void *c, void *d, void *preference,
                                   int asked, struct heuristic *found, int *count) {
    memset(found, 0, sizeof *found);
    *count = 1;
    return 0;
}

static int make(void **made) {
    *made = calloc(1, 256);
    return 0;
}

int cublasLtMatmulDescCreate(void **made, int compute, int scale) { return make(made); }

int cublasLtMatrixLayoutCreate(void **made, int type, uint64_t rows, uint64_t columns, int64_t leading) {
    return make(made);
}

int cublasLtMatmulPreferenceCreate(void **made) { return make(made); }

size_t cublasLtGetVersion(void) { return 130000; }

// --- cuDNN

cudnnStatus_t cudnnCreate(cudnnHandle_t *handle) { return make((void **)handle); }

cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream) {
    dnn_stream = stream;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnGetStream(cudnnHandle_t handle, cudaStream_t *stream) {
    *stream = dnn_stream;
    return CUDNN_STATUS_SUCCESS;
}

size_t cudnnGetVersion(void) { return CUDNN_VERSION; }

size_t cudnnGetCudartVersion(void) { return CUDART_VERSION; }

const char *cudnnGetErrorString(cudnnStatus_t status) {
    return status == CUDNN_STATUS_SUCCESS ? "success" : "an error of the pretended GPU";
}

void cudnnGetLastErrorString(char *text, size_t size) {
    if (size)
        *text = 0;
}

cudnnStatus_t cudnnGetProperty(libraryPropertyType type, int *value) {
    *value = type == MAJOR_VERSION ? CUDNN_MAJOR : type == MINOR_VERSION ? CUDNN_MINOR : CUDNN_PATCHLEVEL;
    return CUDNN_STATUS_SUCCESS;
}

#define MAKES(name, type)                                                                                              \
    cudnnStatus_t name(type *made) { return make((void **)made); }

MAKES(cudnnCreateTensorDescriptor, cudnnTensorDescriptor_t)
MAKES(cudnnCreateFilterDescriptor, cudnnFilterDescriptor_t)
MAKES(cudnnCreateConvolutionDescriptor, cudnnConvolutionDescriptor_t)
MAKES(cudnnCreateActivationDescriptor, cudnnActivationDescriptor_t)
MAKES(cudnnCreatePoolingDescriptor, cudnnPoolingDescriptor_t)
MAKES(cudnnCreateDropoutDescriptor, cudnnDropoutDescriptor_t)
MAKES(cudnnCreateSpatialTransformerDescriptor, cudnnSpatialTransformerDescriptor_t)
MAKES(cudnnCreateRNNDescriptor, cudnnRNNDescriptor_t)
MAKES(cudnnCreateRNNDataDescriptor, cudnnRNNDataDescriptor_t)
MAKES(cudnnCreateCTCLossDescriptor, cudnnCTCLossDescriptor_t)

cudnnStatus_t cudnnDropoutGetStatesSize(cudnnHandle_t handle, size_t *bytes) {
    *bytes = 1024;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnGetTensorNdDescriptor(const cudnnTensorDescriptor_t tensor, int asked, cudnnDataType_t *type,
                                         int *axes, int sizes[], int strides[]) {
    *type = CUDNN_DATA_FLOAT;
    *axes = 4;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnGetFilterNdDescriptor(const cudnnFilterDescriptor_t filter, int asked, cudnnDataType_t *type,
                                         cudnnTensorFormat_t *format, int *axes, int sizes[]) {
    *type = CUDNN_DATA_FLOAT;
    *format = CUDNN_TENSOR_NCHW;
    *axes = 4;
    for (int axis = 0; axis < asked; axis++)
        sizes[axis] = 1;
    return CUDNN_STATUS_SUCCESS;
}

// Convolutions by the calls of version 7, for a torch that is told to use them

#define ALGORITHM(name, one, two, three, four, type)                                                                   \
    cudnnStatus_t name(cudnnHandle_t handle, const one a, const two b, const three c, const four d, int asked,         \
                       int *count, type *found) {                                                                      \
        memset(found, 0, sizeof *found);                                                                               \
        found->algo = 1;                                                                                               \
        found->determinism = CUDNN_DETERMINISTIC;                                                                      \
        *count = 1;                                                                                                    \
        return CUDNN_STATUS_SUCCESS;                                                                                   \
    }

ALGORITHM(cudnnGetConvolutionForwardAlgorithm_v7, cudnnTensorDescriptor_t, cudnnFilterDescriptor_t,
          cudnnConvolutionDescriptor_t, cudnnTensorDescriptor_t, cudnnConvolutionFwdAlgoPerf_t)
ALGORITHM(cudnnGetConvolutionBackwardDataAlgorithm_v7, cudnnFilterDescriptor_t, cudnnTensorDescriptor_t,
          cudnnConvolutionDescriptor_t, cudnnTensorDescriptor_t, cudnnConvolutionBwdDataAlgoPerf_t)
ALGORITHM(cudnnGetConvolutionBackwardFilterAlgorithm_v7, cudnnTensorDescriptor_t, cudnnTensorDescriptor_t,
          cudnnConvolutionDescriptor_t, cudnnFilterDescriptor_t, cudnnConvolutionBwdFilterAlgoPerf_t)

#define WORKSPACE(name, one, two, three, four, type)                                                                   \
    cudnnStatus_t name(cudnnHandle_t handle, const one a, const two b, const three c, const four d, type algorithm,    \
                       size_t *bytes) {                                                                                \
        *bytes = 1 << 20;                                                                                              \
        return CUDNN_STATUS_SUCCESS;                                                                                   \
    }

WORKSPACE(cudnnGetConvolutionForwardWorkspaceSize, cudnnTensorDescriptor_t, cudnnFilterDescriptor_t,
          cudnnConvolutionDescriptor_t, cudnnTensorDescriptor_t, cudnnConvolutionFwdAlgo_t)
WORKSPACE(cudnnGetConvolutionBackwardDataWorkspaceSize, cudnnFilterDescriptor_t, cudnnTensorDescriptor_t,
          cudnnConvolutionDescriptor_t, cudnnTensorDescriptor_t, cudnnConvolutionBwdDataAlgo_t)
WORKSPACE(cudnnGetConvolutionBackwardFilterWorkspaceSize, cudnnTensorDescriptor_t, cudnnTensorDescriptor_t,
          cudnnConvolutionDescriptor_t, cudnnFilterDescriptor_t, cudnnConvolutionBwdFilterAlgo_t)

// Batch norm

cudnnStatus_t cudnnGetBatchNormalizationForwardTrainingExWorkspaceSize(
    cudnnHandle_t handle, cudnnBatchNormMode_t mode, cudnnBatchNormOps_t operations, const cudnnTensorDescriptor_t x,
    const cudnnTensorDescriptor_t z, const cudnnTensorDescriptor_t y, const cudnnTensorDescriptor_t statistics,
    const cudnnActivationDescriptor_t activation, size_t *bytes) {
    *bytes = 1024;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnGetBatchNormalizationBackwardExWorkspaceSize(
    cudnnHandle_t handle, cudnnBatchNormMode_t mode, cudnnBatchNormOps_t operations, const cudnnTensorDescriptor_t x,
    const cudnnTensorDescriptor_t y, const cudnnTensorDescriptor_t dy, const cudnnTensorDescriptor_t dz,
    const cudnnTensorDescriptor_t dx, const cudnnTensorDescriptor_t statistics,
    const cudnnActivationDescriptor_t activation, size_t *bytes) {
    *bytes = 1024;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnGetBatchNormalizationTrainingExReserveSpaceSize(cudnnHandle_t handle, cudnnBatchNormMode_t mode,
                                                                   cudnnBatchNormOps_t operations,
                                                                   const cudnnActivationDescriptor_t activation,
                                                                   const cudnnTensorDescriptor_t x, size_t *bytes) {
    *bytes = 1024;
    return CUDNN_STATUS_SUCCESS;
}

// --- cuDNN's backend: descriptors made of descriptors, of which a plan is executed at last

typedef struct {
    cudnnBackendDescriptorType_t operation; // the first that it is about
    bool has_operation;
} Descriptor;

static bool is_operation(cudnnBackendDescriptorType_t type) {
    return type == CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR ||
           type == CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR ||
           type == CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR;
}

static void inherit(Descriptor *descriptor, const Descriptor *part) {
    if (!descriptor->has_operation && part && part->has_operation)
        *descriptor = *part;
}

cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t *made) {
    Descriptor *descriptor = calloc(1, sizeof *descriptor);
    *descriptor = (Descriptor){.operation = type, .has_operation = is_operation(type)};
    *made = (cudnnBackendDescriptor_t)descriptor;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t descriptor) {
    free(descriptor);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t descriptor) { return CUDNN_STATUS_SUCCESS; }

cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t count, const void *values) {
    for (int64_t index = 0; type == CUDNN_TYPE_BACKEND_DESCRIPTOR && index < count; index++)
        inherit((Descriptor *)descriptor, ((Descriptor *const *)values)[index]);
    return CUDNN_STATUS_SUCCESS;
}

// A heuristic finds one configuration, which has no knobs and no notes and needs no workspace.
cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t const descriptor, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t asked, int64_t *count, void *values) {
    int64_t found = 0;
    if (type == CUDNN_TYPE_BACKEND_DESCRIPTOR && name != CUDNN_ATTR_ENGINECFG_KNOB_CHOICES) {
        found = 1;
        if (values && asked > 0)
            inherit(*(Descriptor **)values, (const Descriptor *)descriptor);
    } else if (type == CUDNN_TYPE_INT64) {
        found = 1;
        if (values && asked > 0)
            *(int64_t *)values = 0;
    }
    if (count)
        *count = found;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendExecute(cudnnHandle_t handle, cudnnBackendDescriptor_t handed,
                                  cudnnBackendDescriptor_t variables) {
    const Descriptor *plan = (const Descriptor *)handed;
    if (!plan->has_operation)
        return dnn("cudnn: another operation");
    switch (plan->operation) {
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR: return dnn("cudnn: convolution, forward");
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR:
        return dnn("cudnn: convolution, backward, weight");
    default: return dnn("cudnn: convolution, backward, input");
    }
}
