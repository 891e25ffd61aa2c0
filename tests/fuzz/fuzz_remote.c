/* SPDX-License-Identifier: Apache-2.0
 * What remotes answer. The first byte says which parser has the rest; what must hold: a failure has a reason and none of
 * the statuses that end a chain unjustly, an answer is within its bounds. */
#include "provider/kserve.h"
#include "provider/spillway.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void need(bool holds)
{
    if (!holds)
        abort();
}

static void try_answer(sp_view body)
{
    sp_provider_answer answer;
    sp_error err = { 0 };
    sp_status s = sp_spillway_read_answer(body, &answer, &err);
    need(s == SP_OK || (s == SP_CORRUPT && err.message[0]));
    need(answer.attempt_count >= 0 && answer.attempt_count <= SP_LIMIT_ATTEMPTS);
    if (s)
        return;
    need(answer.class_count >= 1 && answer.class_count <= SP_LIMIT_TOP_K);
    for (int i = 0; i < answer.class_count; i++) {
        need(answer.classes[i].class_id < SP_LIMIT_CLASSES && isfinite(answer.classes[i].probability));
        need(memchr(answer.classes[i].label, 0, sizeof(answer.classes[i].label)) != NULL);
    }
}

static void try_problem(sp_view body, int http_status)
{
    sp_provider_answer tried;
    sp_error err = { 0 };
    sp_status s = sp_spillway_read_problem(http_status, body, &tried, &err);
    need(s != SP_OK && err.status == s && err.code[0] && err.message[0]);
    need(s != SP_DENIED && s != SP_NOT_FOUND && s != SP_CONFLICT && s != SP_CANCELLED);
    need(tried.attempt_count >= 0 && tried.attempt_count <= SP_LIMIT_ATTEMPTS);
    s = sp_kserve_read_problem(http_status, body, &err);
    need(s != SP_OK && s != SP_INVALID && s != SP_DENIED && s != SP_NOT_FOUND);
}

static void try_row(sp_view body, const char *head_length)
{
    sp_kserve_row row;
    sp_error err = { 0 };
    sp_status s = sp_kserve_read_answer(body, head_length, "", &row, &err);
    need(s == SP_OK || ((s == SP_CORRUPT || s == SP_NOMEM) && !row.values));
    if (!s) {
        float sum = 0;
        need(row.count >= 2 && row.count <= SP_LIMIT_CLASSES);
        for (uint32_t i = 0; i < row.count; i++)
            sum += row.values[i]; /* each can be read */
        need(sum == sum || true);
    }
    free(row.values);
}

static void try_head(sp_view body)
{
    sp_kserve_model model = { 0 };
    sp_error err = { 0 };
    sp_status s = sp_kserve_read_metadata(body, "", "", &model, &err);
    need(s == SP_OK || s == SP_UNSUPPORTED || s == SP_CORRUPT);
    if (s)
        return;
    sp_buf head;
    sp_prep_spec prep = { .dtype = (uint8_t)model.dtype, .crop_w = 2, .crop_h = 2 };
    sp_buf_init(&head, 4096);
    s = sp_kserve_write_head(&head, &model, "id", &prep, model.dtype == SP_DTYPE_F16 ? 24 : 48, &err);
    need(s == SP_OK || s == SP_NOMEM);
    sp_buf_done(&head);
}

static void try_headers(const uint8_t *data, size_t size)
{
    char text[257];
    size_t n = size < sizeof(text) - 1 ? size : sizeof(text) - 1;
    memcpy(text, data, n);
    text[n] = 0;
    const char *const values[4] = { text, text, text, text };
    sp_provider_answer answer;
    sp_spillway_read_headers(values, &answer);
    need(answer.attempt_count >= 0 && answer.attempt_count <= SP_LIMIT_ATTEMPTS);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const int statuses[] = { 200, 302, 400, 401, 404, 413, 415, 422, 429, 500, 501, 503, 504, 508 };
    if (size < 2)
        return 0;
    sp_view body = sp_view_make(data + 2, size - 2);
    char length[8];
    switch (data[0] % 6) {
    case 0:
        try_answer(body);
        break;
    case 1:
        try_problem(body, statuses[data[1] % SP_ARRAY_LEN(statuses)]);
        break;
    case 2:
        try_row(body, "");
        break;
    case 3:
        (void)snprintf(length, sizeof(length), "%u", data[1]);
        try_row(body, length);
        break;
    case 4:
        try_head(body);
        break;
    default:
        try_headers(data + 2, size - 2);
        break;
    }
    return 0;
}
