/* SPDX-License-Identifier: Apache-2.0
 * A served model's configuration: Triton's config.pbtxt (protobuf text format) as one plain struct, filled up by what the
 * model file says of itself, and written back as the JSON that GET /v2/models/M/config answers.
 *
 *   parse     text -> sp_model_config. An unknown or wrong field is an error: file, line, field, and the nearest known name.
 *   override  JSON of a load request's `config` parameter -> the same struct, with the same errors.
 *   complete  what is missing (or all) is taken from the model's ports, as Triton's auto-complete does.
 *   check     what the fields say together: shapes against max_batch_size, names of ensemble steps, sequence controls.
 *   write     JSON in Triton's form; read back by sp_model_config_read, which is how it crosses process boundaries.
 *
 * Fields that Triton knows and this server does not act on are kept and shown (docs/triton.md lists them); those that it
 * cannot serve (backend: "tensorflow", decoupled transactions ...) are refused by check with what to do instead.
 * Source of names, defaults and meaning: Triton's model_config.proto and docs/user_guide/model_configuration.md. */
#ifndef SP_MODEL_CONFIG_H
#define SP_MODEL_CONFIG_H

#include "base/buf.h"
#include "base/status.h"
#include "base/view.h"
#include "model/infer.h"

#define SP_LIMIT_SERVED_NAME_BYTES 128   /* a model's name, a tensor's name */
#define SP_LIMIT_SERVED_VERSIONS   16    /* of one model at once */
#define SP_LIMIT_MODEL_CONFIG_BYTES (1024u * 1024) /* of config.pbtxt */
#define SP_LIMIT_ENSEMBLE_STEPS    32
#define SP_LIMIT_PRIORITY_LEVELS   16
#define SP_LIMIT_PREFERRED_SIZES   16
#define SP_LIMIT_INSTANCE_GROUPS   8
#define SP_LIMIT_MODEL_PARAMETERS  64
#define SP_LIMIT_WARMUPS           8
#define SP_LIMIT_SEQUENCE_CONTROLS 16
#define SP_LIMIT_SEQUENCE_STATES   16

typedef struct sp_model_port {
    char name[SP_LIMIT_SERVED_NAME_BYTES];
    uint8_t dtype; /* ONNX's number; 8 = TYPE_STRING; 0 = not given */
    uint8_t rank;  /* without the batch dimension, where max_batch_size > 0 */
    bool has_dims, has_reshape;
    bool optional, is_shape_tensor, allow_ragged;
    uint8_t reshape_rank;
    int64_t dims[SP_INFER_RANK];    /* -1 = any */
    int64_t reshape[SP_INFER_RANK]; /* what the model itself takes or gives */
    char format[16];                /* "FORMAT_NCHW", "" = FORMAT_NONE */
    char label_filename[SP_LIMIT_SERVED_NAME_BYTES]; /* outputs */
} sp_model_port;

typedef enum sp_timeout_action { SP_TIMEOUT_REJECT, SP_TIMEOUT_DELAY } sp_timeout_action;
typedef struct sp_queue_policy {
    sp_timeout_action timeout_action;
    uint64_t default_timeout_us; /* 0 = none */
    bool allow_timeout_override;
    uint32_t max_queue_size;     /* 0 = unlimited */
} sp_queue_policy;

typedef struct sp_batching_config {
    bool on; /* the section is there */
    int preferred_count;
    int32_t preferred[SP_LIMIT_PREFERRED_SIZES];
    uint64_t max_queue_delay_us;
    bool preserve_ordering;
    uint32_t priority_levels, default_priority_level; /* 0 = no levels */
    sp_queue_policy default_policy;
    sp_queue_policy priority_policy[SP_LIMIT_PRIORITY_LEVELS]; /* [level - 1]; those not given equal default_policy */
} sp_batching_config;

typedef enum sp_instance_kind { SP_INSTANCE_AUTO, SP_INSTANCE_GPU, SP_INSTANCE_CPU, SP_INSTANCE_MODEL } sp_instance_kind;
typedef struct sp_instance_group {
    char name[64];
    sp_instance_kind kind;
    int32_t count; /* 0 = not given */
    int gpu_count;
    int32_t gpus[8];
    bool passive;
    /* rate_limiter */
    int resource_count;
    struct {
        char name[64];
        bool global;
        uint32_t count;
    } resources[4];
    uint32_t rate_priority;
} sp_instance_group;

typedef enum sp_version_policy { SP_VERSIONS_LATEST, SP_VERSIONS_ALL, SP_VERSIONS_SPECIFIC } sp_version_policy;

typedef struct sp_ensemble_map {
    char key[SP_LIMIT_SERVED_NAME_BYTES];   /* the step's model's tensor */
    char value[SP_LIMIT_SERVED_NAME_BYTES]; /* the ensemble's */
} sp_ensemble_map;
typedef struct sp_ensemble_step {
    char model[SP_LIMIT_SERVED_NAME_BYTES]; /* also "spillway/preprocess", "spillway/postprocess" */
    int64_t version;                        /* -1 = latest */
    int input_count, output_count;
    sp_ensemble_map *inputs, *outputs;
} sp_ensemble_step;

typedef enum sp_control_tensor { SP_CONTROL_START, SP_CONTROL_READY_TENSOR, SP_CONTROL_END, SP_CONTROL_CORRID } sp_control_tensor;
typedef struct sp_sequence_control {
    char name[SP_LIMIT_SERVED_NAME_BYTES];
    sp_control_tensor kind;
    uint8_t dtype;            /* of the tensor */
    double no_value, yes_value; /* int32_false_true, fp32_false_true or bool_false_true */
} sp_sequence_control;
typedef struct sp_sequence_state {
    char input[SP_LIMIT_SERVED_NAME_BYTES], output[SP_LIMIT_SERVED_NAME_BYTES];
    uint8_t dtype, rank;
    int64_t dims[SP_INFER_RANK];
} sp_sequence_state;
typedef enum sp_sequence_strategy { SP_SEQUENCE_NONE, SP_SEQUENCE_DIRECT, SP_SEQUENCE_OLDEST } sp_sequence_strategy;
typedef struct sp_sequence_config {
    sp_sequence_strategy strategy;
    uint64_t max_idle_us; /* default 1 s */
    int control_count, state_count;
    sp_sequence_control controls[SP_LIMIT_SEQUENCE_CONTROLS];
    sp_sequence_state states[SP_LIMIT_SEQUENCE_STATES]; /* implicit state */
    uint64_t direct_max_queue_delay_us;
    double direct_minimum_slot_utilization;
    int32_t oldest_max_candidates;
    int oldest_preferred_count;
    int32_t oldest_preferred[SP_LIMIT_PREFERRED_SIZES];
    uint64_t oldest_max_queue_delay_us;
} sp_sequence_config;

typedef struct sp_warmup_input {
    char name[SP_LIMIT_SERVED_NAME_BYTES];
    uint8_t dtype, rank;
    int64_t dims[SP_INFER_RANK]; /* without the batch dimension */
    enum { SP_WARMUP_ZERO, SP_WARMUP_RANDOM, SP_WARMUP_FILE } source;
    char file[SP_LIMIT_SERVED_NAME_BYTES]; /* under <model>/warmup/ */
} sp_warmup_input;
typedef struct sp_warmup {
    char name[64];
    uint32_t batch_size, count;
    int input_count;
    sp_warmup_input inputs[8];
} sp_warmup;

typedef struct sp_model_parameter {
    char key[64], value[256];
} sp_model_parameter;

typedef struct sp_model_config {
    char name[SP_LIMIT_SERVED_NAME_BYTES];
    char platform[32]; /* "onnxruntime_onnx", "ensemble", "" */
    char backend[32];  /* "onnxruntime", "openvino", "python", "identity", "" */
    char default_model_filename[SP_LIMIT_SERVED_NAME_BYTES]; /* "model.onnx" */
    int32_t max_batch_size; /* 0 = the model has no batch dimension; -1 = not given */
    int input_count, output_count;
    sp_model_port inputs[SP_INFER_PORTS], outputs[SP_INFER_PORTS];
    sp_batching_config batching;
    int group_count;
    sp_instance_group groups[SP_LIMIT_INSTANCE_GROUPS];
    sp_version_policy version_policy;
    uint32_t latest_count; /* default 1 */
    int specific_count;
    int64_t specific[SP_LIMIT_SERVED_VERSIONS];
    bool is_ensemble;
    int step_count;
    sp_ensemble_step steps[SP_LIMIT_ENSEMBLE_STEPS];
    sp_sequence_config sequence;
    int warmup_count;
    sp_warmup warmups[SP_LIMIT_WARMUPS];
    bool response_cache;
    bool decoupled;
    int32_t graph_level;       /* optimization.graph.level: -1, 0, 1, 2; 99 = not given */
    char accelerators[4][32];  /* execution_accelerators: "tensorrt", "openvino" ... */
    int accelerator_count;
    char precision[16];        /* of the accelerator's parameters: "FP16", "INT8"; "" = not given */
    int parameter_count;
    sp_model_parameter parameters[SP_LIMIT_MODEL_PARAMETERS];
    char *kept; /* fields that are known, shown and not acted on: JSON members ",\"optimization\":{...}"; NULL = none */
} sp_model_config;

void sp_model_config_init(sp_model_config *config); /* nothing given */
void sp_model_config_done(sp_model_config *config);

/* config.pbtxt. `file` is for messages. SP_INVALID: "simple/config.pbtxt:12: max_batch: unknown field; did you mean
 * max_batch_size?"; SP_TOO_LARGE; SP_NOMEM. On failure *ret_config is empty (done is fine). */
sp_status sp_model_config_parse(const char *file, sp_view text, sp_model_config *ret_config, sp_error *reterr);

/* Triton's JSON form (also what sp_model_config_write made). */
sp_status sp_model_config_read(const char *what, sp_view json, sp_model_config *ret_config, sp_error *reterr);
void sp_model_config_write(const sp_model_config *config, sp_buf *out);

/* What the loaded file says: ports in the file's own shapes. Fills what config does not give; for max_batch_size -1 decides
 * it as Triton does (all first dimensions open: 4 with dynamic batching, else 0). Checks what is given against the ports.
 * Ensembles and python models have no file: ports NULL. */
typedef struct sp_file_port {
    char name[SP_LIMIT_SERVED_NAME_BYTES];
    uint8_t dtype, rank;
    int64_t dims[SP_INFER_RANK];
} sp_file_port;
typedef struct sp_file_ports {
    int input_count, output_count;
    sp_file_port inputs[SP_INFER_PORTS], outputs[SP_INFER_PORTS];
} sp_file_ports;
sp_status sp_model_config_complete(sp_model_config *config, const char *file, const sp_file_ports *ports, sp_error *reterr);
sp_status sp_model_config_check(const sp_model_config *config, const char *file, sp_error *reterr);

/* Triton's words for types. "FP32" <-> 1, "BYTES" <-> 8; config.pbtxt's "TYPE_FP32", "TYPE_STRING". 0 / NULL = unknown. */
int sp_dtype_of_kserve(sp_view name);
const char *sp_dtype_kserve(int dtype);
size_t sp_dtype_bytes(int dtype); /* of an element; 0 for BYTES */

#endif
