/* SPDX-License-Identifier: Apache-2.0
 * libspillway: Spillway's tasks inside your own program, without a server. C11 and C++17; link with -lspillway.
 *
 *     #include <spillway.h>
 *
 *     spillway_error err = { 0 };
 *     spillway_options options = spillway_options_default();
 *     options.model_repository = "var/models";
 *
 *     spillway *model;
 *     if (spillway_open(&options, &model, &err) != SPILLWAY_OK) {
 *         fprintf(stderr, "%s\n", err.message);
 *         return 1;
 *     }
 *     spillway_class best[5];
 *     int32_t count;
 *     if (spillway_classify(model, bytes, byte_count, NULL, best, 5, &count, NULL, &err) == SPILLWAY_OK)
 *         for (int32_t i = 0; i < count; i++)
 *             printf("%.1f %%  %s\n", 100 * best[i].probability, best[i].label);
 *     spillway_close(model);
 *
 * It is the same code that a worker of `spillway serve` runs, so the answers are the same. What it does not have is what
 * processes give: no fallback to another link, no sandbox around the decoders. A file that kills a decoder kills your
 * program; for bytes from strangers put a server beside it.
 *
 * Rules that hold for every call:
 *   - A call returns a spillway_status; results (`ret_...`) are written only with SPILLWAY_OK. The error may be NULL.
 *   - Handles are opaque and yours until spillway_close. Buffers you pass are borrowed for the call. Texts that a call
 *     hands out live as long as the handle that they came from.
 *   - Threads: one handle may be used from any number of threads at once; as many calls as options.lanes run at the same
 *     time, others wait their turn. Only spillway_close must be the last and only one.
 *   - The library reads no terminal, prints nothing, starts no process, and changes no signal. It opens decoders
 *     (libspillway_media.so) and engines (libspillway_engine_*.so) with dlopen: from beside libspillway.so, from
 *     spillway/ below that, or from SPILLWAY_PLUGINS (directories, colon-separated) when that is set.
 *   - Structs may grow at their end; `struct_bytes` tells the library what you were compiled with. */
#ifndef SPILLWAY_H
#define SPILLWAY_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define SPILLWAY_API __attribute__((visibility("default")))
#define SPILLWAY_MUST_USE __attribute__((warn_unused_result))
#else
#define SPILLWAY_API
#define SPILLWAY_MUST_USE
#endif

/* Of this header. spillway_version() is the library's. */
#define SPILLWAY_VERSION_MAJOR 0
#define SPILLWAY_VERSION_MINOR 1

/* The names and numbers are those of the server's API (docs/status.md). */
typedef int32_t spillway_status;
enum {
    SPILLWAY_OK = 0,
    SPILLWAY_INVALID = 1,      /* your bytes or arguments: not an image, damaged, a shape the model cannot take */
    SPILLWAY_TOO_LARGE = 2,    /* beyond a limit; decided from the header, before anything was allocated */
    SPILLWAY_NOT_FOUND = 3,    /* no such repository or model */
    SPILLWAY_UNSUPPORTED = 6,  /* a library or device that it takes is not here, or the model has no such task */
    SPILLWAY_NOMEM = 7,
    SPILLWAY_UNAVAILABLE = 11, /* the device is gone; only a new process helps */
    SPILLWAY_CORRUPT = 13,     /* the model file is damaged, or its numbers are not finite */
    SPILLWAY_INTERNAL = 14     /* a mistake of ours or of a library below */
};

typedef struct spillway_error {
    spillway_status status;
    int32_t origin_code; /* the number that the library below gave; 0 = none */
    char origin[16];     /* that library: "libjpeg", "onnxruntime"; "" = Spillway itself */
    char code[32];       /* a short stable word for programs: "truncated", "unknown_format"; "" = none */
    char message[256];   /* for people, NUL-terminated */
} spillway_error;

typedef struct spillway spillway; /* one loaded model */

typedef struct spillway_options {
    size_t struct_bytes;          /* sizeof(spillway_options); the default maker sets it */
    const char *model_repository; /* directory: NAME/<version>/model.onnx. NULL = $SPILLWAY_MODELS */
    const char *model;            /* a name in it; NULL = its only or alphabetically first one */
    const char *provider;         /* "cpu", "cuda", "tensorrt"; NULL = "cpu". Never silently replaced by another */
    int32_t device_index;         /* of that provider */
    int32_t threads;              /* that compute one call; 0 = as many as the machine (cgroup included) grants */
    int32_t lanes;                /* calls that run at once; each has its own buffers; 0 = 1 */
    int32_t tensors_only;         /* 1: only spillway_infer will be used, so the model need not be a classifier */
} spillway_options;

SPILLWAY_API spillway_options spillway_options_default(void);

/* Finds and loads a model and runs it once. Takes from tens of milliseconds to seconds.
 * NOT_FOUND: no repository or model; INVALID: an option, or the model's spillway.json (the message names the key);
 * UNSUPPORTED: engine or provider is not here (`spillway doctor` says why); CORRUPT: the model file. */
SPILLWAY_MUST_USE SPILLWAY_API spillway_status spillway_open(const spillway_options *options, spillway **ret_handle,
                                                             spillway_error *reterr);

/* Gives everything back. NULL is fine. No call may be in flight. Decoders and engines stay loaded for the next open. */
SPILLWAY_API void spillway_close(spillway *handle);

/* ---- classify: a picture in, its classes out ------------------------------------------------------------------ */

typedef struct spillway_class {
    uint32_t class_id;
    float probability;
    const char *label; /* UTF-8; "" when the model has no labels; until close */
} spillway_class;

typedef struct spillway_classify_options {
    size_t struct_bytes;
    uint64_t max_pixels; /* refuse larger pictures; 0 = the library's limit (64 megapixels) */
    int32_t decode_fast; /* 1: JPEGs may be decoded at reduced size. Faster, but the pixels and so the probabilities
                          * differ slightly from a full decode */
} spillway_classify_options;

/* Where the time of one call went, ns. */
typedef struct spillway_timing {
    int64_t decode_ns, preprocess_ns, inference_ns, postprocess_ns, total_ns; /* total has the wait for a lane too */
} spillway_timing;

/* The most probable classes of a picture file in memory (JPEG, PNG, WebP, GIF, BMP, TIFF), best first, equal ones by
 * class id. Oriented by EXIF, pre-processed as the model's spillway.json says.
 * `options` NULL = defaults. At most `capacity` classes are written (and never more than 100), *ret_count says how many.
 * `ret_timing` may be NULL.
 * INVALID: not an image (code "unknown_format") or damaged (the message says where); TOO_LARGE; UNSUPPORTED: opened with
 * tensors_only, or no decoder for it is here; NOMEM; CORRUPT, INTERNAL: the model. */
SPILLWAY_MUST_USE SPILLWAY_API spillway_status spillway_classify(spillway *handle, const void *bytes, size_t byte_count,
                                                                 const spillway_classify_options *options,
                                                                 spillway_class *ret_classes, int32_t capacity,
                                                                 int32_t *ret_count, spillway_timing *ret_timing,
                                                                 spillway_error *reterr);

/* ---- infer: plain tensors in and out -------------------------------------------------------------------------- */

#define SPILLWAY_MAX_RANK 8

/* ONNX's numbers. */
typedef int32_t spillway_dtype;
enum {
    SPILLWAY_F32 = 1,
    SPILLWAY_U8 = 2,
    SPILLWAY_I8 = 3,
    SPILLWAY_U16 = 4,
    SPILLWAY_I16 = 5,
    SPILLWAY_I32 = 6,
    SPILLWAY_I64 = 7,
    SPILLWAY_BOOL = 9,
    SPILLWAY_F16 = 10,
    SPILLWAY_F64 = 11,
    SPILLWAY_U32 = 12,
    SPILLWAY_U64 = 13,
    SPILLWAY_BF16 = 16
};

/* Host memory, row-major, packed. */
typedef struct spillway_tensor {
    void *data; /* an input is only read */
    size_t size_bytes;
    spillway_dtype dtype;
    int32_t rank;
    int64_t dims[SPILLWAY_MAX_RANK];
} spillway_tensor;

/* Runs the model once. Inputs and outputs are complete and in the order of spillway_input / spillway_output; every
 * dimension and every buffer is yours.
 * INVALID: count, type, shape or size do not fit the model (nothing ran); NOMEM; UNAVAILABLE; INTERNAL. */
SPILLWAY_MUST_USE SPILLWAY_API spillway_status spillway_infer(spillway *handle, const spillway_tensor *inputs,
                                                              int32_t input_count, spillway_tensor *outputs,
                                                              int32_t output_count, spillway_error *reterr);

/* ---- what was opened ------------------------------------------------------------------------------------------- */

/* One input or output of the model. */
typedef struct spillway_port {
    const char *name;     /* until close */
    spillway_dtype dtype; /* 0: a type that spillway_infer does not carry (strings) */
    int32_t rank;
    int64_t dims[SPILLWAY_MAX_RANK]; /* -1: yours to choose (batch, time) */
} spillway_port;

/* Texts until close. */
typedef struct spillway_model_info {
    const char *name;      /* "efficientnet-lite0" */
    const char *version;   /* "1" */
    const char *digest;    /* SHA-256 of the model file, hex */
    const char *precision; /* "fp32" */
    const char *engine;    /* "onnxruntime" */
    const char *provider;  /* "cpu" */
    uint32_t class_count;  /* 0 when it was opened with tensors_only */
    int32_t input_count, output_count;
} spillway_model_info;

SPILLWAY_API void spillway_describe(const spillway *handle, spillway_model_info *ret_info);
/* INVALID: no such index. */
SPILLWAY_MUST_USE SPILLWAY_API spillway_status spillway_input(const spillway *handle, int32_t index, spillway_port *ret_port);
SPILLWAY_MUST_USE SPILLWAY_API spillway_status spillway_output(const spillway *handle, int32_t index,
                                                               spillway_port *ret_port);

/* "0.1.0", of the library that was loaded. */
SPILLWAY_API const char *spillway_version(void);

/* "ok", "invalid", "too_large" ... Never NULL. */
SPILLWAY_API const char *spillway_status_name(spillway_status status);

#ifdef __cplusplus
}
#endif

#endif
