// Streams, events, captures and graphs.
//
// The rules are those of the CUDA programming guide ("Prohibited and Unhandled Operations", "Invalidation",
// "Cross-stream Dependencies and Events") and of cudaThreadExchangeStreamCaptureMode: an illegal call fails and
// invalidates the capture; every later use of its streams fails; ending it gives an error and no graph.
#include "pretended.h"
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define AT_ONCE 64 // captures, and streams of one capture

typedef struct {
    int number;
    long count, room;
    int *names; // of its nodes, in the order of their capture
    long launches;
} Graph;

typedef struct Capture Capture;

typedef struct {
    Capture *capture; // that it takes part in
    long work;        // nodes it has had in that capture
    bool unjoined;    // it came in by an event, and its last node is not waited for yet
} Stream;

struct Capture {
    unsigned long long id;
    enum cudaStreamCaptureMode mode;
    pthread_t thread;
    Stream *origin, *streams[AT_ONCE];
    int stream_count;
    Graph *graph;
    bool invalidated;
    long missed; // kernels launched meanwhile on streams that do not take part: they run once and are not replayed
};

typedef struct {
    bool recorded;
    unsigned long long capture; // its id, or 0
    Stream *stream;
    long work;
} Event;

static Capture *captures[AT_ONCE];
static int capture_count;
static unsigned long long last_id;
static Graph **graphs; // all there ever were: they are small, and counted at the end
static int graph_count;
static Stream default_stream;
static __thread enum cudaStreamCaptureMode thread_mode = cudaStreamCaptureModeGlobal;
static __thread cudaError_t last_error = cudaSuccess;

static Stream *stream_of(cudaStream_t handle) {
    bool is_default = !handle || handle == cudaStreamLegacy || handle == cudaStreamPerThread;
    return is_default ? &default_stream : (Stream *)handle;
}

static Capture *find_capture(unsigned long long id) {
    for (int index = 0; index < capture_count; index++)
        if (captures[index]->id == id)
            return captures[index];
    return NULL;
}

// --- what is illegal

cudaError_t pretended_fail(cudaError_t error) { return last_error = error; }

static cudaError_t invalidate(Capture *capture, const char *call, cudaError_t error) {
    capture->invalidated = true;
    pretended_log("illegal\t%s\t%s", call, cudaGetErrorName(error));
    return pretended_fail(error);
}

// Refuse a call that is unsafe during captures, as this thread's and the captures' modes have it.
cudaError_t pretended_forbid(const char *call) {
    HOLD_LOCK;
    cudaError_t found = cudaSuccess;
    for (int index = 0; index < capture_count; index++) {
        Capture *capture = captures[index];
        bool own = pthread_equal(capture->thread, pthread_self());
        bool everybodys = capture->mode == cudaStreamCaptureModeGlobal && thread_mode == cudaStreamCaptureModeGlobal;
        if (capture->mode == cudaStreamCaptureModeRelaxed || thread_mode == cudaStreamCaptureModeRelaxed)
            continue;
        if (own || everybodys)
            found = invalidate(capture, call, cudaErrorStreamCaptureUnsupported);
    }
    return found;
}

// Refuse a call that can have no place in the capture of this stream, whatever the mode.
cudaError_t pretended_forbid_on(const char *call, cudaStream_t handle) {
    HOLD_LOCK;
    Capture *capture = stream_of(handle)->capture;
    return capture ? invalidate(capture, call, cudaErrorStreamCaptureUnsupported) : cudaSuccess;
}

// --- work

bool pretended_is_captured(cudaStream_t handle) {
    HOLD_LOCK;
    return stream_of(handle)->capture != NULL;
}

void pretended_note(const char *name) {
    HOLD_LOCK;
    pretended_count(pretended_name(CALL, name), capture_count > 0);
}

static void append(Graph *graph, int name) {
    if (graph->count == graph->room) {
        graph->room = graph->room ? 2 * graph->room : 256;
        graph->names = realloc(graph->names, graph->room * sizeof *graph->names);
    }
    graph->names[graph->count++] = name;
}

cudaError_t pretended_launch(Kind kind, const char *name, cudaStream_t handle) {
    HOLD_LOCK;
    Stream *stream = stream_of(handle);
    Capture *capture = stream->capture;
    int number = pretended_name(kind, name);
    if (!capture) {
        for (int index = 0; index < capture_count; index++)
            captures[index]->missed++;
        pretended_count(number, false);
        return cudaSuccess;
    }
    if (capture->invalidated)
        return pretended_fail(cudaErrorStreamCaptureInvalidated);
    stream->work++;
    stream->unjoined = stream != capture->origin;
    append(capture->graph, number);
    pretended_count(number, true);
    return cudaSuccess;
}

// --- captures

cudaError_t cudaThreadExchangeStreamCaptureMode(enum cudaStreamCaptureMode *mode) {
    enum cudaStreamCaptureMode before = thread_mode;
    thread_mode = *mode;
    *mode = before;
    return cudaSuccess;
}

static void join(Capture *capture, Stream *stream, bool unjoined) {
    *stream = (Stream){.capture = capture, .unjoined = unjoined};
    if (capture->stream_count == AT_ONCE)
        abort();
    capture->streams[capture->stream_count++] = stream;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, enum cudaStreamCaptureMode mode) {
    HOLD_LOCK;
    Stream *stream = stream_of(handle);
    if (stream == &default_stream)
        return pretended_fail(cudaErrorStreamCaptureUnsupported);
    if (stream->capture || capture_count == AT_ONCE)
        return pretended_fail(cudaErrorIllegalState);
    Capture *capture = calloc(1, sizeof *capture);
    capture->id = ++last_id;
    capture->mode = mode;
    capture->thread = pthread_self();
    capture->origin = stream;
    capture->graph = calloc(1, sizeof *capture->graph);
    join(capture, stream, false);
    captures[capture_count++] = capture;
    pretended_log("begun");
    return cudaSuccess;
}

static void leave(Capture *capture) {
    for (int index = 0; index < capture->stream_count; index++)
        *capture->streams[index] = (Stream){0};
    for (int index = 0; index < capture_count; index++)
        if (captures[index] == capture)
            captures[index] = captures[--capture_count];
}

static cudaError_t why_no_graph(Capture *capture) {
    if (capture->invalidated)
        return cudaErrorStreamCaptureInvalidated;
    for (int index = 0; index < capture->stream_count; index++)
        if (capture->streams[index]->unjoined)
            return cudaErrorStreamCaptureUnjoined;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t *graph) {
    HOLD_LOCK;
    Stream *stream = stream_of(handle);
    Capture *capture = stream->capture;
    *graph = NULL;
    if (!capture)
        return pretended_fail(cudaErrorIllegalState);
    if (stream != capture->origin)
        return invalidate(capture, "cudaStreamEndCapture", cudaErrorStreamCaptureUnmatched);
    if (capture->mode != cudaStreamCaptureModeRelaxed && !pthread_equal(capture->thread, pthread_self()))
        return pretended_fail(cudaErrorStreamCaptureWrongThread);
    cudaError_t wrong = why_no_graph(capture);
    leave(capture);
    if (wrong) {
        pretended_log("failed\t%s", cudaGetErrorName(wrong));
        free(capture->graph);
    } else {
        capture->graph->number = graph_count;
        graphs = realloc(graphs, (graph_count + 1) * sizeof *graphs);
        graphs[graph_count++] = capture->graph;
        *graph = (cudaGraph_t)capture->graph;
        pretended_log("captured\t%ld\t%ld", capture->graph->count, capture->missed);
    }
    free(capture);
    return wrong ? pretended_fail(wrong) : cudaSuccess;
}

static enum cudaStreamCaptureStatus status_of(Capture *capture) {
    if (!capture)
        return cudaStreamCaptureStatusNone;
    return capture->invalidated ? cudaStreamCaptureStatusInvalidated : cudaStreamCaptureStatusActive;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t handle, enum cudaStreamCaptureStatus *status) {
    HOLD_LOCK;
    *status = status_of(stream_of(handle)->capture);
    return cudaSuccess;
}

cudaError_t cudaStreamGetCaptureInfo(cudaStream_t handle, enum cudaStreamCaptureStatus *status, unsigned long long *id,
                                     cudaGraph_t *graph, const cudaGraphNode_t **dependencies,
                                     const cudaGraphEdgeData **edges, size_t *count) {
    HOLD_LOCK;
    Capture *capture = stream_of(handle)->capture;
    *status = status_of(capture);
    if (id && capture)
        *id = capture->id;
    if (graph && capture)
        *graph = (cudaGraph_t)capture->graph;
    if (dependencies)
        *dependencies = NULL;
    if (edges)
        *edges = NULL;
    if (count)
        *count = 0;
    return cudaSuccess;
}

// --- streams

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int priority) {
    pretended_note("cudaStreamCreate");
    *stream = (cudaStream_t)calloc(1, sizeof(Stream));
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) {
    return cudaStreamCreateWithPriority(stream, flags, 0);
}

cudaError_t cudaStreamCreate(cudaStream_t *stream) { return cudaStreamCreateWithPriority(stream, 0, 0); }

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    free(stream);
    return cudaSuccess;
}

cudaError_t cudaStreamGetPriority(cudaStream_t stream, int *priority) {
    *priority = 0;
    return cudaSuccess;
}

// A call that waits for one stream: illegal on a stream that is captured, unsafe on any other meanwhile.
static cudaError_t wait_for(const char *call, cudaStream_t stream) {
    HOLD_LOCK;
    cudaError_t wrong = pretended_forbid_on(call, stream);
    if (!wrong)
        wrong = pretended_forbid(call);
    if (!wrong)
        pretended_note(call);
    return wrong;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) { return wait_for("cudaStreamSynchronize", stream); }

cudaError_t cudaStreamQuery(cudaStream_t stream) { return wait_for("cudaStreamQuery", stream); }

cudaError_t cudaDeviceSynchronize(void) {
    HOLD_LOCK;
    cudaError_t wrong = cudaSuccess;
    for (int index = 0; index < capture_count; index++)
        wrong = invalidate(captures[index], "cudaDeviceSynchronize", cudaErrorStreamCaptureUnsupported);
    if (!wrong)
        pretended_note("cudaDeviceSynchronize");
    return wrong;
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *data) {
    if (!pretended_is_captured(stream))
        function(data);
    return pretended_launch(CALL, "cudaLaunchHostFunc", stream);
}

cudaError_t cudaStreamAddCallback(cudaStream_t stream, cudaStreamCallback_t callback, void *data, unsigned flags) {
    cudaError_t wrong = pretended_forbid_on("cudaStreamAddCallback", stream);
    if (!wrong)
        callback(stream, cudaSuccess, data);
    return wrong;
}

// --- events

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) {
    pretended_note("cudaEventCreate");
    *event = (cudaEvent_t)calloc(1, sizeof(Event));
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *event) { return cudaEventCreateWithFlags(event, 0); }

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    free(event);
    return cudaSuccess;
}

cudaError_t cudaEventRecordWithFlags(cudaEvent_t handle, cudaStream_t stream_handle, unsigned flags) {
    HOLD_LOCK;
    Event *event = (Event *)handle;
    Stream *stream = stream_of(stream_handle);
    Capture *capture = stream->capture;
    pretended_note("cudaEventRecord");
    if (capture && capture->invalidated)
        return pretended_fail(cudaErrorStreamCaptureInvalidated);
    *event = (Event){.recorded = true, .capture = capture ? capture->id : 0, .stream = stream, .work = stream->work};
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    return cudaEventRecordWithFlags(event, stream, cudaEventRecordDefault);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream_handle, cudaEvent_t handle, unsigned flags) {
    HOLD_LOCK;
    Event *event = (Event *)handle;
    Stream *stream = stream_of(stream_handle);
    Capture *theirs = event->capture ? find_capture(event->capture) : NULL, *ours = stream->capture;
    pretended_note("cudaStreamWaitEvent");
    if ((theirs && theirs->invalidated) || (ours && ours->invalidated))
        return pretended_fail(cudaErrorStreamCaptureInvalidated);
    if (!theirs) // a captured stream may not wait for work that is not captured
        return ours && event->recorded ? invalidate(ours, "cudaStreamWaitEvent", cudaErrorStreamCaptureIsolation)
                                       : cudaSuccess;
    if (stream == &default_stream)
        return invalidate(theirs, "cudaStreamWaitEvent", cudaErrorStreamCaptureImplicit);
    if (ours && ours != theirs) {
        invalidate(ours, "cudaStreamWaitEvent", cudaErrorStreamCaptureMerge);
        return invalidate(theirs, "cudaStreamWaitEvent", cudaErrorStreamCaptureMerge);
    }
    if (!ours)
        join(theirs, stream, true);
    else if (event->stream != stream && event->work == event->stream->work)
        event->stream->unjoined = false;
    return cudaSuccess;
}

static cudaError_t ask_event(const char *call, cudaEvent_t handle) {
    HOLD_LOCK;
    Capture *capture = find_capture(((Event *)handle)->capture);
    if (capture)
        return invalidate(capture, call, cudaErrorCapturedEvent);
    cudaError_t wrong = pretended_forbid(call);
    if (!wrong)
        pretended_note(call);
    return wrong;
}

cudaError_t cudaEventQuery(cudaEvent_t event) { return ask_event("cudaEventQuery", event); }

cudaError_t cudaEventSynchronize(cudaEvent_t event) { return ask_event("cudaEventSynchronize", event); }

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t start, cudaEvent_t end) {
    *milliseconds = 1;
    return cudaSuccess;
}

// --- graphs

cudaError_t cudaGraphGetNodes(cudaGraph_t handle, cudaGraphNode_t *nodes, size_t *count) {
    Graph *graph = (Graph *)handle;
    for (size_t index = 0; nodes && index < *count && index < (size_t)graph->count; index++)
        nodes[index] = (cudaGraphNode_t)(graph->names + index);
    *count = graph->count;
    return cudaSuccess;
}

cudaError_t cudaGraphNodeGetDependencies(cudaGraphNode_t node, cudaGraphNode_t *dependencies, cudaGraphEdgeData *edges,
                                         size_t *count) {
    *count = 0;
    return cudaSuccess;
}

// A graph is its own executable, and stays: it is counted at the end.
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *executable, cudaGraph_t graph, unsigned long long flags) {
    if (!graph)
        return pretended_fail(cudaErrorInvalidValue);
    *executable = (cudaGraphExec_t)graph;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *executable, cudaGraph_t graph, unsigned long long flags) {
    return cudaGraphInstantiateWithFlags(executable, graph, flags);
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return cudaSuccess; }

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) { return cudaSuccess; }

// A replay takes no time, or $PRETENDED_GPU_MICROSECONDS: enough for a test to kill a run in its midst.
static void take_time(void) {
    const char *microseconds = getenv("PRETENDED_GPU_MICROSECONDS");
    if (microseconds)
        usleep(atoi(microseconds));
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
    HOLD_LOCK;
    Graph *graph = (Graph *)executable;
    if (!graph)
        return pretended_fail(cudaErrorInvalidValue);
    if (pretended_is_captured(stream))
        return pretended_launch(KERNEL, "a graph within a graph", stream);
    take_time();
    graph->launches++;
    pretended_log("launched\t%ld", graph->count);
    return cudaSuccess;
}

// --- for Python, by ctypes

const char *pretended_name_text(int name);
int pretended_name_kind(int name);

// Write one line a graph, "graph LAUNCHES NODES", and one a node of it, "node KIND NAME".
int pretended_write_graphs(const char *path) {
    HOLD_LOCK;
    FILE *file = fopen(path, "w");
    if (!file)
        return -1;
    for (int index = 0; index < graph_count; index++) {
        Graph *graph = graphs[index];
        fprintf(file, "graph\t%ld\t%ld\n", graph->launches, graph->count);
        for (long node = 0; node < graph->count; node++)
            fprintf(file, "node\t%d\t%s\n", pretended_name_kind(graph->names[node]),
                    pretended_name_text(graph->names[node]));
    }
    return fclose(file);
}

// --- errors

static const struct {
    cudaError_t error;
    const char *name, *text;
} errors[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorNoKernelImageForDevice, "cudaErrorNoKernelImageForDevice",
     "no kernel image is available for execution on the device"},
    {cudaErrorIllegalState, "cudaErrorIllegalState", "the operation cannot be performed in the present state"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
    {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported",
     "operation not permitted when stream is capturing"},
    {cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated",
     "operation failed due to a previous error during capture"},
    {cudaErrorStreamCaptureMerge, "cudaErrorStreamCaptureMerge",
     "operation would result in a merge of separate capture sequences"},
    {cudaErrorStreamCaptureUnmatched, "cudaErrorStreamCaptureUnmatched", "capture was not ended in the same stream"},
    {cudaErrorStreamCaptureUnjoined, "cudaErrorStreamCaptureUnjoined", "capturing stream has unjoined work"},
    {cudaErrorStreamCaptureIsolation, "cudaErrorStreamCaptureIsolation",
     "dependency created on uncaptured work in another stream"},
    {cudaErrorStreamCaptureImplicit, "cudaErrorStreamCaptureImplicit",
     "operation would make the legacy stream depend on a capturing blocking stream"},
    {cudaErrorCapturedEvent, "cudaErrorCapturedEvent",
     "operation not permitted on an event last recorded in a capture"},
    {cudaErrorStreamCaptureWrongThread, "cudaErrorStreamCaptureWrongThread",
     "attempt to terminate a thread-local capture sequence from another thread"},
};

const char *cudaGetErrorName(cudaError_t error) {
    for (size_t index = 0; index < sizeof errors / sizeof *errors; index++)
        if (errors[index].error == error)
            return errors[index].name;
    return "an error of the pretended GPU";
}

const char *cudaGetErrorString(cudaError_t error) {
    for (size_t index = 0; index < sizeof errors / sizeof *errors; index++)
        if (errors[index].error == error)
            return errors[index].text;
    return "an error of the pretended GPU";
}

cudaError_t cudaGetLastError(void) {
    cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}

cudaError_t cudaPeekAtLastError(void) { return last_error; }
