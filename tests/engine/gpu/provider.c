/* SPDX-License-Identifier: Apache-2.0
 * Passes for a provider's library of ONNX Runtime's. Like the real one of 1.31.1 it does not survive being opened by anybody but
 * ONNX Runtime, which first tells it where it is: that library's constructors crash, this one's says why. */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

int cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes);

/* So that it is linked: which CUDA a provider wants is read from its file. */
__attribute__((visibility("default"))) int (*const spillway_standin_wants)(size_t *, size_t *) = cudaMemGetInfo;

__attribute__((constructor)) static void opened(void)
{
    fputs("stand-in: a provider was opened, and not by ONNX Runtime; the real one crashes\n", stderr);
    abort();
}
