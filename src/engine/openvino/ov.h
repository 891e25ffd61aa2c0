/* SPDX-License-Identifier: Apache-2.0
 * Inside the OpenVINO plug-in: the library behind it, its calls, and the translation of its errors. It reads ONNX files and
 * its own format (model.xml with model.bin beside it), and runs them on the CPU. */
#ifndef SP_ENGINE_OPENVINO_OV_H
#define SP_ENGINE_OPENVINO_OV_H

#include "engine/plug/plug.h"

#include <openvino/c/openvino.h>

#define OV_ORIGIN "openvino"

/* The calls of the library that are used here; it is opened, not linked, so that a missing one is a reason. */
#define OV_CALLS(X)                                                                                                    \
    X(ov_get_openvino_version)                                                                                         \
    X(ov_version_free)                                                                                                 \
    X(ov_get_error_info)                                                                                               \
    X(ov_get_last_err_msg)                                                                                             \
    X(ov_free)                                                                                                         \
    X(ov_core_create)                                                                                                  \
    X(ov_core_free)                                                                                                    \
    X(ov_core_read_model)                                                                                              \
    X(ov_core_read_model_from_memory_buffer)                                                                           \
    X(ov_core_compile_model)                                                                                           \
    X(ov_core_get_property)                                                                                            \
    X(ov_model_free)                                                                                                   \
    X(ov_model_const_input_by_index)                                                                                   \
    X(ov_model_const_output_by_index)                                                                                  \
    X(ov_model_inputs_size)                                                                                            \
    X(ov_model_outputs_size)                                                                                           \
    X(ov_compiled_model_free)                                                                                          \
    X(ov_compiled_model_create_infer_request)                                                                          \
    X(ov_port_get_any_name)                                                                                            \
    X(ov_port_get_partial_shape)                                                                                       \
    X(ov_port_get_element_type)                                                                                        \
    X(ov_output_const_port_free)                                                                                       \
    X(ov_partial_shape_free)                                                                                           \
    X(ov_shape_free)                                                                                                   \
    X(ov_rank_is_dynamic)                                                                                              \
    X(ov_tensor_create)                                                                                                \
    X(ov_tensor_create_from_host_ptr)                                                                                  \
    X(ov_tensor_get_shape)                                                                                             \
    X(ov_tensor_get_byte_size)                                                                                         \
    X(ov_tensor_data)                                                                                                  \
    X(ov_tensor_free)                                                                                                  \
    X(ov_infer_request_set_input_tensor_by_index)                                                                      \
    X(ov_infer_request_get_output_tensor_by_index)                                                                     \
    X(ov_infer_request_infer)                                                                                          \
    X(ov_infer_request_cancel)                                                                                         \
    X(ov_infer_request_free)

typedef struct ov_library {
#define OV_MEMBER(name) __typeof__(name) *name;
    OV_CALLS(OV_MEMBER)
#undef OV_MEMBER
    ov_core_t *core;
    char version[32];
    char path[256];
} ov_library;

/* Opens libopenvino_c.so on first use: SPILLWAY_OPENVINO (a file), the plug-in's own directory, the prefix that it was built
 * with, the linker's search path. UNSUPPORTED: missing (the message names it), or of a release with other type numbers. */
sp_engine_status ovp_library_get(const ov_library **ret_library, sp_engine_error *reterr);
void ovp_library_close(void); /* gives the core back; the code stays mapped */

/* Our number of the library's element type, and back; 0 and DYNAMIC: a type that does not cross (strings do not: the C
 * interface cannot read them). */
int32_t ovp_dtype(ov_element_type_e type);
ov_element_type_e ovp_type(int32_t dtype);

typedef enum ovp_phase { OVP_LOAD, OVP_RUN } ovp_phase;

/* Translates a status of the library's. */
sp_engine_status ovp_check(const ov_library *library, ov_status_e status, ovp_phase phase, sp_engine_error *reterr);

/* The entries of the ABI table (model.c; run.c). */
sp_engine_status ovp_model_load(const sp_engine_load_options *options, sp_engine_model **ret_model,
                                sp_engine_error *reterr);
void ovp_model_describe(const sp_engine_model *model, sp_engine_ports *ret_ports);
void ovp_model_unload(sp_engine_model *model);
sp_engine_status ovp_model_memory(const sp_engine_model *model, sp_engine_memory *ret_memory, sp_engine_error *reterr);
sp_engine_status ovp_model_run(sp_engine_model *model, int32_t lane, const sp_engine_tensor *inputs,
                               int32_t input_count, sp_engine_tensor *outputs, int32_t output_count,
                               sp_engine_error *reterr);
void ovp_model_cancel(sp_engine_model *model, int32_t lane);

/* One concurrent run: the request, which inputs it has, and the outputs of its last run. */
typedef struct ovp_lane {
    ov_infer_request_t *request;
    sp_engine_tensor *bound; /* inputs as they were set; data NULL = not set */
    ov_tensor_t **left;      /* outputs of the last run, in the library's memory */
} ovp_lane;

struct sp_engine_model {
    const ov_library *library;
    ov_compiled_model_t *compiled;
    void *file; /* the bytes of a model from memory */
    int32_t input_count, output_count, lane_count;
    sp_engine_port *ports; /* inputs, then outputs; names are ours */
    ovp_lane *lanes;
    uint64_t host_bytes;
};

sp_engine_status ovp_lane_init(const sp_engine_model *model, ovp_lane *lane, sp_engine_error *reterr);
void ovp_lane_done(const sp_engine_model *model, ovp_lane *lane);

#endif
