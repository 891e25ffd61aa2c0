/* SPDX-License-Identifier: Apache-2.0
 * report.html: one page for people. Nothing is loaded from elsewhere but the key frames beside it; plots are inline SVG, light or
 * dark as the reader's system is. Strings from the file are escaped. */
#include "task/analyze_internal.h"

#include "task/analyze_plot.h"

/* Rows of a table before it says how many more there are. */
#define ROWS_MAX 100u

static const char head[] =
    "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
    "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>Video analysis</title>\n<style>\n"
    ":root{color-scheme:light dark;--bg:#fff;--fg:#1a1d21;--dim:#667;--line:#dde1e6;--card:#f6f7f9;--a:#0b6bcb;--band:#0b6bcb33;"
    "--cut:#c2410c;--key:#15803d}\n"
    "@media (prefers-color-scheme:dark){:root{--bg:#14161a;--fg:#e6e8eb;--dim:#99a;--line:#30343b;--card:#1d2025;--a:#6cb2ff;"
    "--band:#6cb2ff33;--cut:#fb923c;--key:#4ade80}}\n"
    "body{margin:0 auto;max-width:1060px;padding:24px 16px 64px;font:15px/1.45 system-ui,sans-serif;background:var(--bg);"
    "color:var(--fg)}\n"
    "h1{font-size:24px;margin:0 0 4px}h2{font-size:18px;margin:32px 0 8px}p{margin:4px 0}.dim{color:var(--dim)}\n"
    ".tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(128px,1fr));gap:8px;margin:16px 0}\n"
    ".tile{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:10px 12px}.tile b{display:block;"
    "font-size:20px}\n"
    "figure{margin:12px 0}figcaption{font-weight:600;font-size:14px}svg{width:100%;height:auto;display:block}\n"
    "svg text{fill:var(--dim);font:11px system-ui,sans-serif}.grid{stroke:var(--line);stroke-width:1}\n"
    ".line{fill:none;stroke:var(--a);stroke-width:1.4;stroke-linejoin:round}.band{fill:var(--band);stroke:none}\n"
    ".cut{stroke:var(--cut);stroke-width:1;stroke-dasharray:3 3}.key{fill:var(--key)}\n"
    ".keys{display:grid;grid-template-columns:repeat(auto-fill,minmax(220px,1fr));gap:12px}.keys figure{margin:0}\n"
    ".keys img{width:100%;height:auto;border-radius:6px;border:1px solid var(--line);background:var(--card)}\n"
    ".scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:13px}\n"
    "th,td{text-align:right;padding:3px 10px;border-bottom:1px solid var(--line);white-space:nowrap}"
    "th{color:var(--dim);font-weight:600}td.text,th.text{text-align:left;white-space:normal}\n"
    "</style>\n</head>\n<body>\n";

void sp_put_html(sp_buf *out, const char *text)
{
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '<' || c == '>' || c == '&' || c == '"' || c == '\'')
            sp_buf_printf(out, "&#%d;", c);
        else if (c < ' ' || c >= 127) /* whatever encoding a file's strings had */
            sp_buf_append(out, "?", 1);
        else
            sp_buf_append(out, text, 1);
    }
}

void sp_put_when(sp_buf *out, const sp_analysis *a, uint32_t position)
{
    int64_t us = sp_analysis_time_us(a, a->frames[position]->number);
    if (us < 0) {
        sp_buf_printf(out, "frame %u", a->frames[position]->number);
        return;
    }
    sp_buf_printf(out, "%lld:%02lld.%02lld", (long long)(us / 60000000), (long long)(us / 1000000 % 60),
                  (long long)(us / 10000 % 100));
}

/* --- the top --- */

static void put_tile(sp_buf *out, const char *name, uint64_t value)
{
    sp_buf_printf(out, "<div class=\"tile\"><b>%llu</b>%s</div>\n", (unsigned long long)value, name);
}

static void put_summary(sp_buf *out, const sp_analysis *a)
{
    const sp_video_index *x = a->index;
    uint64_t blurred = 0, badly_lit = 0, moving = 0;
    for (uint32_t i = 0; i < a->frame_count; i++) {
        blurred += a->verdicts[i].blurred;
        badly_lit += a->verdicts[i].exposure != SP_EXPOSURE_OK;
        moving += sp_motion_counts(a, i) && a->frames[i]->motion_count > 0;
    }
    sp_buf_append_text(out, "<h1>Video analysis</h1>\n");
    sp_buf_printf(out, "<p>Analysed %u of %u frames. ", a->frame_count, x->frame_count);
    sp_put_html(out, x->codec);
    sp_buf_printf(out, ", %d x %d", x->width, x->height);
    if (x->rate_num > 0 && x->rate_den > 0) {
        sp_buf_append_text(out, ", ");
        sp_put_fixed(out, x->rate_num, x->rate_den, 2);
        sp_buf_append_text(out, x->variable_rate ? " frames/s on average" : " frames/s");
    }
    sp_buf_append_text(out, ".</p>\n<p class=\"dim\">sha256 ");
    for (int i = 0; i < 32; i++)
        sp_buf_printf(out, "%02x", x->sha256[i]);
    sp_buf_append_text(out, "</p>\n<div class=\"tiles\">\n");
    put_tile(out, "scenes", a->scene_count);
    put_tile(out, "frames with motion", moving);
    put_tile(out, "motion tracks", a->motion.found);
    put_tile(out, "defect candidates", a->defects.found);
    put_tile(out, "blurred frames", blurred);
    put_tile(out, "badly exposed frames", badly_lit);
    put_tile(out, "lost frames", x->frame_count - a->frame_count);
    sp_buf_append_text(out, "</div>\n");
}

static void put_gallery(sp_buf *out, const sp_analysis *a)
{
    if (a->key_count == 0)
        return;
    sp_buf_append_text(out, "<h2>Key frames</h2>\n<p class=\"dim\">Chosen by sharpness, motion and spacing. Green: moves; red: may be a "
                            "defect.</p>\n<div class=\"keys\">\n");
    for (uint32_t i = 0; i < a->key_count; i++) {
        uint32_t number = a->frames[a->keys[i]]->number;
        sp_buf_printf(out, "<figure><a href=\"key/%06u.png\"><img loading=\"lazy\" src=\"key/%06u.png\" alt=\"frame %u\" width=\"%d\" "
                      "height=\"%d\"></a><figcaption>frame %u <span class=\"dim\">", number, number, number, a->index->width,
                      a->index->height, number);
        sp_put_when(out, a, a->keys[i]);
        sp_buf_append_text(out, "</span></figcaption></figure>\n");
    }
    sp_buf_append_text(out, "</div>\n");
}

/* --- tables --- */

static void table_begin(sp_buf *out, const char *title, const char *columns)
{
    sp_buf_printf(out, "<h2>%s</h2>\n<div class=\"scroll\"><table>\n<tr>%s</tr>\n", title, columns);
}

static void table_end(sp_buf *out, uint64_t left)
{
    sp_buf_append_text(out, "</table></div>\n");
    if (left)
        sp_buf_printf(out, "<p class=\"dim\">and %llu more (report.json)</p>\n", (unsigned long long)left);
}

static void put_cell(sp_buf *out, uint64_t value, uint64_t divisor, int digits)
{
    sp_buf_append_text(out, "<td>");
    sp_put_fixed(out, (int64_t)value, divisor ? (int64_t)divisor : 1, digits);
    sp_buf_append_text(out, "</td>");
}

static void put_when_cell(sp_buf *out, const sp_analysis *a, uint32_t position)
{
    sp_buf_append_text(out, "<td>");
    sp_put_when(out, a, position);
    sp_buf_append_text(out, "</td>");
}

static void put_scene_table(sp_buf *out, const sp_analysis *a)
{
    uint32_t shown = SP_MIN(a->scene_count, ROWS_MAX);
    table_begin(out, "Scenes", "<th>scene</th><th>begin</th><th>first frame</th><th>last frame</th><th>median sharpness</th>"
                               "<th>mean flow (px)</th><th>blurred frames</th>");
    for (uint32_t i = 0; i < shown; i++) {
        const sp_scene *s = &a->scenes[i];
        sp_buf_printf(out, "<tr><td>%u</td>", i);
        put_when_cell(out, a, s->first);
        put_cell(out, a->frames[s->first]->number, 1, 0);
        put_cell(out, a->frames[s->last]->number, 1, 0);
        put_cell(out, s->median_sharpness, 1000, 1);
        put_cell(out, s->flow_sum, 1024 * (uint64_t)s->pairs, 3);
        put_cell(out, s->blurred, 1, 0);
        sp_buf_append_text(out, "</tr>\n");
    }
    table_end(out, a->scene_count - shown);
}

static void put_track_table(sp_buf *out, const sp_analysis *a, const sp_track_list *list, const char *title, uint64_t unit)
{
    if (list->count == 0)
        return;
    uint32_t shown = SP_MIN(list->count, ROWS_MAX);
    bool still = list == &a->defects;
    table_begin(out, title, "<th>id</th><th>begin</th><th>first frame</th><th>last frame</th><th>seen</th><th>mean area (px)</th>"
                            "<th>strength</th><th>where</th>");
    for (uint32_t i = 0; i < shown; i++) {
        const sp_track *t = &list->tracks[i];
        sp_buf_printf(out, "<tr><td>%u</td>", i);
        put_when_cell(out, a, t->first);
        put_cell(out, a->frames[t->first]->number, 1, 0);
        put_cell(out, a->frames[t->last]->number, 1, 0);
        put_cell(out, t->seen, 1, 0);
        put_cell(out, t->area_sum, t->seen, 1);
        put_cell(out, t->strength_sum, t->area_sum * unit, 2);
        sp_buf_printf(out, "<td>(%u, %u) to (%u, %u)%s</td></tr>\n", t->x0, t->y0, t->x1, t->y1,
                      !still ? "" : sp_track_is_on_lens(a, t) ? ", on the lens" : ", in the scene");
    }
    table_end(out, list->found - shown);
}

static void put_loss_table(sp_buf *out, const sp_analysis *a)
{
    uint32_t shown = 0, all = 0;
    for (uint32_t i = 0; i < a->index->segment_count; i++) {
        const sp_video_loss *loss = &a->segments[i]->loss;
        if (!(loss->lost_frames | loss->damaged_frames | loss->error_count) || ++all > ROWS_MAX)
            continue;
        if (shown++ == 0)
            table_begin(out, "What is missing", "<th>segment</th><th>from frame</th><th>lost</th><th>damaged</th>"
                                                "<th>decoder errors</th><th class=\"text\">reason</th>");
        sp_buf_printf(out, "<tr><td>%u</td><td>%u</td><td>%u</td><td>%u</td><td>%u</td><td class=\"text\">", i,
                      sp_video_index_segments(a->index)[i].first_frame, loss->lost_frames, loss->damaged_frames, loss->error_count);
        sp_put_html(out, loss->reason);
        sp_buf_append_text(out, "</td></tr>\n");
    }
    if (shown)
        table_end(out, all - shown);
    for (uint32_t i = 0; i < a->index->note_count; i++) {
        sp_buf_append_text(out, "<p>Note: ");
        sp_put_html(out, a->index->notes[i]);
        sp_buf_append_text(out, "</p>\n");
    }
}

static void put_parameter_table(sp_buf *out, const sp_analysis *a)
{
    int count;
    const sp_param_rule *rules = sp_analyze_param_rules(&count);
    table_begin(out, "Parameters", "<th class=\"text\">name</th><th>value</th>");
    for (int i = 0; i < count; i++) {
        double value = sp_analyze_param_value(&a->params, &rules[i]);
        sp_buf_printf(out, "<tr><td class=\"text\">%s</td><td>%.6g</td></tr>\n", rules[i].name,
                      rules[i].kind == SP_PARAM_PIXELS ? value / 1024 : value);
    }
    table_end(out, 0);
}

void sp_analysis_write_html(const sp_analysis *a, sp_buf *out)
{
    sp_buf_append_text(out, head);
    put_summary(out, a);
    sp_put_plots(out, a);
    put_gallery(out, a);
    if (a->scene_count)
        put_scene_table(out, a);
    put_track_table(out, a, &a->motion, "What moves (strength: mean flow, px a frame)", 1024);
    put_track_table(out, a, &a->defects, "Defect candidates (strength: grey levels off the surroundings)", 256);
    put_loss_table(out, a);
    put_parameter_table(out, a);
    sp_buf_append_text(out, "</body>\n</html>\n");
}
