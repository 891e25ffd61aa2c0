/* SPDX-License-Identifier: Apache-2.0
 * See analyze_print.h. */
#include "cli/analyze_print.h"

#include "base/clock.h"

#include <stdio.h>

#define LINE_NS (10 * SP_NS_PER_S)
#define MICRODOLLARS 1e6

void sp_analyze_progress_begin(sp_analyze_progress *progress, bool silent)
{
    *progress = (sp_analyze_progress){ .silent = silent, .said_ns = sp_clock_now_ns() };
    if (!silent)
        sp_progress_begin(&progress->bar, "analyze", SP_PROGRESS_FRAMES);
}

static double seconds(int64_t ns)
{
    return (double)ns / 1e9;
}

static void say_line(sp_analyze_progress *progress, const sp_analysis_summary *summary, int64_t now_ns)
{
    double took = seconds(now_ns - progress->first_ns);
    double fps = took > 0 ? (summary->frames_done - progress->first_frames) / took : 0;
    fprintf(stderr, "analyze: %u of %u frames, %.1f frames/s", summary->frames_done, summary->frames_total, fps);
    if (fps > 0)
        fprintf(stderr, ", %.0f s left", (summary->frames_total - summary->frames_done) / fps);
    fputc('\n', stderr);
}

void sp_analyze_progress_show(sp_analyze_progress *progress, const sp_analysis_run *run)
{
    sp_analysis_summary summary;
    sp_analysis_phase phase = sp_analysis_run_state(run, &summary);
    int64_t now_ns = sp_clock_now_ns();
    if (progress->silent)
        return;
    if (phase == SP_ANALYSIS_REPORTING && progress->begun && !progress->reporting) {
        progress->reporting = true;
        sp_progress_end(&progress->bar);
        fputs(progress->bar.active ? "analyze: writing the report" : "", stderr); /* wiped at the end */
        progress->bar.drawn = progress->bar.active;
    }
    if (phase != SP_ANALYSIS_WORKING)
        return;
    if (!progress->begun) {
        progress->begun = true;
        progress->first_ns = now_ns;
        progress->first_frames = summary.frames_done;
    }
    sp_progress_update(&progress->bar, summary.frames_done, summary.frames_total);
    if (!progress->bar.active && now_ns - progress->said_ns >= LINE_NS) {
        progress->said_ns = now_ns;
        say_line(progress, &summary, now_ns);
    }
}

void sp_analyze_progress_end(sp_analyze_progress *progress)
{
    sp_progress_end(&progress->bar);
}

static void print_devices(const sp_analysis_run *run, const sp_analysis_summary *s)
{
    if (!s->link_count)
        printf("device    none: everything was kept from an earlier run\n");
    for (int i = 0; i < s->link_count; i++) {
        const sp_analysis_link *l = &s->links[i];
        printf("%-10s%s", i ? "" : "device", l->link);
        if (*l->device && strcmp(l->device, l->link))
            printf(" (%s)", l->device);
        printf(": %u chunk%s, %u frames", l->chunks, l->chunks == 1 ? "" : "s", l->frames);
        if (l->busy_ns)
            printf(", %.1f frames/s", l->frames / seconds(l->busy_ns));
        putchar('\n');
    }
}

void sp_analyze_print(const sp_analysis_run *run, const char *output)
{
    sp_analysis_summary s;
    (void)sp_analysis_run_state(run, &s);
    const sp_analysis_link *most = sp_analysis_main_link(&s);
    double rate = sp_analysis_rate(run, most), total = seconds(s.ended_ns - s.begun_ns);
    uint32_t computed = 0;
    for (int i = 0; i < s.link_count; i++)
        computed += s.links[i].frames;

    printf("mode      %s\n", sp_analysis_mode(&s));
    print_devices(run, &s);
    printf("chunks    %u", s.chunks_total);
    if (s.segments_kept)
        printf(" (%u segments kept from an earlier run)", s.segments_kept);
    printf("\nanalysed %u of %u frames\n", s.frames_done, s.frames_total);
    if (s.frames_done < s.frames_total)
        printf("lost      %u frames that could not be decoded; report.json says where\n", s.frames_total - s.frames_done);
    if (s.attempt_count)
        printf("attempts  %d failed and were taken over; the last: %s, %s\n", s.attempt_count, s.attempts[s.attempt_count - 1].link,
               s.attempts[s.attempt_count - 1].reason);
    printf("time      %.2f s (index %.2f, analysis %.2f, report %.2f)", total, seconds(s.index_ns), seconds(s.analyze_ns), seconds(s.report_ns));
    if (total > 0 && computed)
        printf(", %.1f frames/s", computed / total);
    printf("\ncost      $%.6f", (double)s.microdollars / MICRODOLLARS);
    if (rate > 0)
        printf(" at $%.2f an hour", rate);
    size_t length = strlen(output);
    printf("\nreport    %s%sreport.json, report.html\n", output, length && output[length - 1] == '/' ? "" : "/");
}
