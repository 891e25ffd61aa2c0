/* SPDX-License-Identifier: Apache-2.0
 * See schema.h. */
#include "model/schema.h"

#include "base/attr.h"
#include "base/nearest.h"
#include "model/config.h"

#include <string.h>

#define NAME_BYTES SP_LIMIT_SERVED_NAME_BYTES
#define KEPT_BYTES 4096 /* of a text that is only kept */
#define KEPT_MOST  64   /* elements of a list that is only kept */

/* A field of one value, a list, a map; KEPT: not acted on. */
#define ONE(n, k)         { .name = (n), .kind = (k) }
#define TEXT(n, bytes)    { .name = (n), .kind = SP_FIELD_TEXT, .most_bytes = (bytes) }
#define WORD(n, w)        { .name = (n), .kind = SP_FIELD_ENUM, .words = (w) }
#define SUB(n, m)         { .name = (n), .kind = SP_FIELD_MESSAGE, .message = &(m) }
#define CHOICE(n, m, c)   { .name = (n), .kind = SP_FIELD_MESSAGE, .message = &(m), .choice = (c) }
#define LIST(n, k, count) { .name = (n), .kind = (k), .shape = SP_FIELD_LIST, .most = (count) }
#define LIST_OF(n, m, count) \
    { .name = (n), .kind = SP_FIELD_MESSAGE, .shape = SP_FIELD_LIST, .message = &(m), .most = (count) }
#define MAP_OF(n, m, count, bytes) \
    { .name = (n), .kind = SP_FIELD_MESSAGE, .shape = SP_FIELD_MAP, .message = &(m), .most = (count), .most_bytes = (bytes) }
#define MAP_TEXT(n, count, bytes) \
    { .name = (n), .kind = SP_FIELD_TEXT, .shape = SP_FIELD_MAP, .most = (count), .most_bytes = (bytes) }
#define KEPT_ONE(n, k)   { .name = (n), .kind = (k), .kept = true }
#define KEPT_TEXT(n)     { .name = (n), .kind = SP_FIELD_TEXT, .most_bytes = KEPT_BYTES, .kept = true }
#define KEPT_WORD(n, w)  { .name = (n), .kind = SP_FIELD_ENUM, .words = (w), .kept = true }
#define KEPT_SUB(n, m)   { .name = (n), .kind = SP_FIELD_MESSAGE, .message = &(m), .kept = true }
#define KEPT_LIST(n, k) \
    { .name = (n), .kind = (k), .shape = SP_FIELD_LIST, .most = KEPT_MOST, .most_bytes = KEPT_BYTES, .kept = true }
#define KEPT_LIST_OF(n, m) \
    { .name = (n), .kind = SP_FIELD_MESSAGE, .shape = SP_FIELD_LIST, .message = &(m), .most = KEPT_MOST, .kept = true }
#define KEPT_MAP_OF(n, m)                                                                                        \
    { .name = (n), .kind = SP_FIELD_MESSAGE, .shape = SP_FIELD_MAP, .message = &(m), .most = KEPT_MOST, \
      .most_bytes = KEPT_BYTES, .kept = true }
#define KEPT_MAP_TEXT(n)                                                                               \
    { .name = (n), .kind = SP_FIELD_TEXT, .shape = SP_FIELD_MAP, .most = KEPT_MOST, .most_bytes = KEPT_BYTES, \
      .kept = true }
#define END { .name = NULL }
#define MESSAGE(id, text, ...)                               \
    static const sp_field id##_fields[] = { __VA_ARGS__, END }; \
    static const sp_message id = { text, id##_fields }

static const char *const data_types[] = {
    "TYPE_INVALID", "TYPE_BOOL",  "TYPE_UINT8", "TYPE_UINT16", "TYPE_UINT32", "TYPE_UINT64", "TYPE_INT8", "TYPE_INT16",
    "TYPE_INT32",   "TYPE_INT64", "TYPE_FP16",  "TYPE_FP32",   "TYPE_FP64",   "TYPE_STRING", "TYPE_BF16", NULL,
};
static const char *const formats[] = { "FORMAT_NONE", "FORMAT_NHWC", "FORMAT_NCHW", NULL };
static const char *const instance_kinds[] = { "KIND_AUTO", "KIND_GPU", "KIND_CPU", "KIND_MODEL", NULL };
static const char *const secondary_kinds[] = { "KIND_NVDLA", NULL };
static const char *const batch_input_kinds[] = {
    "BATCH_ELEMENT_COUNT",
    "BATCH_ACCUMULATED_ELEMENT_COUNT",
    "BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO",
    "BATCH_MAX_ELEMENT_COUNT_AS_SHAPE",
    "BATCH_ITEM_SHAPE",
    "BATCH_ITEM_SHAPE_FLATTEN",
    NULL,
};
static const char *const batch_output_kinds[] = { "BATCH_SCATTER_WITH_INPUT_SHAPE", NULL };
static const char *const model_priorities[] = { "PRIORITY_DEFAULT", "PRIORITY_MAX", "PRIORITY_MIN", NULL };
static const char *const timeout_actions[] = { "REJECT", "DELAY", NULL };
static const char *const control_kinds[] = {
    "CONTROL_SEQUENCE_START", "CONTROL_SEQUENCE_READY", "CONTROL_SEQUENCE_END", "CONTROL_SEQUENCE_CORRID", NULL,
};

MESSAGE(reshape, "ModelTensorReshape", LIST("shape", SP_FIELD_INT64, SP_INFER_RANK));
MESSAGE(input, "ModelInput", TEXT("name", NAME_BYTES), WORD("data_type", data_types), WORD("format", formats),
        LIST("dims", SP_FIELD_INT64, SP_INFER_RANK), SUB("reshape", reshape), ONE("is_shape_tensor", SP_FIELD_BOOL),
        ONE("allow_ragged_batch", SP_FIELD_BOOL), ONE("optional", SP_FIELD_BOOL),
        KEPT_ONE("is_non_linear_format_io", SP_FIELD_BOOL));
MESSAGE(output, "ModelOutput", TEXT("name", NAME_BYTES), WORD("data_type", data_types),
        LIST("dims", SP_FIELD_INT64, SP_INFER_RANK), SUB("reshape", reshape), TEXT("label_filename", NAME_BYTES),
        ONE("is_shape_tensor", SP_FIELD_BOOL), KEPT_ONE("is_non_linear_format_io", SP_FIELD_BOOL));
MESSAGE(batch_input, "BatchInput", WORD("kind", batch_input_kinds), KEPT_LIST("target_name", SP_FIELD_TEXT),
        WORD("data_type", data_types), KEPT_LIST("source_input", SP_FIELD_TEXT));
MESSAGE(batch_output, "BatchOutput", KEPT_LIST("target_name", SP_FIELD_TEXT), WORD("kind", batch_output_kinds),
        KEPT_LIST("source_input", SP_FIELD_TEXT));

MESSAGE(resource, "ModelRateLimiter.Resource", TEXT("name", 64), ONE("global", SP_FIELD_BOOL), ONE("count", SP_FIELD_UINT32));
MESSAGE(rate_limiter, "ModelRateLimiter", LIST_OF("resources", resource, 4), ONE("priority", SP_FIELD_UINT32));
MESSAGE(secondary, "ModelInstanceGroup.SecondaryDevice", WORD("kind", secondary_kinds), ONE("device_id", SP_FIELD_INT64));
MESSAGE(instance_group, "ModelInstanceGroup", TEXT("name", 64), WORD("kind", instance_kinds), ONE("count", SP_FIELD_INT32),
        SUB("rate_limiter", rate_limiter), LIST("gpus", SP_FIELD_INT32, 8), KEPT_LIST_OF("secondary_devices", secondary),
        KEPT_LIST("profile", SP_FIELD_TEXT), ONE("passive", SP_FIELD_BOOL), KEPT_TEXT("host_policy"));

MESSAGE(latest, "ModelVersionPolicy.Latest", ONE("num_versions", SP_FIELD_UINT32));
static const sp_field no_fields[] = { END };
static const sp_message all = { "ModelVersionPolicy.All", no_fields };
MESSAGE(specific, "ModelVersionPolicy.Specific", LIST("versions", SP_FIELD_INT64, SP_LIMIT_SERVED_VERSIONS));
MESSAGE(version_policy, "ModelVersionPolicy", CHOICE("latest", latest, 1), CHOICE("all", all, 1),
        CHOICE("specific", specific, 1));

MESSAGE(graph, "ModelOptimizationPolicy.Graph", ONE("level", SP_FIELD_INT32));
MESSAGE(spec_shape, "ModelOptimizationPolicy.Cuda.GraphSpec.Shape", KEPT_LIST("dim", SP_FIELD_INT64));
MESSAGE(lower_bound, "ModelOptimizationPolicy.Cuda.GraphSpec.LowerBound", ONE("batch_size", SP_FIELD_INT32),
        KEPT_MAP_OF("input", spec_shape));
MESSAGE(graph_spec, "ModelOptimizationPolicy.Cuda.GraphSpec", ONE("batch_size", SP_FIELD_INT32),
        KEPT_MAP_OF("input", spec_shape), KEPT_SUB("graph_lower_bound", lower_bound));
MESSAGE(cuda, "ModelOptimizationPolicy.Cuda", ONE("graphs", SP_FIELD_BOOL), ONE("busy_wait_events", SP_FIELD_BOOL),
        KEPT_LIST_OF("graph_spec", graph_spec), ONE("output_copy_stream", SP_FIELD_BOOL));
/* Names and precision are acted on; all of it is kept, since `parameters` may hold anything. */
MESSAGE(accelerator, "ModelOptimizationPolicy.ExecutionAccelerators.Accelerator", TEXT("name", 32), KEPT_MAP_TEXT("parameters"));
MESSAGE(accelerators, "ModelOptimizationPolicy.ExecutionAccelerators", KEPT_LIST_OF("gpu_execution_accelerator", accelerator),
        KEPT_LIST_OF("cpu_execution_accelerator", accelerator));
MESSAGE(pinned, "ModelOptimizationPolicy.PinnedMemoryBuffer", ONE("enable", SP_FIELD_BOOL));
MESSAGE(optimization, "ModelOptimizationPolicy", SUB("graph", graph), KEPT_WORD("priority", model_priorities),
        KEPT_SUB("cuda", cuda), KEPT_SUB("execution_accelerators", accelerators), KEPT_SUB("input_pinned_memory", pinned),
        KEPT_SUB("output_pinned_memory", pinned), KEPT_ONE("gather_kernel_buffer_threshold", SP_FIELD_UINT32),
        KEPT_ONE("eager_batching", SP_FIELD_BOOL));

MESSAGE(queue_policy, "ModelQueuePolicy", WORD("timeout_action", timeout_actions),
        ONE("default_timeout_microseconds", SP_FIELD_UINT64), ONE("allow_timeout_override", SP_FIELD_BOOL),
        ONE("max_queue_size", SP_FIELD_UINT32));
static const sp_field dynamic_batching_fields[] = {
    LIST("preferred_batch_size", SP_FIELD_INT32, SP_LIMIT_PREFERRED_SIZES),
    ONE("max_queue_delay_microseconds", SP_FIELD_UINT64),
    ONE("preserve_ordering", SP_FIELD_BOOL),
    ONE("priority_levels", SP_FIELD_UINT64),
    ONE("default_priority_level", SP_FIELD_UINT64),
    SUB("default_queue_policy", queue_policy),
    { .name = "priority_queue_policy", .kind = SP_FIELD_MESSAGE, .shape = SP_FIELD_MAP, .message = &queue_policy,
      .number_keys = true, .most = SP_LIMIT_PRIORITY_LEVELS, .most_bytes = 24 },
    END,
};
static const sp_message dynamic_batching = { "ModelDynamicBatching", dynamic_batching_fields };

MESSAGE(control, "ModelSequenceBatching.Control", WORD("kind", control_kinds), LIST("int32_false_true", SP_FIELD_INT32, 2),
        LIST("fp32_false_true", SP_FIELD_FLOAT, 2), LIST("bool_false_true", SP_FIELD_BOOL, 2), WORD("data_type", data_types));
MESSAGE(control_input, "ModelSequenceBatching.ControlInput", TEXT("name", NAME_BYTES),
        LIST_OF("control", control, SP_LIMIT_SEQUENCE_CONTROLS));
static const sp_field initial_state_fields[] = {
    WORD("data_type", data_types), KEPT_LIST("dims", SP_FIELD_INT64),
    { .name = "zero_data", .kind = SP_FIELD_BOOL, .choice = 1 },
    { .name = "data_file", .kind = SP_FIELD_TEXT, .most_bytes = KEPT_BYTES, .choice = 1 },
    KEPT_TEXT("name"), END,
};
static const sp_message initial_state = { "ModelSequenceBatching.InitialState", initial_state_fields };
MESSAGE(state, "ModelSequenceBatching.State", TEXT("input_name", NAME_BYTES), TEXT("output_name", NAME_BYTES),
        WORD("data_type", data_types), LIST("dims", SP_FIELD_INT64, SP_INFER_RANK), KEPT_LIST_OF("initial_state", initial_state),
        KEPT_ONE("use_same_buffer_for_input_output", SP_FIELD_BOOL), KEPT_ONE("use_growable_memory", SP_FIELD_BOOL));
MESSAGE(direct, "ModelSequenceBatching.StrategyDirect", ONE("max_queue_delay_microseconds", SP_FIELD_UINT64),
        ONE("minimum_slot_utilization", SP_FIELD_FLOAT));
MESSAGE(oldest, "ModelSequenceBatching.StrategyOldest", ONE("max_candidate_sequences", SP_FIELD_INT32),
        LIST("preferred_batch_size", SP_FIELD_INT32, SP_LIMIT_PREFERRED_SIZES),
        ONE("max_queue_delay_microseconds", SP_FIELD_UINT64), KEPT_ONE("preserve_ordering", SP_FIELD_BOOL));
MESSAGE(sequence_batching, "ModelSequenceBatching", CHOICE("direct", direct, 1), CHOICE("oldest", oldest, 1),
        ONE("max_sequence_idle_microseconds", SP_FIELD_UINT64), LIST_OF("control_input", control_input, SP_LIMIT_SEQUENCE_CONTROLS),
        LIST_OF("state", state, SP_LIMIT_SEQUENCE_STATES), KEPT_ONE("iterative_sequence", SP_FIELD_BOOL));

MESSAGE(step, "ModelEnsembling.Step", TEXT("model_name", NAME_BYTES), ONE("model_version", SP_FIELD_INT64),
        MAP_TEXT("input_map", SP_INFER_PORTS, NAME_BYTES), MAP_TEXT("output_map", SP_INFER_PORTS, NAME_BYTES),
        KEPT_TEXT("model_namespace"));
MESSAGE(ensembling, "ModelEnsembling", LIST_OF("step", step, SP_LIMIT_ENSEMBLE_STEPS),
        KEPT_ONE("max_inflight_requests", SP_FIELD_UINT32));

MESSAGE(parameter, "ModelParameter", TEXT("string_value", sizeof(((sp_model_parameter *)0)->value)));
static const sp_field warmup_input_fields[] = {
    WORD("data_type", data_types), LIST("dims", SP_FIELD_INT64, SP_INFER_RANK),
    { .name = "zero_data", .kind = SP_FIELD_BOOL, .choice = 1 },
    { .name = "random_data", .kind = SP_FIELD_BOOL, .choice = 1 },
    { .name = "input_data_file", .kind = SP_FIELD_TEXT, .most_bytes = NAME_BYTES, .choice = 1 }, END,
};
static const sp_message warmup_input = { "ModelWarmup.Input", warmup_input_fields };
MESSAGE(warmup, "ModelWarmup", TEXT("name", 64), ONE("batch_size", SP_FIELD_UINT32), MAP_OF("inputs", warmup_input, 8, NAME_BYTES),
        ONE("count", SP_FIELD_UINT32));

MESSAGE(operations, "ModelOperations", KEPT_LIST("op_library_filename", SP_FIELD_TEXT));
MESSAGE(transaction, "ModelTransactionPolicy", ONE("decoupled", SP_FIELD_BOOL));
MESSAGE(agent, "ModelRepositoryAgents.Agent", KEPT_TEXT("name"), KEPT_MAP_TEXT("parameters"));
MESSAGE(agents, "ModelRepositoryAgents", KEPT_LIST_OF("agents", agent));
MESSAGE(response_cache, "ModelResponseCache", ONE("enable", SP_FIELD_BOOL));
MESSAGE(metric_identifier, "ModelMetrics.MetricControl.MetricIdentifier", KEPT_TEXT("family"));
MESSAGE(histogram, "ModelMetrics.MetricControl.HistogramOptions", KEPT_LIST("buckets", SP_FIELD_FLOAT));
MESSAGE(metric_control, "ModelMetrics.MetricControl", KEPT_SUB("metric_identifier", metric_identifier),
        CHOICE("histogram_options", histogram, 1));
MESSAGE(metrics, "ModelMetrics", KEPT_LIST_OF("metric_control", metric_control));

static const sp_field model_config_fields[] = {
    TEXT("name", NAME_BYTES),
    TEXT("platform", 32),
    TEXT("backend", 32),
    KEPT_TEXT("runtime"),
    SUB("version_policy", version_policy),
    ONE("max_batch_size", SP_FIELD_INT32),
    LIST_OF("input", input, SP_INFER_PORTS),
    LIST_OF("output", output, SP_INFER_PORTS),
    KEPT_LIST_OF("batch_input", batch_input),
    KEPT_LIST_OF("batch_output", batch_output),
    SUB("optimization", optimization),
    CHOICE("dynamic_batching", dynamic_batching, 1),
    CHOICE("sequence_batching", sequence_batching, 1),
    CHOICE("ensemble_scheduling", ensembling, 1),
    LIST_OF("instance_group", instance_group, SP_LIMIT_INSTANCE_GROUPS),
    TEXT("default_model_filename", NAME_BYTES),
    KEPT_MAP_TEXT("cc_model_filenames"),
    KEPT_MAP_TEXT("metric_tags"),
    MAP_OF("parameters", parameter, SP_LIMIT_MODEL_PARAMETERS, sizeof(((sp_model_parameter *)0)->key)),
    LIST_OF("model_warmup", warmup, SP_LIMIT_WARMUPS),
    KEPT_SUB("model_operations", operations),
    SUB("model_transaction_policy", transaction),
    KEPT_SUB("model_repository_agents", agents),
    SUB("response_cache", response_cache),
    KEPT_SUB("model_metrics", metrics),
    END,
};
const sp_message sp_schema_model_config = { "ModelConfig", model_config_fields };

const sp_field *sp_field_find(const sp_message *message, const char *name)
{
    for (const sp_field *field = message->fields; field->name; field++) {
        if (!strcmp(field->name, name))
            return field;
    }
    return NULL;
}

const char *sp_field_nearest(const sp_message *message, const char *name)
{
    const char *names[40];
    int count = 0;

    for (const sp_field *field = message->fields; field->name && count < (int)SP_ARRAY_LEN(names); field++)
        names[count++] = field->name;
    return sp_nearest(name, names, count);
}

int sp_word_find(const sp_field *field, const char *word)
{
    for (int i = 0; field->words[i]; i++) {
        if (!strcmp(field->words[i], word))
            return i;
    }
    return -1;
}

int sp_word_count(const sp_field *field)
{
    int count = 0;
    while (field->words[count])
        count++;
    return count;
}
