/* SPDX-License-Identifier: Apache-2.0
 * What of nvJPEG is used here, declared by ourselves: decoding one picture, as of the 64-bit interface of CUDA 12 and 13. The
 * library comes with the CUDA toolkit and is found at run time (nvjpeg.c); nothing of NVIDIA's is needed to build. Names are ours,
 * layouts and numbers are theirs. */
#ifndef SP_MEDIA_NVJPEG_API_H
#define SP_MEDIA_NVJPEG_API_H

#include <stddef.h>
#include <stdint.h>

/* What its calls return. */
enum {
    NVJ_DONE = 0,
    NVJ_NOT_INITIALIZED = 1,
    NVJ_INVALID_PARAMETER = 2,
    NVJ_BAD_JPEG = 3,
    NVJ_NOT_SUPPORTED = 4,
    NVJ_NO_MEMORY = 5,
    NVJ_EXECUTION_FAILED = 6,
    NVJ_ARCH_MISMATCH = 7,
    NVJ_INTERNAL = 8,
    NVJ_NOT_IMPLEMENTED = 9,
    NVJ_INCOMPLETE = 10,
};

enum { NVJ_OUTPUT_RGB_INTERLEAVED = 5 };
enum { NVJ_MAJOR = 0, NVJ_MINOR = 1, NVJ_PATCH = 2 };
enum { NVJ_COMPONENTS = 4 };

typedef struct nvj_handle_opaque *nvj_handle;
typedef struct nvj_state_opaque *nvj_state;

typedef struct nvj_image {
    uint8_t *channel[NVJ_COMPONENTS]; /* on the device; interleaved output is all in the first */
    size_t pitch[NVJ_COMPONENTS];     /* bytes from row to row */
} nvj_image;

_Static_assert(sizeof(void *) != 8 || sizeof(nvj_image) == 64, "layout of the 64-bit interface");

#endif
