/* SPDX-License-Identifier: Apache-2.0
 * Status: few values, each meaning what the router should do next; and the error that explains one.
 *
 *   value            router                       breaker   HTTP when it is the answer
 *   SP_OK            deliver                      success   200
 *   SP_INVALID       answer now                   no        400 (415 for an unknown media type)
 *   SP_TOO_LARGE     answer now                   no        413
 *   SP_NOT_FOUND     answer now                   no        404
 *   SP_CONFLICT      answer now                   no        409
 *   SP_DENIED        answer now                   no        401 / 403
 *   SP_UNSUPPORTED   next link                    no        501
 *   SP_NOMEM         smaller batch, then next     repeated  503
 *   SP_BUSY          next, or shed                no        429 + Retry-After (504 when the deadline is gone)
 *   SP_REFUSED       next at once, never again    no        422
 *   SP_TIMEOUT       next, retry in the deadline  yes       504
 *   SP_UNAVAILABLE   next, retry in the deadline  yes       503
 *   SP_CANCELLED     stop                         no        499 (log only)
 *   SP_CORRUPT       quarantine, next             yes       500
 *   SP_INTERNAL      quarantine, next             yes       500
 *
 * The numbers are stable: they cross process boundaries and stand in docs/status.md. */
#ifndef SP_BASE_STATUS_H
#define SP_BASE_STATUS_H

#include "base/attr.h"

#include <stdbool.h>
#include <stdint.h>

typedef enum sp_status {
    SP_OK = 0,
    SP_INVALID = 1,
    SP_TOO_LARGE = 2,
    SP_NOT_FOUND = 3,
    SP_CONFLICT = 4,
    SP_DENIED = 5,
    SP_UNSUPPORTED = 6,
    SP_NOMEM = 7,
    SP_BUSY = 8,
    SP_REFUSED = 9,
    SP_TIMEOUT = 10,
    SP_UNAVAILABLE = 11,
    SP_CANCELLED = 12,
    SP_CORRUPT = 13,
    SP_INTERNAL = 14,
    SP_STATUS_COUNT
} sp_status;

/* Why a call did not return SP_OK. Caller's storage, no heap; zero-initialise it.
 * `origin` is the library that spoke first ("libjpeg", "onnxruntime", "kernel"; "" = Spillway itself)
 * and `origin_code` its own number. `code` is a short stable word for programs ("truncated_body",
 * "crashed_decoder"; "" = none beyond the status). */
typedef struct sp_error {
    sp_status status;
    int32_t origin_code;
    int32_t line;
    char origin[16];
    char code[32];
    char file[40];
    char message[256];
} sp_error;

/* Fills *reterr (may be NULL) and returns `status`, so that failing reads `return SP_FAIL(...)`. */
#define SP_FAIL(reterr, status, ...) sp_error_set((reterr), (status), "", "", 0, __FILE__, __LINE__, __VA_ARGS__)
#define SP_FAIL_CODE(reterr, status, code, ...) \
    sp_error_set((reterr), (status), (code), "", 0, __FILE__, __LINE__, __VA_ARGS__)
#define SP_FAIL_FROM(reterr, status, origin, origin_code, ...) \
    sp_error_set((reterr), (status), "", (origin), (origin_code), __FILE__, __LINE__, __VA_ARGS__)
/* The kernel refused: origin "kernel", code errno, and strerror appended to the message. */
#define SP_FAIL_ERRNO(reterr, status, ...) sp_error_set_errno((reterr), (status), __FILE__, __LINE__, __VA_ARGS__)

sp_status sp_error_set(sp_error *reterr, sp_status status, const char *code, const char *origin, int origin_code,
                       const char *file, int line, const char *format, ...) SP_PRINTF(8, 9);
sp_status sp_error_set_errno(sp_error *reterr, sp_status status, const char *file, int line, const char *format, ...)
    SP_PRINTF(5, 6);

/* From now on `unexpected` is called with each error of status SP_INTERNAL, on the thread that makes it, before its maker
 * has it back. Set before the second thread; NULL = nobody. */
void sp_error_watch(void (*unexpected)(const sp_error *err));

/* "ok", "invalid", "too_large", ...: the word used in JSON, metrics labels and logs. Never NULL. */
const char *sp_status_name(sp_status status);

/* The HTTP status code of the table above. */
int sp_status_http(sp_status status);

/* True when another link may still answer (UNSUPPORTED ... INTERNAL except CANCELLED). */
bool sp_status_tries_next(sp_status status);

/* True when the breaker of the link counts this as a failure. */
bool sp_status_feeds_breaker(sp_status status);

/* When a chain is exhausted the answer is the attempt that ranks highest:
 * DENIED > INVALID > TOO_LARGE > NOT_FOUND > CONFLICT > REFUSED > BUSY > NOMEM > TIMEOUT > UNAVAILABLE >
 * UNSUPPORTED > CORRUPT > INTERNAL. Greater = reported first. */
int sp_status_rank(sp_status status);

/* Our own mistakes; stays on in release: prints where and aborts (the supervisor restarts a worker). */
#define SP_ASSERT(expr) (SP_LIKELY(expr) ? (void)0 : sp_assert_failed(#expr, __FILE__, __LINE__))
void sp_assert_failed(const char *expr, const char *file, int line) SP_NORETURN;
#ifdef NDEBUG
#define SP_DASSERT(expr) ((void)0)
#else
#define SP_DASSERT(expr) SP_ASSERT(expr)
#endif

#endif
