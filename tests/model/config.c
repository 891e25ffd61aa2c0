/* SPDX-License-Identifier: Apache-2.0
 * config.pbtxt and its JSON form: what is read, what is refused and in which words, what completion fills in. */
#include "test.h"

#include "base/buf.h"
#include "model/config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static sp_model_config config;
static sp_error err;

static sp_status parse(const char *text)
{
    memset(&err, 0, sizeof(err));
    sp_model_config_done(&config);
    return sp_model_config_parse("m/config.pbtxt", sp_view_of(text), &config, &err);
}

static sp_status judge(const char *text, const sp_file_ports *ports)
{
    sp_status status = parse(text);
    if (!status)
        status = sp_model_config_complete(&config, "m/config.pbtxt", ports, &err);
    return status ? status : sp_model_config_check(&config, "m/config.pbtxt", &err);
}

static char *written(void)
{
    sp_buf out;
    sp_buf_init(&out, 1024 * 1024);
    sp_model_config_write(&config, &out);
    CHECK(sp_buf_ok(&out));
    return sp_buf_take(&out, NULL);
}

static void refuses(const char *text, const char *message)
{
    sp_status status = judge(text, NULL);
    CHECK(status == SP_INVALID);
    CHECK_TEXT(err.message, message);
}

#define SIMPLE_PORTS \
    "input [ { name: 'A' data_type: TYPE_INT32 dims: [ 16 ] } ]\noutput [ { name: 'B' data_type: TYPE_INT32 dims: [ 16 ] } ]\n"

TEST(reads_the_quick_start_model)
{
    REQUIRE(judge("name: \"simple\"\nplatform: \"onnxruntime_onnx\"\nmax_batch_size: 8\n"
                  "input [\n {\n name: \"INPUT0\"\n data_type: TYPE_INT32\n dims: [ 16 ]\n },\n"
                  " {\n name: \"INPUT1\"\n data_type: TYPE_INT32\n dims: [ 16 ]\n }\n]\n"
                  "output [ { name: \"OUTPUT0\" data_type: TYPE_INT32 dims: [ 16 ] } ]\n", NULL) == SP_OK);
    CHECK_TEXT(config.name, "simple");
    CHECK_TEXT(config.backend, "onnxruntime");
    CHECK_TEXT(config.default_model_filename, "model.onnx");
    CHECK_INT(config.max_batch_size, 8);
    CHECK_INT(config.input_count, 2);
    CHECK_TEXT(config.inputs[1].name, "INPUT1");
    CHECK_INT(config.inputs[1].dtype, 6);
    CHECK_INT(config.inputs[1].rank, 1);
    CHECK_INT(config.inputs[1].dims[0], 16);
    CHECK(!config.batching.on);
    CHECK_INT(config.group_count, 1);
    CHECK_INT(config.groups[0].count, 1);
}

TEST(writes_what_triton_answers)
{
    REQUIRE(judge("name: 'simple' platform: 'onnxruntime_onnx' max_batch_size: 8\n" SIMPLE_PORTS
                  "instance_group { kind: KIND_CPU host_policy: 'p' } optimization { eager_batching: true }", NULL) == SP_OK);
    char *text = written();
    CHECK_TEXT(text,
               "{\"name\":\"simple\",\"platform\":\"onnxruntime_onnx\",\"backend\":\"onnxruntime\",\"runtime\":\"\","
               "\"version_policy\":{\"latest\":{\"num_versions\":1}},\"max_batch_size\":8,"
               "\"input\":[{\"name\":\"A\",\"data_type\":\"TYPE_INT32\",\"format\":\"FORMAT_NONE\",\"dims\":[16],"
               "\"is_shape_tensor\":false,\"allow_ragged_batch\":false,\"optional\":false,\"is_non_linear_format_io\":false}],"
               "\"output\":[{\"name\":\"B\",\"data_type\":\"TYPE_INT32\",\"dims\":[16],\"label_filename\":\"\","
               "\"is_shape_tensor\":false,\"is_non_linear_format_io\":false}],\"batch_input\":[],\"batch_output\":[],"
               "\"optimization\":{\"priority\":\"PRIORITY_DEFAULT\",\"gather_kernel_buffer_threshold\":0,\"eager_batching\":true},"
               "\"instance_group\":[{\"name\":\"simple_0\",\"kind\":\"KIND_CPU\",\"count\":1,\"gpus\":[],\"secondary_devices\":[],"
               "\"profile\":[],\"passive\":false,\"host_policy\":\"p\"}],\"default_model_filename\":\"model.onnx\","
               "\"cc_model_filenames\":{},\"metric_tags\":{},\"parameters\":{},\"model_warmup\":[]}");
    free(text);
}

TEST(reads_all_that_text_format_allows)
{
    REQUIRE(parse("# a remark\nname: \"a\" 'b'  # put together\n  \"\\x63\\144\\n\\u00e9\\\\\";"
                  "input < name: \"x\" data_type: 11 dims: 0x10 dims: -1 optional: t >, output: [{name: 'y'}]\n"
                  "parameters { value: { string_value: \"v\" } key: \"k\" } parameters [ { key: \"k\" value { string_value: \"w\" } } ]\n"
                  "sequence_batching { direct { minimum_slot_utilization: .5f } } version_policy: { all { }}") == SP_OK);
    CHECK_TEXT(config.name, "abcd\n\xC3\xA9\\");
    CHECK_INT(config.inputs[0].dtype, 1);
    CHECK_INT(config.inputs[0].rank, 2);
    CHECK_INT(config.inputs[0].dims[0], 16);
    CHECK_INT(config.inputs[0].dims[1], -1);
    CHECK(config.inputs[0].optional);
    CHECK_INT(config.output_count, 1);
    CHECK_INT(config.parameter_count, 1);
    CHECK_TEXT(config.parameters[0].value, "w");
    CHECK(config.sequence.direct_minimum_slot_utilization == 0.5);
    CHECK(config.version_policy == SP_VERSIONS_ALL);
}

TEST(errors_name_file_line_and_field)
{
    refuses("name: 'm'\n\nmax_batch: 3\n", "m/config.pbtxt:3: max_batch: unknown field; did you mean max_batch_size?");
    refuses("input [ { name: 'a' }, {\n dim: [ 1 ] } ]", "m/config.pbtxt:2: input[1].dim: unknown field; did you mean dims?");
    refuses("instance_group {\n kind: KIND_CUP }", "m/config.pbtxt:2: instance_group.kind: unknown value KIND_CUP; did you mean KIND_CPU?");
    refuses("max_batch_size: 'x'", "m/config.pbtxt:1: max_batch_size: expected a whole number, found 'x'");
    refuses("max_batch_size: 3000000000", "m/config.pbtxt:1: max_batch_size: must be a whole number from -2147483648 to 2147483647");
    refuses("max_batch_size: -2", "m/config.pbtxt: max_batch_size: must be 0 or more");
    refuses("max_batch_size 3", "m/config.pbtxt:1: max_batch_size: expected :, found 3");
    refuses("name: 'a'\nname: 'b'", "m/config.pbtxt:2: name: given twice");
    refuses("dynamic_batching { }\nsequence_batching { }",
            "m/config.pbtxt:2: sequence_batching: cannot be given together with dynamic_batching");
    refuses("name: \"a\n\"", "m/config.pbtxt:1: name: the text is not closed in its line");
    refuses("name: \"a", "m/config.pbtxt:1: name: the text is not closed");
    refuses("input {\n name: 'x'\n\n", "m/config.pbtxt:4: input: } is missing for what was opened in line 1");
    refuses("name: [ 'a' ]", "m/config.pbtxt:1: name: takes one value, not a list");
    refuses("input { dims: [1,2,3,4,5,6,7,8,9] }", "m/config.pbtxt:1: input.dims[8]: more than 8 values");
    refuses("name: '\\q'", "m/config.pbtxt:1: name: the text has an escape that is none");
    refuses("parameters { key: 'a' valu: 'b' }", "m/config.pbtxt:1: parameters: expected key or value, found valu");
    refuses("name: '\\000'", "m/config.pbtxt:1: name: must not hold a NUL byte");
    refuses("name: '\\xff'", "m/config.pbtxt:1: name: must be UTF-8 text");
    refuses("[x.y]: 3", "m/config.pbtxt:1: expected a field's name, found [");
}

TEST(says_what_cannot_be_served_and_what_to_do)
{
    CHECK(judge("name: 'm' platform: 'tensorflow_graphdef' " SIMPLE_PORTS, NULL) == SP_UNSUPPORTED);
    CHECK_TEXT(err.message, "m/config.pbtxt: platform: \"tensorflow_graphdef\" is not served here: convert the model to ONNX "
                            "(python -m tf2onnx.convert) and set backend: \"onnxruntime\"");
    CHECK(judge("name: 'm' backend: 'onnxruntim' " SIMPLE_PORTS, NULL) == SP_UNSUPPORTED);
    CHECK(strstr(err.message, "did you mean onnxruntime?") != NULL);
    CHECK(judge("name: 'm' backend: 'python' model_transaction_policy { decoupled: true } " SIMPLE_PORTS, NULL) == SP_UNSUPPORTED);
    CHECK(judge("name: 'm' backend: 'onnxruntime' batch_input { kind: BATCH_ITEM_SHAPE } " SIMPLE_PORTS, NULL) == SP_UNSUPPORTED);
    CHECK(judge("name: 'm' backend: 'onnxruntime' model_operations { op_library_filename: 'x.so' } " SIMPLE_PORTS, NULL) ==
          SP_UNSUPPORTED);
}

TEST(checks_what_fields_say_together)
{
#define HEAD "name: 'm' backend: 'onnxruntime' max_batch_size: 8 " SIMPLE_PORTS
    refuses(HEAD "dynamic_batching { preferred_batch_size: [ 4, 16 ] }",
            "m/config.pbtxt: dynamic_batching.preferred_batch_size: 16 must be from 1 to max_batch_size (8)");
    refuses(HEAD "dynamic_batching { priority_levels: 2 }",
            "m/config.pbtxt: dynamic_batching.default_priority_level: must be from 1 to 2");
    refuses(HEAD "sequence_batching { control_input { name: 'A' control { kind: CONTROL_SEQUENCE_START int32_false_true: [0,1] } } }",
            "m/config.pbtxt: sequence_batching.control_input 'A': is an input as well");
    refuses(HEAD "sequence_batching { control_input { name: 'S' control { int32_false_true: 1 } } }",
            "m/config.pbtxt: sequence_batching.control_input 'S': int32_false_true: must have two values");
    refuses(HEAD "instance_group { kind: KIND_CPU gpus: 0 }",
            "m/config.pbtxt: instance_group 'm_0': gpus: cannot be given with kind KIND_CPU");
    refuses("name: 'm' backend: 'identity' input { name: 'A' data_type: TYPE_FP32 dims: [ 4, 0 ] }",
            "m/config.pbtxt: input 'A': dims: must be 1 or more, or -1 for any size");
    refuses("name: 'm' backend: 'identity' input { name: 'A' data_type: TYPE_FP32 dims: [ 4 ] reshape { shape: [ 3 ] } }"
            "output { name: 'A' }", "m/config.pbtxt: input 'A': dims and reshape have different sizes");
    CHECK(judge("name: 'm' backend: 'identity' input { name: 'A' data_type: TYPE_FP32 dims: [ 2, 4, -1, 6 ] reshape { shape: [ 8, -1, 1, 6 ] } }"
                "output { name: 'A' data_type: TYPE_FP32 dims: -1 }", NULL) == SP_OK);
}

TEST(ensembles_must_be_whole)
{
#define ENSEMBLE "name: 'e' platform: 'ensemble' " SIMPLE_PORTS "ensemble_scheduling { step [ "
    CHECK(judge(ENSEMBLE "{ model_name: 'p' input_map { key: 'x' value: 'A' } output_map { key: 'y' value: 't' } },"
                         "{ model_name: 'q' input_map { key: 'x' value: 't' } output_map { key: 'y' value: 'B' } } ] }", NULL) == SP_OK);
    CHECK_INT(config.step_count, 2);
    CHECK_INT(config.steps[1].version, -1);
    CHECK_TEXT(config.steps[1].inputs[0].value, "t");
    refuses(ENSEMBLE "{ model_name: 'p' input_map { key: 'x' value: 'C' } output_map { key: 'y' value: 'B' } } ] }",
            "m/config.pbtxt: ensemble_scheduling.step[0] 'p': input_map: 'C' is neither an input of the ensemble nor what a step makes");
    refuses(ENSEMBLE "{ model_name: 'p' input_map { key: 'x' value: 'u' } output_map { key: 'y' value: 't' } },"
                     "{ model_name: 'q' input_map { key: 'x' value: 't' } output_map { key: 'y' value: 'u' } } ] }",
            "m/config.pbtxt: ensemble_scheduling: its steps wait for each other in a circle");
    refuses(ENSEMBLE "{ model_name: 'p' input_map { key: 'x' value: 'A' } output_map { key: 'y' value: 't' } } ] }",
            "m/config.pbtxt: output 'B': no step of the ensemble makes it");
    refuses(ENSEMBLE "{ model_name: 'e' input_map { key: 'x' value: 'A' } output_map { key: 'y' value: 'B' } } ] }",
            "m/config.pbtxt: ensemble_scheduling.step[0]: model_name: an ensemble cannot be a step of itself");
    refuses("name: 'e' platform: 'ensemble' " SIMPLE_PORTS, "m/config.pbtxt: ensemble_scheduling: must be set for platform \"ensemble\"");
}

/* --- completion --- */

static void add_port(sp_file_port *ports, int *count, const char *name, int dtype, int rank, const int64_t *dims)
{
    sp_file_port *port = &ports[(*count)++];
    memset(port, 0, sizeof(*port));
    (void)snprintf(port->name, sizeof(port->name), "%s", name);
    port->dtype = (uint8_t)dtype;
    port->rank = (uint8_t)rank;
    memcpy(port->dims, dims, (size_t)rank * sizeof(*dims));
}

static sp_file_ports image_ports(int64_t batch)
{
    sp_file_ports ports = { 0 };
    add_port(ports.inputs, &ports.input_count, "x", 1, 4, (int64_t[]){ batch, 3, 8, 8 });
    add_port(ports.outputs, &ports.output_count, "y", 1, 2, (int64_t[]){ batch, 10 });
    return ports;
}

TEST(completes_a_model_without_a_configuration)
{
    sp_file_ports open = image_ports(-1), fixed = image_ports(1);

    REQUIRE(judge("name: 'm' backend: 'onnxruntime'", &open) == SP_OK);
    CHECK_INT(config.max_batch_size, 4);
    CHECK(config.batching.on);
    CHECK_INT(config.batching.preferred[0], 4);
    CHECK_INT(config.inputs[0].rank, 3);
    CHECK_INT(config.inputs[0].dims[0], 3);
    CHECK_INT(config.outputs[0].rank, 1);
    REQUIRE(judge("name: 'm' backend: 'onnxruntime'", &fixed) == SP_OK);
    CHECK_INT(config.max_batch_size, 0);
    CHECK(!config.batching.on);
    CHECK_INT(config.inputs[0].rank, 4);
    REQUIRE(judge("name: 'm' backend: 'onnxruntime' max_batch_size: 0", &open) == SP_OK);
    CHECK_INT(config.max_batch_size, 0);
    REQUIRE(judge("name: 'm' backend: 'onnxruntime' max_batch_size: 16", &open) == SP_OK);
    CHECK(config.batching.on);
    REQUIRE(judge("name: 'm' backend: 'onnxruntime' input { name: 'x' } output { name: 'y' }", &open) == SP_OK);
    CHECK_INT(config.max_batch_size, 0);
    CHECK_INT(config.inputs[0].rank, 4);
    CHECK_INT(config.inputs[0].dtype, 1);
}

TEST(holds_a_configuration_against_its_model)
{
    sp_file_ports open = image_ports(-1), fixed = image_ports(1);

#define GIVEN(batch, dims) "name: 'm' backend: 'onnxruntime' max_batch_size: " batch " input { name: 'x' data_type: TYPE_FP32 dims: " dims " }"
    CHECK(judge(GIVEN("8", "[ 3, 8, 8 ]"), &open) == SP_OK);
    CHECK_INT(config.output_count, 1);
    CHECK(judge(GIVEN("8", "[ 3, 8, 8 ]"), &fixed) == SP_INVALID);
    CHECK_TEXT(err.message, "m/config.pbtxt: max_batch_size: 8, but the model's tensor 'x' has the shape [1,3,8,8], whose first dimension "
                            "is not open: set max_batch_size: 0");
    CHECK(judge(GIVEN("8", "[ 1, 3, 8, 8 ]"), &open) == SP_INVALID);
    CHECK_TEXT(err.message, "m/config.pbtxt: input 'x': the model's shape is [-1,3,8,8], the configuration's [-1,1,3,8,8] (max_batch_size "
                            "adds the first dimension; dims must not have it)");
    CHECK(judge(GIVEN("0", "[ 3, 8, 8 ] reshape { shape: [ 1, 3, 8, 8 ] }"), &fixed) == SP_OK);
    CHECK(judge("name: 'm' backend: 'onnxruntime' input { name: 'xx' }", &open) == SP_INVALID);
    CHECK_TEXT(err.message, "m/config.pbtxt: input: the model's input 'x' is missing; give all of them, or none");
    CHECK(judge("name: 'm' backend: 'onnxruntime' output { name: 'z' }", &open) == SP_INVALID);
    CHECK_TEXT(err.message, "m/config.pbtxt: output 'z': the model has no such output; it has y");
    CHECK(judge("name: 'm' backend: 'onnxruntime' input { name: 'x' data_type: TYPE_INT8 }", &open) == SP_INVALID);
    CHECK_TEXT(err.message, "m/config.pbtxt: input 'x': data_type: the model's is FP32, the configuration's INT8");
}

TEST(controls_are_no_inputs)
{
    sp_file_ports ports = { 0 };

    add_port(ports.inputs, &ports.input_count, "X", 6, 2, (int64_t[]){ -1, 1 });
    add_port(ports.inputs, &ports.input_count, "START", 6, 2, (int64_t[]){ -1, 1 });
    add_port(ports.outputs, &ports.output_count, "Y", 6, 2, (int64_t[]){ -1, 1 });
    REQUIRE(judge("name: 'm' backend: 'onnxruntime' max_batch_size: 8 sequence_batching { oldest { max_candidate_sequences: 4 } "
                  "control_input { name: 'START' control { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] } } }", &ports) == SP_OK);
    CHECK_INT(config.input_count, 1);
    CHECK_TEXT(config.inputs[0].name, "X");
    CHECK_INT(config.sequence.max_idle_us, 1000000);
    CHECK_INT(config.sequence.controls[0].dtype, 6);
    CHECK(config.sequence.controls[0].yes_value == 1);
    CHECK(!config.batching.on);
}

TEST(json_is_the_same_configuration)
{
    const char *text = "{\"name\":\"m\",\"backend\":\"identity\",\"maxBatchSize\":4,\"input\":[{\"name\":\"A\",\"data_type\":\"TYPE_FP32\","
                       "\"dims\":[\"4\",-1]}],\"output\":[{\"name\":\"A\",\"data_type\":11,\"dims\":[4,-1]}],\"dynamic_batching\":"
                       "{\"max_queue_delay_microseconds\":\"100\"}}";
    sp_model_config_done(&config);
    REQUIRE(sp_model_config_read("config", sp_view_of(text), &config, &err) == SP_OK);
    CHECK_INT(config.max_batch_size, 4);
    CHECK_INT(config.inputs[0].dims[0], 4);
    CHECK_INT(config.outputs[0].dtype, 1);
    CHECK_INT(config.batching.max_queue_delay_us, 100);
    sp_model_config_done(&config);
    CHECK(sp_model_config_read("config", sp_view_of("{\"input\":[{\"dim\":[1]}]}"), &config, &err) == SP_INVALID);
    CHECK_TEXT(err.message, "config: input[0].dim: unknown field; did you mean dims?");
    CHECK(sp_model_config_read("config", sp_view_of("{\"max_batch_size\":1.5}"), &config, &err) == SP_INVALID);
    CHECK_TEXT(err.message, "config: max_batch_size: must be a whole number");
    CHECK(sp_model_config_read("config", sp_view_of("[1"), &config, &err) == SP_INVALID);
}
