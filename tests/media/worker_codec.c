/* SPDX-License-Identifier: Apache-2.0
 * The codec kind without the worker loop around it: the three calls of the loop that it makes are played here. */
#include "base/clock.h"
#include "base/fault.h"
#include "kernels/prep_run.h"
#include "media/load.h"
#include "test.h"
#include "tiny.h"
#include "worker/kinds.h"

#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define OUTPUT_BYTES (1u << 20)

static struct {
    uint8_t output[OUTPUT_BYTES];
    size_t asked_bytes;
    bool output_fails, cancelled;
    int media_fd, output_fd;
    uint64_t media_bytes;
    sp_stage last_stage;
    int64_t budget_ns;
} loop;

uint8_t *sp_worker_output(const sp_work_item *item, size_t size_bytes, sp_error *reterr)
{
    (void)item;
    loop.asked_bytes = size_bytes;
    if (!loop.output_fails && size_bytes <= OUTPUT_BYTES)
        return loop.output;
    (void)SP_FAIL(reterr, SP_NOMEM, "no output today");
    return NULL;
}

void sp_worker_stage(int executor, sp_stage stage, int64_t budget_ns)
{
    CHECK_INT(executor, 0);
    loop.last_stage = stage;
    loop.budget_ns = budget_ns;
}

bool sp_work_item_cancelled(const sp_work_item *item)
{
    (void)item;
    return loop.cancelled;
}

sp_status sp_worker_media(const sp_work_item *item, int *ret_fd, uint64_t *ret_size_bytes, sp_error *reterr)
{
    (void)item;
    *ret_fd = loop.media_fd;
    *ret_size_bytes = loop.media_bytes;
    return loop.media_bytes ? SP_OK : SP_FAIL(reterr, SP_INTERNAL, "no media file today");
}

sp_status sp_worker_output_fd(const sp_work_item *item, int *ret_fd, sp_error *reterr)
{
    (void)item;
    *ret_fd = loop.output_fd;
    return loop.output_fails ? SP_FAIL(reterr, SP_NOMEM, "no output today") : SP_OK;
}

static const sp_prep_spec spec_224 = {
    .filter = SP_FILTER_BICUBIC, .fit = SP_FIT_SHORT_SIDE, .dtype = SP_DTYPE_F32, .resize_w = 40, .resize_h = 40,
    .crop_w = 32, .crop_h = 32, .divisor = 1, .mean = { 127, 127, 127 }, .std = { 128, 128, 128 },
};

typedef struct job {
    sp_slot_request request;
    sp_submission submission;
    sp_work_item item;
} job;

static void job_init(job *j, const void *body, size_t body_bytes, uint32_t output_kind)
{
    memset(j, 0, sizeof(*j));
    loop.output_fails = loop.cancelled = false;
    loop.last_stage = SP_STAGE_IDLE;
    memset(loop.output, 0xee, sizeof(loop.output));
    j->request.prep = spec_224;
    j->submission = (sp_submission){ .op = SP_OP_DECODE, .lease = 1, .output_kind = output_kind };
    j->item = (sp_work_item){ .request = &j->request, .submission = &j->submission, .body = sp_view_make(body, body_bytes) };
}

/* One codec for all tests; the process's end closes it. */
static void *codec_state(void)
{
    static void *state;
    if (state)
        return state;
    sp_worker_card card = { 0 };
    sp_worker_config config = { .name = "codec0", .kind = "codec" };
    sp_error err = { 0 };
    sp_status s = sp_worker_kind_codec.open(&config, &card, &state, &err);
    if (s)
        test_fail(__FILE__, __LINE__, "%s", err.message);
    REQUIRE(s == SP_OK);
    CHECK(card.executors >= 1 && card.executors <= 4 && card.max_batch == 1 && card.window >= card.executors);
    CHECK(strstr(card.detail, "libjpeg-turbo") != NULL);
    return state;
}

static sp_status run(job *j)
{
    sp_worker_kind_codec.run(codec_state(), 0, &j->item, 1);
    return j->item.status;
}

static uint8_t *decode_directly(const void *body, size_t body_bytes, int fast, sp_image_info *ret_info)
{
    const sp_media_api *media;
    sp_error err = { 0 };
    REQUIRE(sp_media_load(&media, &err) == SP_OK);
    sp_view file = sp_view_make(body, body_bytes);
    sp_image_options options = { .fast_short_side = fast };
    REQUIRE(media->image_probe(file, &options, ret_info, &err) == SP_OK);
    uint8_t *rgb = malloc(ret_info->rgb_bytes);
    REQUIRE(rgb != NULL);
    REQUIRE(media->image_decode(file, &options, ret_info, rgb, ret_info->rgb_bytes, &err) == SP_OK);
    return rgb;
}

TEST(codec_makes_pixels)
{
    job j;
    sp_image_info info;
    uint8_t *want = decode_directly(tiny_jpeg, sizeof(tiny_jpeg), 0, &info);
    job_init(&j, tiny_jpeg, sizeof(tiny_jpeg), SP_OUTPUT_RGB8);
    REQUIRE(run(&j) == SP_OK);
    CHECK_INT(j.item.done.output_kind, SP_OUTPUT_RGB8);
    CHECK_INT(j.item.done.image_w, 16);
    CHECK_INT(j.item.done.image_h, 8);
    CHECK_INT(j.item.done.output_bytes, info.rgb_bytes);
    CHECK_INT(loop.asked_bytes, info.rgb_bytes);
    CHECK_BYTES(loop.output, want, info.rgb_bytes);
    CHECK_INT(loop.output[info.rgb_bytes], 0xee);
    CHECK(j.item.done.decode_ns > 0 && j.item.done.preprocess_ns == 0);
    CHECK(loop.last_stage == SP_STAGE_DECODE && loop.budget_ns >= SP_LIMIT_BATCH_BUDGET_MIN_MS * SP_NS_PER_MS);
    free(want);
}

TEST(codec_makes_a_tensor)
{
    job j;
    sp_image_info info;
    sp_error err = { 0 };
    uint8_t *rgb = decode_directly(tiny_png, sizeof(tiny_png), 0, &info);
    size_t bytes = sp_prep_output_bytes(&spec_224);
    void *want = malloc(bytes);
    sp_prep_scratch *scratch = sp_prep_scratch_new();
    REQUIRE(want && scratch);
    REQUIRE(sp_prep_image(&spec_224, rgb, info.width, info.height, (size_t)info.width * 3, want, scratch, &err) == SP_OK);

    job_init(&j, tiny_png, sizeof(tiny_png), SP_OUTPUT_TENSOR);
    REQUIRE(run(&j) == SP_OK);
    CHECK_INT(j.item.done.output_kind, SP_OUTPUT_TENSOR);
    CHECK_INT(j.item.done.output_bytes, bytes);
    CHECK_INT(j.item.done.image_w, 4);
    CHECK_BYTES(loop.output, want, bytes);
    CHECK(j.item.done.preprocess_ns > 0 && loop.last_stage == SP_STAGE_PREPROCESS);
    sp_prep_scratch_free(scratch);
    free(want);
    free(rgb);
}

TEST(codec_shrinks_only_when_asked)
{
    job j;
    sp_image_info info;
    uint8_t *want = decode_directly(tiny_jpeg, sizeof(tiny_jpeg), 4, &info);
    CHECK_INT(info.scale_denominator, 2);
    job_init(&j, tiny_jpeg, sizeof(tiny_jpeg), SP_OUTPUT_RGB8);
    j.request.flags = SP_SLOT_DECODE_FAST;
    j.request.prep.resize_w = j.request.prep.resize_h = 4;
    REQUIRE(run(&j) == SP_OK);
    CHECK_INT(j.item.done.image_w, 8);
    CHECK_BYTES(loop.output, want, info.rgb_bytes);
    free(want);
}

TEST(codec_says_why_a_body_is_refused)
{
    job j;
    job_init(&j, tiny_jpeg, sizeof(tiny_jpeg) / 2, SP_OUTPUT_RGB8);
    CHECK_INT(run(&j), SP_INVALID);
    CHECK_TEXT(j.item.error.code, "truncated");
    job_init(&j, "no picture", 10, SP_OUTPUT_TENSOR);
    CHECK_INT(run(&j), SP_INVALID);
    CHECK_TEXT(j.item.error.code, "unknown_format");
    job_init(&j, NULL, 0, SP_OUTPUT_TENSOR);
    CHECK_INT(run(&j), SP_INVALID);
    CHECK_TEXT(j.item.error.code, "empty");
}

TEST(codec_trusts_no_number_of_the_request)
{
    job j;
    job_init(&j, tiny_png, sizeof(tiny_png), SP_OUTPUT_TENSOR);
    j.request.prep.std[1] = 0;
    CHECK_INT(run(&j), SP_INVALID);
    job_init(&j, tiny_png, sizeof(tiny_png), SP_OUTPUT_TENSOR);
    j.request.prep.crop_w = 60000;
    CHECK_INT(run(&j), SP_INVALID);
    job_init(&j, tiny_png, sizeof(tiny_png), SP_OUTPUT_TENSOR);
    memset(&j.request.prep, 0xff, sizeof(j.request.prep));
    j.request.flags = UINT32_MAX;
    CHECK_INT(run(&j), SP_INVALID);
    job_init(&j, tiny_png, sizeof(tiny_png), SP_OUTPUT_RGB8);
    j.submission.op = SP_OP_CLASSIFY;
    CHECK_INT(run(&j), SP_UNSUPPORTED);
}

TEST(codec_stops_when_it_cannot_or_need_not)
{
    job j;
    job_init(&j, tiny_png, sizeof(tiny_png), SP_OUTPUT_RGB8);
    loop.output_fails = true;
    CHECK_INT(run(&j), SP_NOMEM);
    job_init(&j, tiny_png, sizeof(tiny_png), SP_OUTPUT_TENSOR);
    loop.cancelled = true;
    CHECK_INT(run(&j), SP_CANCELLED);
}

TEST(codec_has_a_fault_point)
{
#ifdef SP_FAULTS
    job j;
    sp_error err = { 0 };
    REQUIRE(sp_fault_arm("codec.decode:fail@body-prefix=\x89PNG", &err) == SP_OK);
    job_init(&j, tiny_png, sizeof(tiny_png), SP_OUTPUT_RGB8);
    CHECK_INT(run(&j), SP_INTERNAL);
    job_init(&j, tiny_jpeg, sizeof(tiny_jpeg), SP_OUTPUT_RGB8);
    CHECK_INT(run(&j), SP_OK);
    REQUIRE(sp_fault_arm(NULL, &err) == SP_OK);
#else
    SKIP("built without fault points");
#endif
}

/* The sandbox cannot be left again, so a child enters it. */
static int enter_sandbox(bool require)
{
    void *state = codec_state();
    pid_t child = fork();
    if (child == 0) {
        sp_worker_card card = { 0 };
        sp_error err = { 0 };
        sp_status s = sp_worker_kind_codec.sandbox(state, &card, require, &err);
        bool full = strcmp(card.sandbox, "full") == 0;
        bool told = s ? strcmp(err.code, "sandbox") == 0 && err.message[0] : card.sandbox[0] && card.detail[0];
        _exit(!told ? 99 : s == SP_UNAVAILABLE ? 2 : s ? 98 : full ? 0 : 1);
    }
    int status = -1;
    (void)waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(codec_refuses_less_than_a_full_sandbox_only_when_told)
{
    int plain = enter_sandbox(false), required = enter_sandbox(true);
    CHECK(plain == 0 || plain == 1);
    CHECK_INT(required, plain == 0 ? 0 : 2);
}
