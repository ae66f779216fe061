// Graphs: what a stream was handed while it captured, handed to it again at each launch.
#include "emulator.h"

using namespace emulator;

namespace {

using Works = std::vector<std::function<void()>>;

// Whoever launches it keeps it until it is done.
struct Graph {
    std::shared_ptr<const Works> works;
};

} // namespace

#undef cuStreamBeginCapture
EXPORT CUresult cuStreamBeginCapture_v2(CUstream stream, CUstreamCaptureMode)
{
    called(__func__);
    NEEDS_A_WELL_DEVICE
    if (!current->told("captures", 1) || stream_of(stream).is_capturing())
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    stream_of(stream).begin_capture();
    return CUDA_SUCCESS;
}

EXPORT CUresult cuStreamEndCapture(CUstream stream, CUgraph *graph)
{
    called(__func__);
    if (!stream_of(stream).is_capturing())
        return CUDA_ERROR_ILLEGAL_STATE;
    *graph = nullptr;
    std::shared_ptr<const Works> works = stream_of(stream).end_capture();
    if (!works)
        return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    *graph = reinterpret_cast<CUgraph>(new Graph{works});
    return state();
}

EXPORT CUresult cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus *status)
{
    called(__func__);
    *status = stream_of(stream).is_capturing() ? CU_STREAM_CAPTURE_STATUS_ACTIVE : CU_STREAM_CAPTURE_STATUS_NONE;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuGraphInstantiateWithFlags(CUgraphExec *made, CUgraph graph, unsigned long long flags)
{
    called(__func__);
    NEEDS_A_WELL_DEVICE
    if (flags)
        return CUDA_ERROR_INVALID_VALUE;
    if (long code = current->told("instantiates", 0))
        return static_cast<CUresult>(code);
    *made = reinterpret_cast<CUgraphExec>(new Graph(*reinterpret_cast<Graph *>(graph)));
    return CUDA_SUCCESS;
}

EXPORT CUresult cuGraphUpload(CUgraphExec, CUstream stream)
{
    called(__func__);
    NEEDS_A_WELL_DEVICE
    stream_of(stream).must_not_capture("an upload");
    return CUDA_SUCCESS;
}

EXPORT CUresult cuGraphLaunch(CUgraphExec graph, CUstream stream)
{
    called(__func__);
    NEEDS_A_WELL_DEVICE
    stream_of(stream).must_not_capture("a launch");
    auto works = reinterpret_cast<Graph *>(graph)->works;
    for (size_t index = 0; index < works->size(); index++)
        stream_of(stream).push([works, index] { (*works)[index](); });
    return CUDA_SUCCESS;
}

EXPORT CUresult cuGraphDestroy(CUgraph graph)
{
    called(__func__);
    delete reinterpret_cast<Graph *>(graph);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuGraphExecDestroy(CUgraphExec graph)
{
    called(__func__);
    delete reinterpret_cast<Graph *>(graph);
    return CUDA_SUCCESS;
}
