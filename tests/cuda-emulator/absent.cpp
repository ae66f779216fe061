// A driver that finds no GPU, with the functions that NVIDIA's own cuDNN looks for when its parts are loaded: without them it does not even plan for a GPU that it is only told of.
#define FINDS_NONE(name)                                                                                               \
    extern "C" __attribute__((visibility("default"))) int name()                                                       \
    {                                                                                                                  \
        constexpr int NO_DEVICE = 100;                                                                                 \
        return NO_DEVICE;                                                                                              \
    }

FINDS_NONE(cuCtxGetDevice)
FINDS_NONE(cuCtxGetLimit)
FINDS_NONE(cuCtxPopCurrent)
FINDS_NONE(cuCtxPushCurrent)
FINDS_NONE(cuDeviceGet)
FINDS_NONE(cuDeviceGetAttribute)
FINDS_NONE(cuDevicePrimaryCtxRelease)
FINDS_NONE(cuDevicePrimaryCtxReset)
FINDS_NONE(cuDevicePrimaryCtxRetain)
FINDS_NONE(cuDriverGetVersion)
FINDS_NONE(cuFuncGetAttribute)
FINDS_NONE(cuFuncSetAttribute)
FINDS_NONE(cuGetErrorName)
FINDS_NONE(cuGetErrorString)
FINDS_NONE(cuInit)
FINDS_NONE(cuLaunchKernel)
FINDS_NONE(cuLaunchKernelEx)
FINDS_NONE(cuLinkAddData_v2)
FINDS_NONE(cuLinkAddFile_v2)
FINDS_NONE(cuLinkComplete)
FINDS_NONE(cuLinkCreate_v2)
FINDS_NONE(cuLinkDestroy)
FINDS_NONE(cuMemcpyDtoH_v2)
FINDS_NONE(cuModuleGetFunction)
FINDS_NONE(cuModuleGetGlobal_v2)
FINDS_NONE(cuModuleLoadData)
FINDS_NONE(cuModuleLoadDataEx)
FINDS_NONE(cuModuleLoadFatBinary)
FINDS_NONE(cuModuleUnload)
FINDS_NONE(cuOccupancyMaxActiveBlocksPerMultiprocessor)
FINDS_NONE(cuStreamSynchronize)
FINDS_NONE(cuTensorMapEncodeIm2col)
FINDS_NONE(cuTensorMapEncodeTiled)
