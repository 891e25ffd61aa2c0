/* SPDX-License-Identifier: Apache-2.0
 * See progress.h. The rate is the mean since the first update: steadier than a window, and a download that was resumed
 * does not count what it had before. */
#include "cli/progress.h"

#include "base/attr.h"
#include "base/clock.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define BAR_COLUMNS 24
#define REDRAW_NS (SP_NS_PER_S / 10)

void sp_progress_begin(sp_progress *progress, const char *label, sp_progress_unit unit)
{
    *progress = (sp_progress){ .label = label, .unit = unit, .active = isatty(STDERR_FILENO) == 1 };
}

static void format_amount(char *text, size_t text_bytes, sp_progress_unit unit, double amount)
{
    if (unit != SP_PROGRESS_BYTES)
        snprintf(text, text_bytes, "%.0f", amount);
    else if (amount < 1e6)
        snprintf(text, text_bytes, "%.0f kB", amount / 1e3);
    else
        snprintf(text, text_bytes, "%.1f MB", amount / 1e6);
}

static void format_left(char *text, size_t text_bytes, double seconds)
{
    if (seconds >= 3600)
        snprintf(text, text_bytes, "%.0fh%02.0fm left", seconds / 3600, (double)((long)(seconds / 60) % 60));
    else if (seconds >= 60)
        snprintf(text, text_bytes, "%ldm%02lds left", (long)seconds / 60, (long)seconds % 60);
    else
        snprintf(text, text_bytes, "%.0fs left", seconds);
}

static void draw(sp_progress *progress, uint64_t total, int64_t now_ns)
{
    char bar[BAR_COLUMNS + 1], done_text[32], total_text[32], rate_text[32], left[32] = "";
    double seconds = (double)(now_ns - progress->start_ns) / 1e9;
    double rate = seconds > 0 ? (double)(progress->done - progress->first) / seconds : 0;
    size_t filled = total ? (size_t)((double)progress->done / (double)total * BAR_COLUMNS) : 0;

    filled = SP_MIN(filled, (size_t)BAR_COLUMNS);
    memset(bar, ' ', BAR_COLUMNS);
    memset(bar, '#', filled);
    bar[BAR_COLUMNS] = '\0';
    format_amount(done_text, sizeof(done_text), progress->unit, (double)progress->done);
    format_amount(total_text, sizeof(total_text), progress->unit, (double)total);
    if (progress->unit == SP_PROGRESS_FRAMES)
        snprintf(rate_text, sizeof(rate_text), "%.1f frames", rate);
    else if (rate < 10 && progress->unit == SP_PROGRESS_FILES)
        snprintf(rate_text, sizeof(rate_text), "%.1f", rate);
    else
        format_amount(rate_text, sizeof(rate_text), progress->unit, rate);
    if (rate > 0 && total > progress->done)
        format_left(left, sizeof(left), (double)(total - progress->done) / rate);
    if (total)
        fprintf(stderr, "\r\033[K%s [%s] %3.0f %%  %s of %s  %s/s  %s", progress->label, bar,
                100.0 * (double)progress->done / (double)total, done_text, total_text, rate_text, left);
    else
        fprintf(stderr, "\r\033[K%s  %s  %s/s", progress->label, done_text, rate_text);
    fflush(stderr);
}

void sp_progress_update(sp_progress *progress, uint64_t done, uint64_t total)
{
    int64_t now_ns = sp_clock_now_ns();

    if (!progress->active)
        return;
    if (!progress->begun) {
        progress->begun = true;
        progress->first = done;
        progress->start_ns = now_ns;
    }
    progress->done = done;
    if (progress->drawn && now_ns - progress->last_ns < REDRAW_NS)
        return;
    progress->drawn = true;
    progress->last_ns = now_ns;
    draw(progress, total, now_ns);
}

void sp_progress_end(sp_progress *progress)
{
    if (progress->drawn) {
        fputs("\r\033[K", stderr);
        fflush(stderr);
    }
    progress->drawn = false;
}
