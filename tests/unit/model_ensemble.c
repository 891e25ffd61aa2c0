/* SPDX-License-Identifier: Apache-2.0
 * model/ensemble.h: names to numbers, and what does not fit together is said in Triton's words. */
#include "model/ensemble.h"
#include "test.h"

#include <stdio.h>
#include <string.h>

static sp_model_port port(const char *name, int dtype, int64_t dim)
{
    sp_model_port p = {.dtype = (uint8_t)dtype, .rank = 1, .has_dims = true, .dims = {dim}};
    snprintf(p.name, sizeof(p.name), "%s", name);
    return p;
}

static sp_ensemble_map map(const char *key, const char *value)
{
    sp_ensemble_map m = {0};
    snprintf(m.key, sizeof(m.key), "%s", key);
    snprintf(m.value, sizeof(m.value), "%s", value);
    return m;
}

/* IN -> a (x: IN -> y: mid) -> b (p: mid, q: IN -> r: OUT) */
typedef struct rig {
    sp_model_config ensemble, a, b;
    const sp_model_config *models[SP_LIMIT_ENSEMBLE_STEPS];
    sp_ensemble_map a_in[2], a_out[2], b_in[3], b_out[2];
    sp_ensemble_plan *plan;
    sp_error err;
} rig;

static void rig_open(rig *r)
{
    *r = (rig){0};
    (void)snprintf(r->ensemble.name, sizeof(r->ensemble.name), "e");
    r->ensemble.max_batch_size = r->a.max_batch_size = r->b.max_batch_size = 4;
    r->ensemble.is_ensemble = true;
    r->ensemble.inputs[r->ensemble.input_count++] = port("IN", 1, 3);
    r->ensemble.outputs[r->ensemble.output_count++] = port("OUT", 1, -1);
    (void)snprintf(r->a.name, sizeof(r->a.name), "a");
    r->a.inputs[r->a.input_count++] = port("x", 1, 3);
    r->a.outputs[r->a.output_count++] = port("y", 7, 5);
    (void)snprintf(r->b.name, sizeof(r->b.name), "b");
    r->b.inputs[r->b.input_count++] = port("q", 1, -1);
    r->b.inputs[r->b.input_count++] = port("p", 7, -1);
    r->b.outputs[r->b.output_count++] = port("unused", 1, 1);
    r->b.outputs[r->b.output_count++] = port("r", 1, 9);
    r->a_in[0] = map("x", "IN");
    r->a_out[0] = map("y", "mid");
    r->b_in[0] = map("p", "mid");
    r->b_in[1] = map("q", "IN");
    r->b_out[0] = map("r", "OUT");
    r->ensemble.step_count = 2;
    r->ensemble.steps[0] = (sp_ensemble_step){.model = "a", .input_count = 1, .output_count = 1, .inputs = r->a_in, .outputs = r->a_out};
    r->ensemble.steps[1] = (sp_ensemble_step){.model = "b", .input_count = 2, .output_count = 1, .inputs = r->b_in, .outputs = r->b_out};
    r->models[0] = &r->a;
    r->models[1] = &r->b;
}

static const char *plan(rig *r)
{
    r->err = (sp_error){0};
    sp_status s = sp_ensemble_plan_new(&r->ensemble, r->models, &r->plan, &r->err);
    if (s == SP_OK)
        return "ok";
    CHECK_INT(s, SP_INVALID);
    return r->err.message;
}

TEST(names_become_numbers)
{
    rig r;
    rig_open(&r);

    CHECK_TEXT(plan(&r), "ok");
    const sp_ensemble_plan *p = r.plan;
    CHECK_INT(p->tensor_count, 3);
    CHECK_TEXT(p->tensors[0].name, "IN");
    CHECK_INT(p->tensors[0].input, 0);
    CHECK_INT(p->tensors[0].producer, -1);
    CHECK_INT(p->tensors[0].consumers, 2);
    CHECK_TEXT(p->tensors[1].name, "OUT");
    CHECK_INT(p->tensors[1].output, 0);
    CHECK_INT(p->tensors[1].producer, 1);
    CHECK_TEXT(p->tensors[2].name, "mid");
    CHECK_INT(p->tensors[2].dtype, 7);
    CHECK_INT(p->tensors[2].producer, 0);
    CHECK_INT(p->steps[1].input_count, 2);
    CHECK_INT(p->steps[1].inputs[0].port, 1);
    CHECK_INT(p->steps[1].inputs[0].tensor, 2);
    CHECK_INT(p->steps[1].inputs[1].port, 0);
    CHECK_INT(p->steps[1].outputs[0].port, 1);
    CHECK_INT(p->steps[1].outputs[0].tensor, 1);
    CHECK_INT(sp_ensemble_consumer(p, 0), 0);
    CHECK_INT(sp_ensemble_consumer(p, 2), 1);
    CHECK_INT(sp_ensemble_consumer(p, 1), -1);
    sp_ensemble_plan_free(r.plan);
}

TEST(built_in_steps_have_ports_by_place)
{
    rig r;
    rig_open(&r);

    (void)snprintf(r.ensemble.steps[0].model, sizeof(r.ensemble.steps[0].model), "spillway/preprocess");
    r.models[0] = NULL;
    CHECK_TEXT(plan(&r), "ok");
    CHECK_INT(r.plan->steps[0].kind, SP_STEP_PREPROCESS);
    CHECK_INT(r.plan->steps[0].outputs[0].port, 0);
    CHECK_INT(r.plan->tensors[2].dtype, 7); /* as b wants it */
    sp_ensemble_plan_free(r.plan);
}

TEST(what_does_not_fit_is_said_in_tritons_words)
{
    rig r;
    rig_open(&r);
    r.a_in[0] = map("z", "IN");
    CHECK_TEXT(plan(&r), "in ensemble 'e', ensemble tensor IN is mapping to non-existing input z in model 'a'");
    rig_open(&r);
    r.a_out[0] = map("z", "mid");
    CHECK_TEXT(plan(&r), "in ensemble 'e', ensemble tensor mid is mapped from non-existing output z in model 'a'");
    rig_open(&r);
    r.ensemble.steps[1].input_count = 1;
    CHECK_TEXT(plan(&r), "in ensemble 'e', input q in model 'b' is not mapped to any ensemble tensors");
    r.b.inputs[0].optional = true;
    CHECK_TEXT(plan(&r), "ok");
    sp_ensemble_plan_free(r.plan);
    rig_open(&r);
    r.b_in[2] = map("p", "IN");
    r.ensemble.steps[1].input_count = 3;
    CHECK_TEXT(plan(&r), "in ensemble 'e', input p in model 'b' is mapped to multiple ensemble tensors");
    rig_open(&r);
    r.b_out[1] = map("unused", "OUT");
    r.ensemble.steps[1].output_count = 2;
    CHECK_TEXT(plan(&r), "in ensemble 'e', multiple outputs in model 'b' are mapped to the same ensemble tensor OUT");
    rig_open(&r);
    r.a.max_batch_size = 2;
    CHECK_TEXT(plan(&r), "ensemble 'e' allows maximum batch size 4, but it contains model 'a' which only allows maximum batch "
                         "size to be 2");
    rig_open(&r);
    r.b.inputs[1].dtype = 6;
    CHECK_TEXT(plan(&r), "in ensemble 'e', ensemble tensor 'mid': inconsistent data type: INT32 is inferred from model 'b' while "
                         "INT64 is inferred from model 'a'");
    rig_open(&r);
    r.b.inputs[1].dims[0] = 6;
    CHECK_TEXT(plan(&r), "in ensemble 'e', ensemble tensor 'mid': inconsistent shape: [-1,6] is inferred from model 'b' while "
                         "[-1,5] is inferred from model 'a'");
    rig_open(&r);
    r.ensemble.max_batch_size = 0;
    CHECK_TEXT(plan(&r), "in ensemble 'e', ensemble tensor 'IN': inconsistent shape: [-1,3] is inferred from model 'a' while "
                         "[3] is inferred from model 'e'");
    rig_open(&r);
    r.b_in[0] = map("p", "nobody");
    CHECK_TEXT(plan(&r), "in ensemble 'e', nothing makes ensemble tensor nobody");
}
