/* SPDX-License-Identifier: Apache-2.0
 * The pipeline: every batch gets its own answer, in order, however the streams run; a failing call ends it without a trace; and
 * the measure finds copies hidden where lanes overlap, and none where there is one lane. */
#include <stdio.h>

#include "house.h"

#include "kernels/cuda_pipe.h"

#define BYTES 256

typedef struct job {
    const cuda_house *house;
    int next;
} job;

static void fill(void *context, int batch, void *host_in)
{
    for (int i = 0; i < BYTES; i++)
        ((unsigned char *)host_in)[i] = (unsigned char)(batch * 7 + i);
}

/* The second half of the input becomes the first half of the output, behind it nines. */
static sp_status compute(void *context, int lane, sp_cuda_stream *stream, const void *in, void *out, sp_error *reterr)
{
    const job *j = context;
    sp_status s = j->house->api->fill(stream, out, 9, BYTES, reterr);
    return s ? s : j->house->api->copy_on(stream, out, (const char *)in + BYTES / 2, BYTES / 2, reterr);
}

static void take(void *context, int batch, const void *host_out)
{
    job *j = context;
    unsigned char expected[BYTES];
    CHECK_INT(batch, j->next++);
    memset(expected, 9, BYTES);
    for (int i = 0; i < BYTES / 2; i++)
        expected[i] = (unsigned char)(batch * 7 + BYTES / 2 + i);
    CHECK_BYTES(host_out, expected, BYTES);
}

TEST(each_batch_gets_its_own_answer_in_order)
{
    cuda_house house;
    CUDA_HOUSE(&house);
    for (int lanes = 1; lanes <= 4; lanes++) {
        CUDA_ORDERS(&house, order) {
            job j = { .house = &house };
            sp_cuda_pipe_work work = { &j, fill, compute, take };
            sp_cuda_pipe *pipe = NULL;
            sp_error err = { 0 };
            REQUIRE(sp_cuda_pipe_new(house.api, house.cuda, lanes, BYTES, BYTES, &pipe, &err) == SP_OK);
            CHECK_INT(sp_cuda_pipe_run(pipe, &work, 11, &err), SP_OK);
            CHECK_INT(j.next, 11);
            j.next = 0;
            CHECK_INT(sp_cuda_pipe_run(pipe, &work, 2, &err), SP_OK); /* fewer than lanes */
            CHECK_INT(j.next, 2);
            sp_cuda_pipe_free(pipe);
        }
    }
    sp_cuda_pipe *none = NULL;
    CHECK_INT(sp_cuda_pipe_new(house.api, house.cuda, 0, BYTES, BYTES, &none, NULL), SP_INVALID);
    CHECK_INT(sp_cuda_pipe_new(house.api, house.cuda, SP_LIMIT_CUDA_LANES + 1, BYTES, BYTES, &none, NULL), SP_INVALID);
    cuda_house_done(&house);
}

TEST(a_failing_call_ends_it_without_a_trace)
{
    static const char *const calls[] = { "cudaMemcpyAsync", "cudaMemsetAsync", "cudaEventRecord", "cudaEventSynchronize",
                                         "cudaHostAlloc", "cudaMallocFromPoolAsync", "cudaStreamCreateWithFlags" };
    cuda_house house;
    CUDA_HOUSE(&house);
    if (!house.shim) {
        cuda_house_done(&house);
        SKIP("needs the stand-in: a real GPU does not fail to order");
    }
    for (size_t i = 0; i < SP_ARRAY_LEN(calls); i++) {
        for (unsigned nth = 1; nth <= 9; nth += 4) {
            job j = { .house = &house };
            sp_cuda_pipe_work work = { &j, fill, compute, take };
            sp_cuda_pipe *pipe = NULL;
            sp_cuda_memory memory;
            sp_error err = { 0 };
            house.shim->fail(calls[i], nth, 2, 1);
            sp_status s = sp_cuda_pipe_new(house.api, house.cuda, 3, BYTES, BYTES, &pipe, &err);
            if (!s)
                s = sp_cuda_pipe_run(pipe, &work, 9, &err);
            CHECK_INT(s, house.shim->failed() ? SP_NOMEM : SP_OK);
            sp_cuda_pipe_free(pipe);
            house.api->memory(house.cuda, &memory);
            CHECK_INT(memory.device_bytes + memory.host_bytes, 0);
            house.shim->reset();
        }
    }
    cuda_house_done(&house);
}

TEST(the_measure_says_what_was_hidden)
{
    CHECK(sp_cuda_hidden(4, 10, 10) == 1.0 && sp_cuda_hidden(10, 4, 14) == 0.0 && sp_cuda_hidden(4, 8, 10) == 0.5);
    CHECK(sp_cuda_hidden(0, 5, 5) == 1.0 && sp_cuda_hidden(4, 10, 9.5) == 1.0);
    cuda_house house;
    CUDA_HOUSE(&house);
    for (int lanes = 1; lanes <= 3; lanes += 2) {
        job j = { .house = &house };
        sp_cuda_pipe_work work = { &j, fill, compute, NULL };
        sp_cuda_pipe *pipe = NULL;
        sp_cuda_overlap overlap = { 0 };
        sp_error err = { 0 };
        if (house.shim)
            house.shim->costs(0, 0, 1e6); /* each operation takes a millisecond: two in a copy, two of computing */
        REQUIRE(sp_cuda_pipe_new(house.api, house.cuda, lanes, BYTES, BYTES, &pipe, &err) == SP_OK);
        CHECK_INT(sp_cuda_pipe_measure(pipe, &work, 60, &overlap, &err), SP_OK);
        CHECK(overlap.copy_ms > 0 && overlap.compute_ms > 0 && overlap.wall_ms > 0);
        if (house.shim && lanes == 1)
            CHECK(overlap.hidden > -0.01 && overlap.hidden < 0.01);
        if (house.shim && lanes == 3)
            CHECK(overlap.hidden > 0.5);
        sp_cuda_pipe_free(pipe);
    }
    cuda_house_done(&house);
}
