/* SPDX-License-Identifier: Apache-2.0
 * The one place where the CUDA runtime's codes become ours. */
#include "kernels/cuda/device.h"

/* Errors after which the context answers nothing else. */
static bool stays(cudaError_t error)
{
    switch (error) {
    case cudaErrorECCUncorrectable:
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
    case cudaErrorContained:
    case cudaErrorCudartUnloading:
        return true;
    default:
        return false;
    }
}

static sp_status classify(cudaError_t error, const char **ret_code)
{
    *ret_code = "";
    if (stays(error)) {
        *ret_code = "sticky";
        return SP_UNAVAILABLE;
    }
    switch (error) {
    case cudaErrorMemoryAllocation:
        *ret_code = "oom";
        return SP_NOMEM;
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorUnsupportedPtxVersion:
    case cudaErrorInvalidKernelImage:
    case cudaErrorJitCompilationDisabled:
        *ret_code = "no_code";
        return SP_UNSUPPORTED;
    case cudaErrorInsufficientDriver:
    case cudaErrorCallRequiresNewerDriver:
    case cudaErrorSystemDriverMismatch:
    case cudaErrorCompatNotSupportedOnDevice:
        *ret_code = "mismatch";
        return SP_UNSUPPORTED;
    case cudaErrorNoDevice:
        *ret_code = "no_gpu";
        return SP_UNSUPPORTED;
    case cudaErrorNotSupported:
    case cudaErrorNotPermitted:
    case cudaErrorLaunchOutOfResources: /* this kernel on this device: it stays well, another way does the work */
        return SP_UNSUPPORTED;
    case cudaErrorInvalidValue:
    case cudaErrorInvalidConfiguration:
    case cudaErrorInvalidMemcpyDirection:
    case cudaErrorInvalidDevice:
    case cudaErrorInvalidDeviceFunction:
    case cudaErrorInvalidResourceHandle:
    case cudaErrorHostMemoryAlreadyRegistered:
    case cudaErrorHostMemoryNotRegistered:
    case cudaErrorStreamCaptureUnsupported:
    case cudaErrorStreamCaptureInvalidated:
    case cudaErrorStreamCaptureUnmatched:
    case cudaErrorStreamCaptureUnjoined:
    case cudaErrorStreamCaptureIsolation:
    case cudaErrorStreamCaptureWrongThread:
    case cudaErrorCapturedEvent:
        return SP_INTERNAL;
    default:
        return SP_UNAVAILABLE;
    }
}

sp_status sp_cuda_check(cudaError_t error, const char *what, sp_error *reterr)
{
    if (error == cudaSuccess)
        return SP_OK;
    const char *code;
    sp_status s = classify(error, &code);
    (void)cudaGetLastError(); /* else the next launch of this thread would report it again */
    return sp_error_set(reterr, s, code, "cuda", (int)error, __FILE__, __LINE__, "%s: %s (%s, %d)", what, cudaGetErrorString(error),
                        cudaGetErrorName(error), (int)error);
}
