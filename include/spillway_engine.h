/* SPDX-License-Identifier: Apache-2.0
 * The engine plug-in ABI: what a library that runs models offers to Spillway. C and C++; includes nothing of Spillway.
 *
 * A plug-in is libspillway_engine_<name>.so with one exported symbol:
 *
 *     const sp_engine_api *sp_engine_api_get(uint32_t host_abi);   // NULL: the host is too old or too new for it
 *
 * Life of a model:   load -> describe -> run ... run -> unload.   One process may hold many.
 * Rules that hold for every call:
 *   - Results in `ret_...` are written only when the call returns SP_ENGINE_OK; `reterr` may be NULL.
 *   - Buffers are the caller's. In steady state (same lane, same shapes, same addresses as the run before) a plug-in
 *     allocates nothing of its own; what the library behind it does is that library's business.
 *   - No call keeps a pointer past its return, except run's buffers, which it may remember to compare with the next run's
 *     (never to read or write).
 *   - Structs grow at their end only, and begin with their size where the host allocates them for the plug-in to read;
 *     a plug-in treats fields beyond the size it is given as zero. Anything else is a new SP_ENGINE_ABI. */
#ifndef SPILLWAY_ENGINE_H
#define SPILLWAY_ENGINE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SP_ENGINE_ABI 1u
#define SP_ENGINE_SYMBOL "sp_engine_api_get"
#define SP_ENGINE_MAX_RANK 8
#define SP_ENGINE_MAX_PORTS 64 /* inputs or outputs of one model */
#define SP_ENGINE_MAX_PROVIDERS 8

/* What went wrong, as the router acts on it. The numbers are Spillway's statuses (docs/status.md); those that no engine
 * has a use for are left out. */
typedef int32_t sp_engine_status;
enum {
    SP_ENGINE_OK = 0,
    SP_ENGINE_INVALID = 1,      /* the host asked wrongly: shapes, names, options */
    SP_ENGINE_TOO_LARGE = 2,    /* a file or tensor beyond the engine's own bound */
    SP_ENGINE_NOT_FOUND = 3,    /* no such file */
    SP_ENGINE_UNSUPPORTED = 6,  /* this engine or provider cannot; another may */
    SP_ENGINE_NOMEM = 7,        /* host or device memory: a smaller batch may fit */
    SP_ENGINE_UNAVAILABLE = 11, /* the device is gone (sticky error): only a new process helps */
    SP_ENGINE_CANCELLED = 12,   /* cancel() was called */
    SP_ENGINE_CORRUPT = 13,     /* the model file is damaged, or no model at all */
    SP_ENGINE_INTERNAL = 14     /* the library failed in a way that none of the above says */
};

typedef struct sp_engine_error {
    int32_t origin_code; /* the library's own number */
    char origin[16];     /* the library: "onnxruntime" */
    char message[256];   /* NUL-terminated */
} sp_engine_error;

/* ONNX's numbers (TensorProto.DataType). A string tensor's data is its elements one behind the other, each 4 bytes of
 * length (little endian) and so many bytes, which may be any; size_bytes is all of it, to the byte. */
typedef enum sp_engine_dtype {
    SP_ENGINE_F32 = 1,
    SP_ENGINE_U8 = 2,
    SP_ENGINE_I8 = 3,
    SP_ENGINE_U16 = 4,
    SP_ENGINE_I16 = 5,
    SP_ENGINE_I32 = 6,
    SP_ENGINE_I64 = 7,
    SP_ENGINE_STRING = 8,
    SP_ENGINE_BOOL = 9,
    SP_ENGINE_F16 = 10,
    SP_ENGINE_F64 = 11,
    SP_ENGINE_U32 = 12,
    SP_ENGINE_U64 = 13,
    SP_ENGINE_BF16 = 16
} sp_engine_dtype;

typedef enum sp_engine_memory_kind {
    SP_ENGINE_HOST = 0, /* pageable host memory */
    SP_ENGINE_CUDA = 1  /* memory of CUDA device `device_index`; the host may not touch it */
} sp_engine_memory_kind;

#define SP_ENGINE_ABSENT (-1) /* as a rank: this input is not given; this output is not wanted, and may not be computed */

/* One tensor for one run: row-major, packed. */
typedef struct sp_engine_tensor {
    void *data;           /* an input is not written; NULL is fine for one without elements */
    uint64_t size_bytes;  /* of the buffer: at least what dtype and dims need */
    int32_t dtype;        /* sp_engine_dtype */
    int32_t memory;       /* sp_engine_memory_kind */
    int32_t device_index; /* 0 for the host */
    int32_t rank;         /* 0 .. SP_ENGINE_MAX_RANK, or SP_ENGINE_ABSENT */
    int64_t dims[SP_ENGINE_MAX_RANK];
} sp_engine_tensor;

/* One input or output of a model. */
typedef struct sp_engine_port {
    const char *name; /* the model's, until unload */
    int32_t dtype;    /* 0: something that does not cross this ABI (sequences, maps, optionals, complex numbers) */
    int32_t rank;     /* 0 also where the model does not say: then any rank may be tried */
    int64_t dims[SP_ENGINE_MAX_RANK]; /* -1: any size, by the caller's choice (batch, time) */
} sp_engine_port;

typedef struct sp_engine_ports {
    int32_t input_count, output_count;
    const sp_engine_port *inputs, *outputs; /* the model's, until unload */
} sp_engine_ports;

/* One execution provider, as probe() found it on this machine. */
typedef struct sp_engine_provider {
    char name[16];        /* "cpu", "cuda", "tensorrt" */
    int32_t present;      /* 1: a load with this provider has a chance */
    int32_t device_count; /* 0 when not present */
    char version[64];     /* driver and runtime where they can be told, else "" */
    char reason[256];     /* why it is not present: "libcudnn.so.9 is missing"; "" when it is */
    char remedy[128];     /* what a person can do about it; "" when nothing */
} sp_engine_provider;

typedef struct sp_engine_probe_result {
    char engine[16];   /* "onnxruntime" */
    char version[32];  /* the library's: "1.31.1" */
    char library[256]; /* the file that was loaded */
    int32_t provider_count;
    sp_engine_provider providers[SP_ENGINE_MAX_PROVIDERS];
} sp_engine_probe_result;

typedef struct sp_engine_model sp_engine_model; /* the plug-in's */

/* What only some engines have a use for. Keys in use ("" and missing are the same; unknown keys are ignored):
 *   precision         "bf16", "f16": compute in it where the device can; "f32" (the default): do not
 *   host_nodes        "refuse": a model of which a device's provider would leave nodes to the CPU is not loaded (onnxruntime)
 *   conv_search       "exhaustive": try each algorithm for each convolution and shape, which takes long (cuda); else a guess
 *   cache_directory   where what is built for a device is kept for the next load (tensorrt)
 *   trt_fp16, trt_int8 "1": may be used where faster; workspace_bytes: of a build at most (tensorrt)
 *   model_config      the model's configuration as JSON, in Triton's form (python)
 *   model_name, model_version, model_repository, instance_name    as a TritonPythonModel is told them (python) */
typedef struct sp_engine_option {
    const char *key, *value;
} sp_engine_option;

/* Flags of a load, for devices; a provider that has no use for one passes it over. */
enum {
    /* A run whose inputs and outputs (those that are wanted) all lie on the device returns when its work is enqueued on compute_stream: what it reads
     * and writes stays as it is until the stream has passed it. Every other run is over when it returns, as always. */
    SP_ENGINE_ORDERED = 1u << 0,
    /* A run whose tensors all lie on the device, with the addresses and shapes of one before, is replayed as one graph of the
     * device's. The first of its kind captures it and takes longer; report() says how many there are. Runs go to a thread of
     * the plug-in's own, since a graph belongs to the thread that captured it. A model that cannot be captured (nodes on the
     * CPU) is loaded without. */
    SP_ENGINE_GRAPHS = 1u << 1
};

typedef struct sp_engine_load_options {
    uint32_t struct_bytes; /* sizeof(sp_engine_load_options) as the host knows it */
    int32_t device_index;  /* of the provider; 0 for cpu */
    const char *provider;  /* one of probe()'s: "cpu" | "cuda" | "tensorrt"; NULL = "cpu". Never replaced by another */
    const char *path;      /* the model file; or NULL and */
    const void *bytes;     /* the model in memory, which need not outlive load() */
    uint64_t byte_count;
    int32_t threads;      /* host threads that compute one run, the caller's included; 1 = the caller's alone; 0 = the
                           * library's choice (it does not know cgroup limits) */
    int32_t lanes;        /* runs that may be in flight at once, numbered 0 .. lanes - 1; 0 = 1 */
    int32_t optimisation; /* 0 none, 1 basic, 2 extended, 3 all; the host's default is 3 */
    int32_t spin;         /* 1: idle compute threads of a run spin for work; 0: they sleep, which costs a wake-up per
                           * operator and leaves the cores to others */
    uint64_t device_memory_limit_bytes; /* of the provider's arena; 0 = none. The cpu provider has no such bound */
    const sp_engine_option *options;    /* needed until load() returns */
    int32_t option_count;
    /* Since the first hosts with CUDA (struct_bytes tells): */
    uint32_t flags;
    void *compute_stream; /* a cudaStream_t of the device, which outlives the model: its runs are enqueued there, in the order of
                           * the calls, one at a time whatever the lane. NULL = the library's own */
} sp_engine_load_options;

/* Where a loaded model's nodes are, found out in its first runs. */
typedef struct sp_engine_report {
    uint32_t struct_bytes;   /* sizeof(sp_engine_report) as the host knows it: set by the caller; fields beyond are not written */
    int32_t run_count;       /* that were watched; 0 = nothing is known yet */
    int32_t node_count;      /* of the graph as it runs, after fusions */
    int32_t host_node_count; /* of them on the CPU, where the provider is a device */
    double host_share;       /* 0 .. 1: of the last watched run's time */
    int32_t graph_count;     /* captured (SP_ENGINE_GRAPHS) */
    char host_nodes[192];    /* operators and how often: "Shape 3, NonMaxSuppression 1"; cut when too long */
} sp_engine_report;

typedef struct sp_engine_memory {
    uint64_t host_bytes;   /* an estimate: what loading added to the process, weights at least */
    uint64_t device_bytes; /* on the provider's device; 0 for cpu. By how much its free memory has fallen since the load began, the
                            * file's size at least: ask right after the first runs, others' memory is in it too */
} sp_engine_memory;

typedef struct sp_engine_api {
    uint32_t abi;          /* SP_ENGINE_ABI */
    uint32_t struct_bytes; /* sizeof(sp_engine_api) of the plug-in: entries beyond it are NULL */
    const char *name;      /* "onnxruntime" */

    /* Loads the library if need be and says which providers this machine has, and of each other one why not. A missing
     * library is SP_ENGINE_UNSUPPORTED with its file name in the message. Any thread, not concurrently with load. */
    sp_engine_status (*probe)(sp_engine_probe_result *ret_result, sp_engine_error *reterr);

    /* Loads one model for one provider. May take seconds. Several loads may run at once on different threads.
     * CORRUPT: not a model or damaged; NOT_FOUND: no file; UNSUPPORTED: provider not present, or an operator it lacks;
     * NOMEM; INVALID: options. */
    sp_engine_status (*load)(const sp_engine_load_options *options, sp_engine_model **ret_model, sp_engine_error *reterr);

    /* What goes in and comes out. Cannot fail; constant until unload. Any thread. */
    void (*describe)(const sp_engine_model *model, sp_engine_ports *ret_ports);

    /* Runs once, synchronously. `inputs` and `outputs` are in describe()'s order and complete; every dimension is given.
     * An output whose data is NULL is left in memory of the plug-in: data, size_bytes, rank and dims are set, valid
     * until the next run of this lane (for outputs whose size only the run knows; an empty one may stay NULL). Strings
     * are always left. INVALID: a shape that the model cannot take, a buffer that is too small, a string tensor whose
     * lengths do not add up, an input that is absent and that the model needs; then nothing ran. UNSUPPORTED: a port
     * without a dtype that is not absent.
     * One call at a time per lane; different lanes of one model at once, from different threads. */
    sp_engine_status (*run)(sp_engine_model *model, int32_t lane, const sp_engine_tensor *inputs, int32_t input_count,
                            sp_engine_tensor *outputs, int32_t output_count, sp_engine_error *reterr);

    void (*unload)(sp_engine_model *model); /* no run may be in flight, in a stream neither; NULL is fine */

    /* Gives the library back, when every model is unloaded. The plug-in may be used again afterwards. */
    void (*close)(void);

    /* Optional entries: NULL when the library cannot. */

    /* What the model occupies. */
    sp_engine_status (*memory)(const sp_engine_model *model, sp_engine_memory *ret_memory, sp_engine_error *reterr);

    /* Asks the run that is in flight on `lane` to end soon with SP_ENGINE_CANCELLED (at the next operator). A run that
     * starts later is not touched. Any thread. NULL: runs cannot be interrupted, the host waits or kills the process. */
    void (*cancel)(sp_engine_model *model, int32_t lane);

    /* Says of how many requests the lane's next run is joined, and how many rows (of the first dimension of every input and
     * output) each has, in order. For engines whose models see requests apart; the next run forgets it. Without it, and
     * from an engine that has no such entry, a batch is one. */
    void (*divide)(sp_engine_model *model, int32_t lane, const int64_t *rows, int32_t count);

    /* Where the nodes of a model on a device are. Any thread; not while load() runs. Zeros for a model on the CPU. */
    sp_engine_status (*report)(const sp_engine_model *model, sp_engine_report *ret_report, sp_engine_error *reterr);
} sp_engine_api;

typedef const sp_engine_api *sp_engine_api_get_fn(uint32_t host_abi);

#ifdef __cplusplus
}
#endif

#endif
