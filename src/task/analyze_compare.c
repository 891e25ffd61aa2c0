/* SPDX-License-Identifier: Apache-2.0
 * Where two reports part. Both texts are read side by side, token by token, so that reports of any length need no memory; white
 * space does not matter, order does (the writer always writes the same one). */
#include "task/analyze_internal.h"

#include <stdio.h>

#define DEPTH_MAX 12
#define SHOWN 80 /* bytes of a value in the sentence */

typedef struct text {
    const char *at, *end, *begin;
    const char *which;
} text;
typedef struct token {
    char kind; /* { } [ ] : , s (string) v (number, true, false, null) e (end) ? (not JSON) */
    const char *begin;
    size_t bytes;
} token;
typedef struct step { /* one step of the way to where we are */
    const char *name; /* NULL = an index */
    size_t name_bytes, index;
} step;
typedef struct reading {
    text a, b;
    step path[DEPTH_MAX + 1];
    int depth;
    sp_view columns[SP_COLUMNS_MAX + 2], region[16];
    size_t column_count, region_count;
    unsigned long long frame; /* number of the row in hand */
    bool differ;
    sp_buf *out;
    sp_error *reterr;
} reading;

/* --- tokens --- */

static token next_token(text *t)
{
    while (t->at < t->end && (*t->at == ' ' || *t->at == '\n' || *t->at == '\r' || *t->at == '\t'))
        t->at++;
    token k = { 'e', t->at, 0 };
    if (t->at == t->end)
        return k;
    if (*t->at && strchr("{}[]:,", *t->at)) {
        k.kind = *t->at++;
    } else if (*t->at == '"') {
        for (t->at++; t->at < t->end && *t->at != '"'; t->at++)
            t->at += *t->at == '\\' && t->at + 1 < t->end;
        k.kind = t->at < t->end ? 's' : 'e';
        t->at += t->at < t->end;
    } else {
        while (t->at < t->end && *t->at && strchr("+-.0123456789abcdefghijklmnopqrstuvwxyzE", *t->at))
            t->at++;
        k.kind = t->at > k.begin ? 'v' : '?';
    }
    k.bytes = (size_t)(t->at - k.begin);
    return k;
}

static token peek_token(const text *t)
{
    text copy = *t;
    return next_token(&copy);
}

static bool same(token a, token b)
{
    return a.kind == b.kind && a.bytes == b.bytes && memcmp(a.begin, b.begin, a.bytes) == 0;
}

static sp_status broken(reading *r, const text *t, token k)
{
    if (k.kind == 'e')
        return SP_FAIL_CODE(r->reterr, SP_INVALID, "bad_report", "the %s report ends too early", t->which);
    return SP_FAIL_CODE(r->reterr, SP_INVALID, "bad_report", "the %s report is no JSON at byte %zu", t->which,
                        (size_t)(k.begin - t->begin));
}

/* --- the sentence --- */

static bool is_name(const step *s, const char *name)
{
    return s->name && s->name_bytes == strlen(name) && memcmp(s->name, name, s->name_bytes) == 0;
}

static void say_step(sp_buf *out, const step *s, bool first)
{
    if (s->name)
        sp_buf_printf(out, "%s%.*s", first ? "" : ".", (int)s->name_bytes, s->name);
    else
        sp_buf_printf(out, "[%zu]", s->index);
}

/* frames.rows[i][c][k][m] is called frames[number].column[k].field once the number is known to be the same. */
static void say_path(reading *r)
{
    int i = 0;
    if (r->depth >= 4 && r->path[3].index > 0 && is_name(&r->path[0], "frames") && is_name(&r->path[1], "rows")) {
        sp_buf_printf(r->out, "frames[%llu]", r->frame);
        i = 3;
        if (r->path[i].index < r->column_count) {
            sp_view name = r->columns[r->path[i++].index];
            sp_buf_printf(r->out, ".%.*s", (int)name.size_bytes, (const char *)name.data);
        }
        if (i == 4 && r->depth == 6 && r->path[5].index < r->region_count) {
            sp_view name = r->region[r->path[5].index];
            sp_buf_printf(r->out, "[%zu].%.*s", r->path[4].index, (int)name.size_bytes, (const char *)name.data);
            return;
        }
    }
    for (; i < r->depth; i++)
        say_step(r->out, &r->path[i], i == 0);
}

static void say_token(sp_buf *out, token k)
{
    static const char *const kinds[] = { "{an object", "[a list" };
    for (size_t i = 0; i < SP_ARRAY_LEN(kinds); i++) {
        if (k.kind == kinds[i][0]) {
            sp_buf_append_text(out, kinds[i] + 1);
            return;
        }
    }
    sp_buf_printf(out, "%.*s%s", (int)SP_MIN(k.bytes, (size_t)SHOWN), k.begin, k.bytes > SHOWN ? "..." : "");
}

static sp_status say_difference(reading *r, token a, token b)
{
    r->differ = true;
    say_path(r);
    sp_buf_append_text(r->out, ": ");
    say_token(r->out, a);
    sp_buf_append_text(r->out, " and ");
    say_token(r->out, b);
    return SP_OK;
}

static sp_status say_missing(reading *r, const char *where)
{
    r->differ = true;
    say_path(r);
    sp_buf_printf(r->out, ": missing in the %s report", where);
    return SP_OK;
}

/* --- side by side --- */

/* Names of columns and numbers of frames, for the sentence. */
static void remember(reading *r, token a)
{
    const step *p = r->path;
    sp_view name = sp_view_make(a.begin + 1, a.bytes >= 2 ? a.bytes - 2 : 0);
    const char *space = memchr(name.data, ' ', name.size_bytes);
    if (space)
        name.size_bytes = (size_t)(space - (const char *)name.data);
    if (r->depth == 3 && is_name(&p[0], "frames") && a.kind == 's') {
        if (is_name(&p[1], "columns") && r->column_count < SP_ARRAY_LEN(r->columns))
            r->columns[r->column_count++] = name;
        else if (is_name(&p[1], "region") && r->region_count < SP_ARRAY_LEN(r->region))
            r->region[r->region_count++] = name;
    }
    if (r->depth == 4 && p[3].index == 0 && is_name(&p[1], "rows") && a.kind == 'v') {
        r->frame = 0;
        for (size_t i = 0; i < a.bytes && a.begin[i] >= '0' && a.begin[i] <= '9'; i++)
            r->frame = r->frame * 10 + (unsigned)(a.begin[i] - '0');
    }
}

static sp_status compare_value(reading *r);

/* The name and the colon of an object's next member. */
static sp_status compare_name(reading *r)
{
    token a = next_token(&r->a), b = next_token(&r->b);
    if (a.kind != 's')
        return broken(r, &r->a, a);
    if (b.kind != 's')
        return broken(r, &r->b, b);
    if (!same(a, b))
        return say_difference(r, a, b);
    r->path[r->depth - 1] = (step){ a.begin + 1, a.bytes - 2, 0 };
    a = next_token(&r->a);
    b = next_token(&r->b);
    if (a.kind != ':')
        return broken(r, &r->a, a);
    return b.kind == ':' ? SP_OK : broken(r, &r->b, b);
}

/* Behind the opening bracket: members up to `close`. */
static sp_status compare_members(reading *r, char close)
{
    bool named = close == '}';
    if (r->depth == DEPTH_MAX)
        return SP_FAIL_CODE(r->reterr, SP_INVALID, "bad_report", "the reports are nested too deep");
    r->path[r->depth++] = (step){ NULL, 0, 0 };
    for (size_t i = 0;; i++) {
        token a = peek_token(&r->a), b = peek_token(&r->b);
        bool a_ends = a.kind == close, b_ends = b.kind == close;
        if (!named)
            r->path[r->depth - 1].index = i;
        if (a_ends || b_ends) {
            if (a_ends != b_ends) {
                r->depth -= named;
                return say_missing(r, a_ends ? r->a.which : r->b.which);
            }
            (void)next_token(&r->a);
            (void)next_token(&r->b);
            r->depth--;
            return SP_OK;
        }
        if (i > 0) {
            if (a.kind != ',')
                return broken(r, &r->a, a);
            if (b.kind != ',')
                return broken(r, &r->b, b);
            (void)next_token(&r->a);
            (void)next_token(&r->b);
        }
        sp_status s = named ? compare_name(r) : SP_OK;
        if (!s && !r->differ)
            s = compare_value(r);
        if (s || r->differ)
            return s;
    }
}

static sp_status compare_value(reading *r)
{
    token a = next_token(&r->a), b = next_token(&r->b);
    if (!strchr("{[sv", a.kind))
        return broken(r, &r->a, a);
    if (!strchr("{[sv", b.kind))
        return broken(r, &r->b, b);
    if (!same(a, b))
        return say_difference(r, a, b);
    remember(r, a);
    if (a.kind == '{' || a.kind == '[')
        return compare_members(r, a.kind == '{' ? '}' : ']');
    return SP_OK;
}

static bool is_report(text t)
{
    token open = next_token(&t), name = next_token(&t);
    return open.kind == '{' && name.kind == 's' && name.bytes == 17 && memcmp(name.begin, "\"spillway_report\"", 17) == 0;
}

sp_status sp_analysis_compare(sp_view a, sp_view b, bool *ret_differ, sp_buf *ret_text, sp_error *reterr)
{
    const char *at[2] = { (const char *)a.data, (const char *)b.data };
    reading r = { .a = { at[0], at[0] + a.size_bytes, at[0], "first" }, .b = { at[1], at[1] + b.size_bytes, at[1], "second" },
                  .out = ret_text, .reterr = reterr };

    if (!is_report(r.a) || !is_report(r.b))
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_report", "the %s file is no report.json of an analysis",
                            is_report(r.a) ? "second" : "first");
    sp_status s = compare_value(&r);
    if (s)
        return s;
    if (!r.differ && (next_token(&r.a).kind != 'e' || next_token(&r.b).kind != 'e'))
        return SP_FAIL_CODE(reterr, SP_INVALID, "bad_report", "there is text behind the end of a report");
    *ret_differ = r.differ;
    return SP_OK;
}
