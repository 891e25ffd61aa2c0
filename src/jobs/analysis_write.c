/* SPDX-License-Identifier: Apache-2.0
 * run.json: what an analysis took, who did it and what it cost. Everything that may differ from run to run stands here, so that
 * report.json need not hold any of it. */
#include "jobs/analysis_internal.h"

#include <math.h>

#define MICRODOLLARS 1e6

static double seconds(int64_t ns)
{
    return (double)ns / (double)SP_NS_PER_S;
}

const char *sp_analysis_mode(const sp_analysis_summary *summary)
{
    bool cpu = false, gpu = false;
    for (int i = 0; i < summary->link_count; i++) {
        char kind[32];
        sp_config_kind_of(summary->links[i].link, kind);
        cpu |= !strcmp(kind, "cpu");
        gpu |= strcmp(kind, "cpu") != 0;
    }
    return gpu && cpu ? "gpu+cpu" : gpu ? "gpu" : cpu ? "cpu" : "kept";
}

const sp_analysis_link *sp_analysis_main_link(const sp_analysis_summary *summary)
{
    const sp_analysis_link *most = NULL;
    for (int i = 0; i < summary->link_count; i++) {
        if (!most || summary->links[i].frames > most->frames)
            most = &summary->links[i];
    }
    return most;
}

double sp_analysis_rate(const sp_analysis_run *run, const sp_analysis_link *link)
{
    const sp_config *config = sp_house_config_now(run->house);
    const sp_price *price = config && link ? sp_config_rate(config, link->link) : NULL;
    if (!price && config && link)
        price = sp_config_rate(config, link->device);
    return price ? (double)price->per_hour / MICRODOLLARS : 0;
}

static void write_links(const sp_analysis_run *run, sp_buf *out)
{
    const sp_analysis_summary *s = &run->summary;
    sp_buf_append_text(out, ",\n \"links\": [");
    for (int i = 0; i < s->link_count; i++) {
        const sp_analysis_link *l = &s->links[i];
        sp_buf_append_text(out, i ? ",\n  {\"link\": " : "\n  {\"link\": ");
        sp_buf_append_json_text(out, l->link);
        sp_buf_append_text(out, ", \"device\": ");
        sp_buf_append_json_text(out, l->device);
        sp_buf_printf(out, ", \"chunks\": %u, \"segments\": %u, \"frames\": %u, \"busy_s\": %.3f, \"fps\": %.2f, \"rate\": %.6f, \"cost\": %.6f}",
                      l->chunks, l->segments, l->frames, seconds(l->busy_ns), l->busy_ns ? l->frames / seconds(l->busy_ns) : 0.0,
                      sp_analysis_rate(run, l), (double)l->microdollars / MICRODOLLARS);
    }
    sp_buf_append_text(out, s->link_count ? "\n ]" : "]");
}

static void write_attempts(const sp_analysis_run *run, sp_buf *out)
{
    const sp_analysis_summary *s = &run->summary;
    sp_buf_append_text(out, ",\n \"attempts\": [");
    for (int i = 0; i < s->attempt_count; i++) {
        const sp_attempt *a = &s->attempts[i];
        sp_buf_append_text(out, i ? ",\n  {\"link\": " : "\n  {\"link\": ");
        sp_buf_append_json_text(out, a->link);
        sp_buf_append_text(out, ", \"status\": ");
        sp_buf_append_json_text(out, sp_status_name(a->status));
        sp_buf_append_text(out, ", \"reason\": ");
        sp_buf_append_json_text(out, a->reason);
        sp_buf_printf(out, ", \"at_s\": %.3f, \"time_s\": %.3f}", SP_MAX(seconds(a->start_ns - s->begun_ns), 0.0),
                      SP_MAX(seconds(a->end_ns - a->start_ns), 0.0));
    }
    sp_buf_append_text(out, s->attempt_count ? "\n ]" : "]");
}

static void write_video(const sp_video_index *index, sp_buf *out)
{
    sp_buf_append_text(out, ",\n \"video\": {\"sha256\": \"");
    for (size_t i = 0; i < sizeof(index->sha256); i++)
        sp_buf_printf(out, "%02x", index->sha256[i]);
    sp_buf_append_text(out, "\", \"codec\": ");
    sp_buf_append_json_text(out, index->codec);
    double duration = index->time_base_den > 0 ? (double)index->duration_pts * index->time_base_num / index->time_base_den : 0;
    sp_buf_printf(out, ", \"width\": %d, \"height\": %d, \"bytes\": %llu, \"duration_s\": %.3f, \"segments\": %u}", index->width,
                  index->height, (unsigned long long)index->file_bytes, duration, index->segment_count);
}

void sp_analysis_run_write(const sp_analysis_run *run, sp_buf *out)
{
    const sp_analysis_summary *s = &run->summary;
    const sp_analysis_link *most = sp_analysis_main_link(s);
    int64_t end_ns = s->ended_ns ? s->ended_ns : sp_loop_now_ns(run->loop);
    double time_s = seconds(end_ns - s->begun_ns);
    uint32_t computed = 0;
    for (int i = 0; i < s->link_count; i++)
        computed += s->links[i].frames;
    sp_buf_printf(out, "{\"mode\": \"%s\", \"device\": ", sp_analysis_mode(s));
    sp_buf_append_json_text(out, most ? (*most->device ? most->device : most->link) : "");
    sp_buf_printf(out, ", \"time_s\": %.3f, \"rate\": %.6f, \"cost\": %.6f,\n \"frames_analyzed\": %u, \"frames_total\": %u, \"frames_kept\": %u, \"fps\": %.2f",
                  time_s, sp_analysis_rate(run, most), (double)s->microdollars / MICRODOLLARS, s->frames_done, s->frames_total,
                  s->frames_done - SP_MIN(computed, s->frames_done), time_s > 0 ? computed / time_s : 0.0);
    sp_buf_printf(out, ",\n \"chunks\": %u, \"chunks_done\": %u, \"segments_kept\": %u", s->chunks_total, s->chunks_done, s->segments_kept);
    sp_buf_printf(out, ",\n \"stages\": {\"index_s\": %.3f, \"analyze_s\": %.3f, \"report_s\": %.3f, \"decode_s\": %.3f, \"flow_s\": %.3f, "
                       "\"edges_s\": %.3f, \"morphology_s\": %.3f}",
                  seconds(s->index_ns), seconds(s->analyze_ns), seconds(s->report_ns), seconds(s->decode_ns), seconds(s->timing.flow_ns),
                  seconds(s->timing.edges_ns), seconds(s->timing.morphology_ns));
    write_links(run, out);
    write_attempts(run, out);
    if (run->index)
        write_video(run->index, out);
    sp_buf_append_text(out, "}\n");
}
