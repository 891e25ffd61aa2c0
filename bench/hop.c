/* SPDX-License-Identifier: Apache-2.0
 * The bare hop: gateway side -> ring -> worker process -> ring -> gateway side, for a no-op of 1 KB, without HTTP.
 * One request is in flight at a time; the figure is submit to callback. Three ways: both processes pinned to one core,
 * both spinning (one core each), and one core each with sleeping between requests (what an idle two-core machine does).
 *
 * Then the same with a served model in the device worker: back end identity, a tensor of 1 KB there and back.
 *
 *   build/bench/bench-hop [ROUNDS]          prints tables: p50, p90, p99 in microseconds */
#include "base/clock.h"
#include "model/card.h"
#include "route/house.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct hop_case {
    const char *name;
    int gateway_cpu, worker_cpu;
    int spin_us;
} hop_case;

#define BODY_BYTES 1024

/* The callback of one hop starts the next, as a busy server would: the loop never sleeps in between. */
static struct {
    sp_loop *loop;
    sp_house *house;
    int64_t start_ns;
    int64_t *times;
    int count, rounds;
    uint32_t model; /* 0: no-ops */
    bool loaded;
} hops;

static void start_hop(void);

static void done(sp_request *request, const sp_answer *answer, void *context)
{
    if (answer->status != SP_OK) {
        fprintf(stderr, "hop: %s\n", answer->error.message);
        exit(1);
    }
    hops.times[hops.count++] = sp_clock_now_ns() - hops.start_ns;
    sp_request_close(request);
    if (hops.count < hops.rounds)
        start_hop();
    else
        sp_loop_stop(hops.loop);
}

static void fill_head(sp_infer_head *head)
{
    head->input_count = head->wish_count = 1;
    head->inputs[0] = (sp_infer_tensor){ .dtype = 2, .rank = 1, .bytes = BODY_BYTES, .dims = { BODY_BYTES } };
    head->wishes[0] = (sp_infer_wish){ 0 };
}

static void start_hop(void)
{
    static const char body[BODY_BYTES];
    sp_error err = { 0 };
    sp_request *request = NULL;
    int retry;
    hops.start_ns = sp_clock_now_ns();
    sp_request_params params = { .task = hops.model ? SP_TASK_INFER : SP_TASK_NOOP, .model_id = hops.model,
                                 .request_id = "hop", .received_ns = hops.start_ns,
                                 .deadline_ns = hops.start_ns + 10 * SP_NS_PER_S };
    if (sp_request_open(hops.house, &params, &request, &retry, &err) ||
        sp_request_append(request, body, sizeof(body), &err)) {
        fprintf(stderr, "hop: %s\n", err.message);
        exit(1);
    }
    if (hops.model)
        fill_head(sp_request_infer_head(request));
    sp_request_submit(request, done, NULL);
}

static void loaded(uint32_t id, sp_status status, const sp_error *err, void *context)
{
    hops.loaded = true;
    if (status)
        fprintf(stderr, "hop: model %u: %s\n", id, err->message);
}

static void load_identity(void)
{
    sp_error err = { 0 };
    sp_buf json;
    sp_load_spec *spec = calloc(1, sizeof(*spec));
    if (!spec)
        exit(1);
    sp_model_config_init(&spec->config);
    spec->id = hops.model = sp_house_model_number(hops.house);
    (void)snprintf(spec->config.name, sizeof(spec->config.name), "echo");
    (void)snprintf(spec->config.backend, sizeof(spec->config.backend), "identity");
    spec->config.max_batch_size = 0;
    spec->config.input_count = spec->config.output_count = 1;
    sp_model_port port = { .name = "IN", .dtype = 2, .rank = 1, .has_dims = true, .dims = { -1 } };
    spec->config.inputs[0] = spec->config.outputs[0] = port;
    sp_buf_init(&json, 1 << 20);
    sp_load_spec_write(spec, &json);
    hops.loaded = false;
    if (sp_house_model_load(hops.house, spec->id, sp_buf_view(&json), 10 * SP_NS_PER_S, loaded, NULL, &err)) {
        fprintf(stderr, "hop: %s\n", err.message);
        exit(1);
    }
    while (!hops.loaded)
        (void)sp_loop_turn(hops.loop, 10 * SP_NS_PER_MS, NULL);
    sp_buf_done(&json);
    sp_load_spec_free(spec);
}

static void pin(pid_t pid, int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(pid, sizeof(set), &set) < 0)
        perror("hop: sched_setaffinity");
}

static int by_value(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void pin_worker(int cpu)
{
    sp_worker_info info;
    sp_house_worker_info(hops.house, 0, &info);
    char command[96];
    (void)snprintf(command, sizeof(command), "taskset -apc %d %d >/dev/null", cpu, info.pid); /* all its threads */
    if (system(command) != 0) /* allowed: a bench, and nothing foreign in the command */
        fprintf(stderr, "hop: taskset failed; the worker is not pinned\n");
}

static void wait_until_ready(void)
{
    sp_worker_info info;
    do {
        (void)sp_loop_turn(hops.loop, 10 * SP_NS_PER_MS, NULL);
        sp_house_worker_info(hops.house, 0, &info);
    } while (info.state == SP_WORKER_STARTING);
}

static void run_case(const hop_case *c, int rounds, bool model)
{
    sp_error err = { 0 };
    const char *program = getenv("SPILLWAY_PROGRAM");
    sp_house_config config = { .executable = program ? program : "build/spillway", .workers = model ? "cpu0" : "noop0", .spin_us = c->spin_us };
    hops.rounds = rounds;
    hops.count = 0;
    hops.model = 0;
    hops.times = malloc((size_t)rounds * sizeof(*hops.times));
    if (!hops.times || sp_loop_new(&hops.loop, &err) || sp_house_new(&config, hops.loop, &hops.house, &err)) {
        fprintf(stderr, "hop: %s\n", err.message);
        exit(1);
    }
    pin(0, c->gateway_cpu);
    wait_until_ready();
    pin_worker(c->worker_cpu);
    if (model)
        load_identity();
    start_hop();
    (void)sp_loop_run(hops.loop, &err);
    int64_t *times = hops.times;
    qsort(times, (size_t)rounds, sizeof(*times), by_value);
    printf("%-34s %8.1f %8.1f %8.1f\n", c->name, (double)times[rounds / 2] / 1e3, (double)times[rounds * 9 / 10] / 1e3,
           (double)times[rounds * 99 / 100] / 1e3);
    free(hops.times);
    sp_house_free(hops.house, 1000);
    sp_loop_free(hops.loop);
}

int main(int argc, char **argv)
{
    int rounds = argc > 1 ? (int)strtol(argv[1], NULL, 10) : 20000;
    static const hop_case cases[] = {
        { "one core, sleeping", 0, 0, 0 },
        { "two cores, spinning 200 us", 0, 1, 200 },
        { "two cores, sleeping", 0, 1, 0 },
    };
    for (int model = 0; model < 2; model++) {
        printf("%-21s of 1 KB, us         p50      p90      p99   (%d rounds)\n", model ? "served model (identity)" : "no-op", rounds);
        for (size_t i = 0; i < SP_ARRAY_LEN(cases); i++) {
            run_case(&cases[i], SP_MAX(rounds, 100), model);
            (void)fflush(stdout);
        }
    }
    return 0;
}
