/* SPDX-License-Identifier: Apache-2.0
 * A house of scripted workers (scripted_worker.c) under a configuration given as text. Shared by the tests of links. */
#ifndef SP_TESTS_ROUTE_SCRIPTED_H
#define SP_TESTS_ROUTE_SCRIPTED_H

#include "route/house.h"

typedef struct stage {
    sp_loop *loop;
    sp_house *house;
    char folder[64]; /* of the scripts */
    int answered, ok;
    int links_ok[16];        /* by the index of the names below */
    char link_names[16][32];
    /* The last answer: */
    sp_status status;
    char code[32], link[32], message[256], payload[64];
    int attempt_count, retry_after_s;
    sp_attempt attempts[SP_LIMIT_ATTEMPTS];
    double probability;
    int64_t microdollars;
    bool simpler;
    uint32_t sent_status;
} stage;

sp_config *stage_config(const char *yaml);
/* Opens the house, waits until every worker is ready. `window`: leases that each worker takes; 0 = many. */
void stage_open(stage *s, const char *workers, const char *yaml, int window);
void stage_close(stage *s);
void stage_script(stage *s, const char *worker, const char *text); /* from now on; "" = well again */
sp_request *stage_ask(stage *s, const sp_request_params *params, const char *body); /* fills task's defaults: noop, 5 s */
void stage_wait(stage *s, int answers, int at_most_ms);
void stage_one(stage *s, const sp_request_params *params, const char *body); /* ask and wait for its answer */
/* Until no lease is out and nothing is open, the house's own checks of its links included; at most 10 s. */
void stage_settle(stage *s);
void stage_turn(stage *s, int ms); /* lets time pass */
int stage_ok_of(const stage *s, const char *link);
int64_t stage_counter(const char *name, const char *labels);
int stage_log_count(const stage *s, const char *line_begins);
sp_link_info stage_link(const stage *s, const char *task, const char *link);

#endif
