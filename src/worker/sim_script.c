/* SPDX-License-Identifier: Apache-2.0
 * SPILLWAY_SIM, read word by word: each level splits at its own separator and hands the rest down. */
#include "worker/sim_script.h"

#include "base/clock.h"
#include "base/limits.h"
#include "base/view.h"
#include "worker/device_fault.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_BATCH 8
#define TEXT_MAX 4096

/* A word of the text, not terminated. */
typedef struct word {
    const char *at;
    size_t length;
} word;

static bool is(word w, const char *text)
{
    return w.length == strlen(text) && memcmp(w.at, text, w.length) == 0;
}

/* Cuts the part before the first `separator` off *rest; the separator goes too. False when nothing is left. */
static bool cut(word *rest, char separator, word *ret_part)
{
    if (!rest->at)
        return false;
    const char *end = memchr(rest->at, separator, rest->length);
    *ret_part = (word){ rest->at, end ? (size_t)(end - rest->at) : rest->length };
    *rest = end ? (word){ end + 1, rest->length - ret_part->length - 1 } : (word){ NULL, 0 };
    return true;
}

static sp_status bad(word w, const char *expected, sp_error *reterr)
{
    return SP_FAIL(reterr, SP_INVALID, "SPILLWAY_SIM: '%.*s' is no %s", (int)SP_MIN(w.length, 60u), w.at, expected);
}

/* A number from 0 with one of the units; false when it is anything else. */
typedef struct unit {
    const char *name;
    double factor;
} unit;
static bool number_with(word w, const unit *units, double most, double *ret_value)
{
    char text[40];
    if (!w.length || w.length >= sizeof(text) || w.at[0] < '0' || w.at[0] > '9')
        return false;
    memcpy(text, w.at, w.length);
    text[w.length] = 0;
    char *end;
    double value = strtod(text, &end);
    for (; units->name; units++) {
        if (strcmp(end, units->name) == 0) {
            *ret_value = value * units->factor;
            return *ret_value <= most; /* false for NaN too */
        }
    }
    return false;
}

static sp_status parse_bytes(word w, uint64_t *ret_bytes, sp_error *reterr)
{
    static const unit units[] = { { "", 1 }, { "B", 1 }, { "KiB", 1024 }, { "MiB", 1048576 }, { "GiB", 1073741824 }, { 0 } };
    double value;
    if (!number_with(w, units, 0x1p50, &value))
        return bad(w, "number of bytes (200MiB)", reterr);
    *ret_bytes = (uint64_t)value;
    return SP_OK;
}

static sp_status parse_time(word w, int64_t *ret_ns, sp_error *reterr)
{
    static const unit units[] = { { "us", 1e3 }, { "ms", 1e6 }, { "s", 1e9 }, { 0 } };
    double value;
    if (!number_with(w, units, 3600e9, &value))
        return bad(w, "time of at most an hour (2ms, 0.5s)", reterr);
    *ret_ns = (int64_t)value;
    return SP_OK;
}

static sp_status parse_count(word w, uint64_t most, uint64_t *ret_count, sp_error *reterr)
{
    static const unit units[] = { { "", 1 }, { 0 } };
    double value;
    if (!number_with(w, units, (double)most, &value) || value < 1 || value != floor(value))
        return bad(w, "whole number from 1 (and not that large)", reterr);
    *ret_count = (uint64_t)value;
    return SP_OK;
}

static sp_status parse_factor(word w, double *ret_factor, sp_error *reterr)
{
    static const unit units[] = { { "", 1 }, { 0 } };
    return number_with(w, units, 1000, ret_factor) && *ret_factor >= 1 ? SP_OK : bad(w, "factor from 1 to 1000", reterr);
}

static sp_status parse_file(word w, char *file, size_t size, sp_error *reterr)
{
    if (!w.length || w.length >= size)
        return bad(w, "file name (of at most 127 bytes)", reterr);
    memcpy(file, w.at, w.length);
    file[w.length] = 0;
    return SP_OK;
}

static sp_status parse_for(word value, sp_sim_when *when, sp_error *reterr)
{
    if (is(value, "ever")) {
        when->for_runs = SP_SIM_FOR_EVER;
        return SP_OK;
    }
    bool counted = value.length && strspn(value.at, "0123456789") >= value.length;
    return counted ? parse_count(value, 1u << 30, &when->for_runs, reterr) : parse_time(value, &when->for_ns, reterr);
}

static sp_status parse_when(word selectors, sp_sim_when *when, sp_error *reterr)
{
    word one, key;
    sp_status s = SP_OK;
    while (!s && cut(&selectors, '&', &one)) {
        word value = one;
        (void)cut(&value, '=', &key);
        if (is(key, "n"))
            s = parse_count(value, 1ull << 40, &when->nth, reterr);
        else if (is(key, "every"))
            s = parse_count(value, 1ull << 40, &when->every, reterr);
        else if (is(key, "at"))
            s = parse_time(value, &when->at_ns, reterr);
        else if (is(key, "for"))
            s = parse_for(value, when, reterr);
        else if (is(key, "if"))
            s = parse_file(value, when->file, sizeof(when->file), reterr);
        else
            s = bad(one, "selector (n=, every=, at=, for=, if=)", reterr);
    }
    return s;
}

static sp_status parse_fault(word text, sp_sim_script *script, sp_error *reterr)
{
    static const char *const names[] = { [SP_SIM_OOM] = "oom",
                                         [SP_SIM_STICKY] = "sticky",
                                         [SP_SIM_HANG] = "hang",
                                         [SP_SIM_SLOW] = "slow",
                                         [SP_SIM_THROTTLE] = "throttle",
                                         [SP_SIM_CRASH] = "crash" };
    word selectors = text, what, name;
    (void)cut(&selectors, '@', &what);
    word argument = what;
    (void)cut(&argument, '=', &name);
    size_t kind = 0;
    while (kind < SP_ARRAY_LEN(names) && !is(name, names[kind]))
        kind++;
    if (kind == SP_ARRAY_LEN(names))
        return bad(name, "fault (oom, sticky, hang, slow, throttle, crash)", reterr);
    if (script->fault_count == SP_SIM_FAULTS)
        return SP_FAIL(reterr, SP_INVALID, "SPILLWAY_SIM: more than %d faults for one device", SP_SIM_FAULTS);
    sp_sim_fault *fault = &script->faults[script->fault_count++];
    *fault = (sp_sim_fault){ .kind = (sp_sim_fault_kind)kind, .factor = kind == SP_SIM_SLOW ? 10 : 2 };
    sp_status s = SP_OK;
    if (argument.at && fault->kind == SP_SIM_OOM)
        s = parse_bytes(argument, &fault->bytes, reterr);
    else if (argument.at && (fault->kind == SP_SIM_SLOW || fault->kind == SP_SIM_THROTTLE))
        s = parse_factor(argument, &fault->factor, reterr);
    else if (argument.at)
        s = bad(what, "fault: this one takes no argument", reterr);
    return s ? s : parse_when(selectors, &fault->when, reterr);
}

static sp_status parse_faults(word text, sp_sim_script *script, sp_error *reterr)
{
    word one;
    sp_status s = SP_OK;
    while (!s && cut(&text, ';', &one))
        s = parse_fault(one, script, reterr);
    return s;
}

static sp_status parse_latency(word text, sp_sim_script *script, sp_error *reterr)
{
    word fixed;
    (void)cut(&text, '+', &fixed);
    sp_status s = parse_time(fixed, &script->fixed_ns, reterr);
    return s || !text.at ? s : parse_time(text, &script->item_ns, reterr);
}

static sp_status parse_probe(word text, sp_sim_script *script, sp_error *reterr)
{
    static const char *const causes[] = { "no_gpu", "no_driver", "no_library", "mismatch" };
    sp_sim_when when = { 0 };
    word cause;
    (void)cut(&text, '@', &cause);
    for (size_t i = 0; i < SP_ARRAY_LEN(causes); i++) {
        if (is(cause, causes[i]))
            (void)snprintf(script->probe, sizeof(script->probe), "%s", causes[i]);
    }
    if (!script->probe[0])
        return bad(cause, "cause (no_gpu, no_driver, no_library, mismatch)", reterr);
    sp_status s = parse_when(text, &when, reterr);
    if (!s && (when.nth || when.every || when.at_ns || when.for_ns || when.for_runs))
        s = SP_FAIL(reterr, SP_INVALID, "SPILLWAY_SIM: a probe has no selector but if=FILE");
    memcpy(script->probe_file, when.file, sizeof(script->probe_file));
    return s;
}

static sp_status parse_setting(word text, sp_sim_script *script, sp_error *reterr)
{
    word value = text, key;
    (void)cut(&value, '=', &key);
    if (!value.at)
        return bad(text, "setting (key=value)", reterr);
    if (is(key, "memory"))
        return parse_bytes(value, &script->memory_bytes, reterr);
    if (is(key, "model"))
        return parse_bytes(value, &script->model_bytes, reterr);
    if (is(key, "item"))
        return parse_bytes(value, &script->item_bytes, reterr);
    if (is(key, "latency"))
        return parse_latency(value, script, reterr);
    if (is(key, "probe"))
        return parse_probe(value, script, reterr);
    if (is(key, "fault"))
        return parse_faults(value, script, reterr);
    if (!is(key, "batch"))
        return bad(key, "setting (memory, model, item, latency, batch, probe, fault)", reterr);
    uint64_t batch = 0;
    sp_status s = parse_count(value, SP_LIMIT_BATCH, &batch, reterr);
    script->batch = (int)batch;
    return s;
}

/* "sim0:" before the first '='. */
static word take_name(word *device)
{
    const char *colon = memchr(device->at, ':', device->length), *equals = memchr(device->at, '=', device->length);
    if (!colon || (equals && equals < colon))
        return (word){ NULL, 0 };
    word name = { device->at, (size_t)(colon - device->at) };
    *device = (word){ colon + 1, device->length - name.length - 1 };
    return name;
}

sp_status sp_sim_script_parse(const char *text, const char *name, sp_sim_script *ret_script, sp_error *reterr)
{
    sp_sim_script found = { .batch = DEFAULT_BATCH };
    word rest = { text ? text : "", text ? strlen(text) : 0 }, device, setting;
    if (rest.length > TEXT_MAX)
        return SP_FAIL(reterr, SP_INVALID, "SPILLWAY_SIM: more than %d bytes", TEXT_MAX);
    while (cut(&rest, ' ', &device)) {
        if (!device.length)
            continue;
        sp_sim_script script = { .batch = DEFAULT_BATCH };
        word whose = take_name(&device);
        sp_status s = SP_OK;
        while (!s && cut(&device, ',', &setting))
            s = parse_setting(setting, &script, reterr);
        if (s)
            return s;
        if (!whose.at || is(whose, name))
            found = script;
    }
    *ret_script = found;
    return SP_OK;
}
