/* SPDX-License-Identifier: Apache-2.0
 * The answer of another house: copied, checked, and merged into ours, so that the client sees the whole way it took. */
#include "base/clock.h"
#include "route/dispatch.h"

#include <stdio.h>
#include <string.h>

static void seal(char *text, size_t size)
{
    text[size - 1] = 0;
}

static void seal_all(sp_answer_remote *far)
{
    seal(far->link, sizeof(far->link));
    seal(far->device, sizeof(far->device));
    seal(far->precision, sizeof(far->precision));
    seal(far->model, sizeof(far->model));
    seal(far->version, sizeof(far->version));
    seal(far->engine, sizeof(far->engine));
    for (uint32_t i = 0; i < far->attempt_count; i++) {
        seal(far->attempts[i].link, sizeof(far->attempts[i].link));
        seal(far->attempts[i].reason, sizeof(far->attempts[i].reason));
    }
}

/* "house-b/cuda0"; "house-b" when the far side does not say who. */
static void name_far(char *ret_name, size_t size, const char *near, const char *far)
{
    (void)snprintf(ret_name, size, "%s%s%s", near, far[0] ? "/" : "", far);
}

/* True when one of them worked. */
static bool merge_attempts(sp_request *request, const sp_answer_remote *far, const char *near, int64_t given_ns)
{
    char name[72];
    bool answered = false;
    int64_t at_ns = given_ns, now_ns = sp_clock_now_ns(); /* its clock is not ours: laid end to end from when we asked */
    for (uint32_t i = 0; i < far->attempt_count; i++) {
        const sp_remote_attempt *there = &far->attempts[i];
        sp_status status = there->status < SP_STATUS_COUNT ? (sp_status)there->status : SP_INTERNAL;
        name_far(name, sizeof(name), near, there->link);
        sp_attempt *attempt = sp_request_attempt_add(request, name, status, at_ns, there->reason);
        attempt->end_ns = SP_MIN(at_ns + SP_CLAMP(there->duration_ns, (int64_t)0, 3600 * SP_NS_PER_S), now_ns);
        at_ns = attempt->end_ns;
        answered |= status == SP_OK;
    }
    return answered;
}

void sp_remote_take_failure(const sp_worker *worker, sp_request *request, const sp_lease *lease, const sp_completion *done)
{
    static sp_answer_remote_failure failure; /* loop thread only */
    if (done->answer_bytes != sizeof(failure))
        return; /* it did not come so far, or the far side told nothing */
    memcpy(&failure, worker->answers + (size_t)done->slot * SP_ANSWER_STRIDE, sizeof(failure));
    if (failure.remote.attempt_count > SP_LIMIT_ATTEMPTS)
        return;
    seal_all(&failure.remote);
    (void)merge_attempts(request, &failure.remote, worker->house->links[lease->link].name, lease->given_ns);
}

sp_status sp_remote_take(const sp_worker *worker, sp_request *request, const sp_lease *lease, const sp_completion *done,
                         uint32_t *ret_offset, uint32_t *ret_bytes)
{
    static sp_answer_remote far; /* loop thread only */
    sp_answer *answer = &request->answer;
    if (done->answer_bytes < sizeof(far))
        return SP_FAIL(&answer->error, SP_INTERNAL, "%s wrote an answer of %u bytes", worker->name, done->answer_bytes);
    memcpy(&far, worker->answers + (size_t)done->slot * SP_ANSWER_STRIDE, sizeof(far));
    if (far.attempt_count > SP_LIMIT_ATTEMPTS)
        return SP_FAIL(&answer->error, SP_INTERNAL, "%s wrote %u attempts", worker->name, far.attempt_count);
    seal_all(&far);
    const char *near = worker->house->links[lease->link].name;
    char name[72];
    name_far(name, sizeof(name), near, far.link);
    (void)snprintf(answer->link, sizeof(answer->link), "%.31s", name);
    (void)snprintf(answer->device, sizeof(answer->device), "%s", far.device);
    (void)snprintf(answer->precision, sizeof(answer->precision), "%s", far.precision);
    (void)snprintf(answer->version, sizeof(answer->version), "%s", far.version);
    (void)snprintf(answer->engine, sizeof(answer->engine), "%s", far.engine);
    if (far.model[0])
        (void)snprintf(answer->model, sizeof(answer->model), "%s", far.model);
    if (!merge_attempts(request, &far, near, lease->given_ns))
        sp_request_attempt_add(request, name, SP_OK, lease->given_ns, "");
    *ret_offset = sizeof(far);
    *ret_bytes = done->answer_bytes - (uint32_t)sizeof(far);
    return SP_OK;
}
