/* SPDX-License-Identifier: Apache-2.0
 * The watch over SP_INTERNAL. Addresses are printed as module+offset, which addr2line reads; the program's own functions
 * have no names in it, those of libraries do. */
#include "worker/unexpected.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/status.h"
#include "base/view.h"

#include <execinfo.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PLACES 64 /* more than a process has ways to fail unexpectedly; those beyond are not logged */
#define FRAMES 24
#define OWN_FRAMES 3 /* ours, the hook's caller and what made the error */
#define PAUSE_NS (60 * SP_NS_PER_S)

typedef struct place {
    char file[40];
    int line;
    int64_t logged_ns;
    int left_out;
} place;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards places */
static place places[PLACES];

/* True when this one is to be logged; *ret_left_out = how many were not since the last. */
static bool is_due(const sp_error *err, int *ret_left_out)
{
    bool due = false;
    int64_t now_ns = sp_clock_now_ns();
    (void)pthread_mutex_lock(&lock);
    for (int i = 0; i < PLACES; i++) {
        place *p = &places[i];
        if (p->logged_ns && (p->line != err->line || strcmp(p->file, err->file) != 0))
            continue;
        due = !p->logged_ns || now_ns - p->logged_ns >= PAUSE_NS;
        *ret_left_out = p->left_out;
        p->left_out = due ? 0 : p->left_out + 1;
        if (due) {
            (void)snprintf(p->file, sizeof(p->file), "%s", err->file);
            p->line = err->line;
            p->logged_ns = now_ns;
        }
        break;
    }
    (void)pthread_mutex_unlock(&lock);
    return due;
}

/* "spillway+0x1234 < libonnxruntime.so.1(Run+0x5)+...": the innermost first. */
static void describe_stack(char *text, size_t size)
{
    void *frames[FRAMES];
    int count = backtrace(frames, FRAMES);
    char **names = backtrace_symbols(frames, count);
    size_t at = 0;
    text[0] = 0;
    for (int i = SP_MIN(OWN_FRAMES, count); names && i < count && at < size; i++) {
        const char *slash = strrchr(names[i], '/');
        const char *name = slash ? slash + 1 : names[i];
        int n = snprintf(text + at, size - at, "%s%.*s", at ? " < " : "", (int)strcspn(name, " "), name);
        at += n > 0 ? (size_t)n : 0;
    }
    free(names);
}

static void on_unexpected(const sp_error *err)
{
    static __thread bool inside; /* what is called here may fail in the same way */
    int left_out = 0;
    if (inside || !is_due(err, &left_out))
        return;
    inside = true;
    char stack[1024], where[64];
    describe_stack(stack, sizeof(stack));
    (void)snprintf(where, sizeof(where), "%s:%d", err->file, err->line);
    sp_log(SP_LOG_ERROR, "unexpected error", SP_LOG_TEXT("reason", err->message), SP_LOG_TEXT("origin", err->origin),
           SP_LOG_INT("origin_code", err->origin_code), SP_LOG_TEXT("where", where), SP_LOG_TEXT("backtrace", stack),
           SP_LOG_INT("left_out", left_out));
    inside = false;
}

void sp_unexpected_watch(void)
{
    void *frame[1];
    (void)backtrace(frame, 1);
    sp_error_watch(on_unexpected);
}
