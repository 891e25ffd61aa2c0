/* SPDX-License-Identifier: Apache-2.0
 * The registry of served models over a house and an inspector that do as they are told: start-up in each control mode, switches,
 * failures, ensembles, removal, and a storm of random calls against what must always hold. */
#include "test.h"

#include "base/clock.h"
#include "base/log.h"
#include "serving/parts.h"

#include <ftw.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* --- a house ------------------------------------------------------------------------------------------------------------------- */

#define IDS 4096
#define WAIT_MS 20000

typedef struct loaded {
    char model[SP_LIMIT_SERVED_NAME_BYTES];
    bool asked, told, ready, unloaded;
    int open;
    uint32_t steps[4];
    sp_model_loaded_fn *done;
    void *context;
} loaded;

static loaded house[IDS];
static uint32_t last_id;
static char failing[64];  /* loads of this model fail */
static bool holding;      /* loads are not answered */

uint32_t sp_house_model_number(sp_house *h)
{
    (void)h;
    REQUIRE(last_id + 1 < IDS);
    return ++last_id;
}

sp_status sp_house_model_load(sp_house *h, uint32_t id, sp_view json, int64_t timeout_ns, sp_model_loaded_fn *done, void *context,
                              sp_error *reterr)
{
    SP_CLEANUP(sp_load_spec_freep) sp_load_spec *spec = NULL;

    (void)h;
    (void)timeout_ns;
    REQUIRE(sp_load_spec_read(json, &spec, reterr) == SP_OK && spec->id == id && !house[id].asked);
    (void)snprintf(house[id].model, sizeof(house[id].model), "%s", spec->config.name);
    memcpy(house[id].steps, spec->step_models, sizeof(house[id].steps));
    for (int i = 0; i < 4; i++)
        CHECK(!spec->step_models[i] || (house[spec->step_models[i]].ready && !house[spec->step_models[i]].unloaded));
    house[id].asked = true;
    house[id].done = done;
    house[id].context = context;
    return SP_OK;
}

void sp_house_model_unload(sp_house *h, uint32_t id)
{
    (void)h;
    CHECK(house[id].asked && !house[id].unloaded);
    for (uint32_t e = 1; e <= last_id; e++) { /* no ensemble that lives loses a model */
        for (int i = 0; i < 4 && !house[e].unloaded; i++)
            CHECK(house[e].steps[i] != id);
    }
    house[id].unloaded = true;
    house[id].ready = false;
}

int sp_house_model_info(const sp_house *h, uint32_t id, sp_loaded_info *ret_infos, int capacity)
{
    (void)h;
    (void)id;
    (void)ret_infos;
    (void)capacity;
    return 0;
}

bool sp_house_model_ready(const sp_house *h, uint32_t id, bool *ret_coming)
{
    (void)h;
    if (ret_coming)
        *ret_coming = false;
    return house[id].ready;
}

int sp_house_model_open_count(const sp_house *h, uint32_t id)
{
    (void)h;
    return house[id].open;
}

static void house_answers(void)
{
    for (uint32_t id = 1; id <= last_id && !holding; id++) {
        loaded *l = &house[id];
        sp_error err = { 0 };
        if (!l->asked || l->told || l->unloaded)
            continue;
        l->told = true;
        l->ready = strcmp(l->model, failing) != 0;
        if (!l->ready)
            (void)SP_FAIL(&err, SP_CORRUPT, "the house does not like it");
        l->done(id, err.status, l->ready ? NULL : &err, l->context);
    }
}

static int house_count(const char *model)
{
    int count = 0;
    for (uint32_t id = 1; id <= last_id; id++)
        count += house[id].asked && !house[id].unloaded && (!model || !strcmp(house[id].model, model));
    return count;
}

/* --- repositories, and an inspector that shows a file ----------------------------------------------------------------------------- */

static char repository[256], inspector[300];
static int touched;

static void repository_new(void)
{
    FILE *file;

    (void)snprintf(repository, sizeof(repository), "/tmp/spillway_registry_XXXXXX");
    REQUIRE(mkdtemp(repository));
    (void)snprintf(inspector, sizeof(inspector), "%s/.inspect", repository);
    REQUIRE((file = fopen(inspector, "w")));
    /* inspect --repository R --model M */
    (void)fprintf(file, "#!/bin/sh\nif [ -e \"$3/$5/error\" ]; then cat \"$3/$5/error\"; exit 1; fi\nexec cat \"$3/$5/card\"\n");
    REQUIRE(fclose(file) == 0 && chmod(inspector, 0700) == 0);
    memset(house, 0, sizeof(house));
    last_id = 0;
    failing[0] = '\0';
    holding = false;
}

static int remove_one(const char *path, const struct stat *info, int kind, struct FTW *at)
{
    (void)info;
    (void)kind;
    (void)at;
    return remove(path);
}

static void remove_tree(const char *path)
{
    REQUIRE(nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS) == 0);
}

static void repository_done(void)
{
    remove_tree(repository);
}

static void put(const char *model, const char *name, const char *text)
{
    char path[600];
    FILE *file;

    (void)snprintf(path, sizeof(path), "%s/%s", repository, model);
    (void)mkdir(path, 0700);
    (void)snprintf(path, sizeof(path), "%s/%s/%s", repository, model, name);
    REQUIRE((file = fopen(path, "w")));
    (void)fprintf(file, "%s", text);
    REQUIRE(fclose(file) == 0);
}

/* A model of `versions` versions; `steps`: "a b" makes it an ensemble of those. Each call changes its files. */
static void model_put(const char *name, int versions, const char *steps)
{
    static sp_model_card card;
    char config[2048], stamp[32], path[600];
    sp_error err = { 0 };
    sp_buf out;
    int used = snprintf(config, sizeof(config), "name: '%s' %s input { name: 'I' data_type: TYPE_FP32 dims: 1 } output { name: 'O' "
                        "data_type: TYPE_FP32 dims: 1 } ", name, steps ? "platform: 'ensemble'" : "backend: 'identity'");
    char words[64] = "", *rest = words, last[16] = "I", next[16];

    (void)snprintf(words, sizeof(words), "%s", steps ? steps : "");
    for (char *word = strtok_r(words, " ", &rest); word; word = strtok_r(NULL, " ", &rest)) {
        (void)snprintf(next, sizeof(next), "%s", *rest ? word : "O");
        used += snprintf(config + used, sizeof(config) - (size_t)used, "%sstep { model_name: '%s' input_map { key: 'I' value: '%s' } "
                         "output_map { key: 'O' value: '%s' } } ", last[0] == 'I' ? "ensemble_scheduling { " : "", word, last, next);
        (void)snprintf(last, sizeof(last), "%s", next);
    }
    (void)snprintf(config + used, sizeof(config) - (size_t)used, "%s", steps ? "}" : "");
    memset(&card, 0, sizeof(card));
    REQUIRE(sp_model_config_parse(name, sp_view_of(config), &card.config, &err) == SP_OK);
    REQUIRE(sp_model_config_complete(&card.config, name, NULL, &err) == SP_OK);
    for (int i = 0; i < versions; i++)
        card.versions[card.version_count++].number = versions - i;
    sp_buf_init(&out, 1 << 20);
    sp_model_card_write(&card, &out);
    sp_buf_append(&out, "", 1);
    (void)snprintf(stamp, sizeof(stamp), "# %d", ++touched);
    put(name, "config.pbtxt", stamp);
    put(name, "card", (const char *)out.data);
    (void)snprintf(path, sizeof(path), "%s/%s/error", repository, name);
    (void)unlink(path);
    sp_buf_done(&out);
    sp_model_config_done(&card.config);
}

static void model_break(const char *name, const char *message)
{
    char text[256];
    (void)snprintf(text, sizeof(text), "{\"error\":\"%s\",\"status\":1,\"code\":\"\"}%d", message, 0);
    text[strlen(text) - 1] = '\n';
    put(name, "error", text);
    (void)snprintf(text, sizeof(text), "# %d", ++touched);
    put(name, "config.pbtxt", text);
}

/* --- a serving ---------------------------------------------------------------------------------------------------------------------- */

static sp_loop *loop;
static sp_serving *serving;
static const char *always; /* this model must be found in every turn */

static void serving_new(sp_control_mode mode, const char *load)
{
    sp_serving_config config = { .executable = inspector, .repository_count = 1, .repositories = { repository }, .mode = mode,
                                 .poll_s = 1, .load_model_count = load != NULL, .load_models = { load }, .strict_readiness = true };
    sp_error err = { 0 };

    always = NULL;
    sp_log_open("test", SP_LOG_ERROR);
    REQUIRE(sp_loop_new(&loop, &err) == SP_OK);
    REQUIRE(sp_serving_new(&config, loop, NULL, &serving, &err) == SP_OK);
}

static void serving_done(void)
{
    sp_serving_free(serving);
    sp_loop_free(loop);
    CHECK_INT(house_count(NULL), 0); /* the house is left as it was found */
}

static bool finds(const char *name, const char *version)
{
    sp_served *served;
    sp_error err = { 0 };
    return sp_serving_find(serving, name, version, &served, &err) == SP_OK;
}

static uint32_t id_of(const char *name)
{
    sp_served *served = NULL;
    sp_error err = { 0 };
    REQUIRE(sp_serving_find(serving, name, "", &served, &err) == SP_OK);
    return served->id;
}

static void turn(void)
{
    sp_error err = { 0 };
    REQUIRE(sp_loop_turn(loop, 5 * SP_NS_PER_MS, &err) == SP_OK);
    house_answers();
    if (always)
        CHECK(finds(always, ""));
}

#define UNTIL(condition)                                                                       \
    do {                                                                                       \
        int64_t give_up_ns = sp_clock_now_ns() + WAIT_MS * SP_NS_PER_MS;                        \
        while (!(condition) && sp_clock_now_ns() < give_up_ns)                                 \
            turn();                                                                            \
        REQUIRE(condition);                                                                    \
    } while (0)

static char index_text[8192];

static void index_line(const sp_served_entry *entry, void *context)
{
    size_t used = strlen(index_text);
    (void)context;
    (void)snprintf(index_text + used, sizeof(index_text) - used, "%s/%s %s%s%s\n", entry->name, entry->version,
                   sp_model_state_name(entry->state), *entry->reason ? ": " : "", entry->reason);
}

static const char *index_now(void)
{
    index_text[0] = '\0';
    sp_serving_each(serving, index_line, NULL);
    return index_text;
}

typedef struct outcome {
    bool over;
    sp_status status;
    char message[256];
} outcome;

static void note(sp_status status, const sp_error *err, void *context)
{
    outcome *o = context;
    CHECK(!o->over);
    o->over = true;
    o->status = status;
    (void)snprintf(o->message, sizeof(o->message), "%s", err ? err->message : "");
}

static sp_status load(const char *name)
{
    static outcome o;
    o = (outcome){ 0 };
    sp_serving_load(serving, name, "", note, &o);
    CHECK(!o.over); /* never from inside */
    UNTIL(o.over);
    (void)snprintf(index_text, sizeof(index_text), "%s", o.message);
    return o.status;
}

static sp_status unload(const char *name, bool dependents)
{
    static outcome o;
    o = (outcome){ 0 };
    sp_serving_unload(serving, name, dependents, note, &o);
    UNTIL(o.over);
    (void)snprintf(index_text, sizeof(index_text), "%s", o.message);
    return o.status;
}

/* --- scenarios -------------------------------------------------------------------------------------------------------------------- */

TEST(none_loads_what_lies_there)
{
    sp_served *served;
    sp_error err = { 0 };

    repository_new();
    model_put("a", 1, NULL);
    model_put("b", 3, NULL);
    model_break("bad", "no good");
    put("nothing", "readme.txt", "no model");
    serving_new(SP_CONTROL_MODE_NONE, NULL);
    CHECK(!sp_serving_ready(serving));
    UNTIL(finds("a", "") && finds("b", "") && !strstr(index_now(), "LOADING"));
    CHECK_TEXT(index_now(), "a/1 READY\nb/1 READY\nb/2 READY\nb/3 READY\nbad/ UNAVAILABLE: no good\n");
    CHECK(!sp_serving_ready(serving)); /* strict: one is not there */
    CHECK(finds("b", "2") && !finds("b", "4") && sp_serving_model_ready(serving, "b", "3") && !sp_serving_model_ready(serving, "bad", ""));
    REQUIRE(sp_serving_find(serving, "b", "", &served, &err) == SP_OK);
    CHECK_INT(served->version, 3);
    CHECK_TEXT(served->version_text, "3");
    CHECK_INT(sp_serving_find(serving, "x", "", &served, &err), SP_NOT_FOUND);
    CHECK_TEXT(err.message, "Request for unknown model: 'x' is not found");
    CHECK_INT(sp_serving_find(serving, "b", "two", &served, &err), SP_INVALID);
    CHECK_INT(sp_serving_find(serving, "bad", "", &served, &err), SP_UNAVAILABLE);
    CHECK(strstr(err.message, "no good"));
    CHECK_INT(load("a"), SP_UNAVAILABLE);
    CHECK(strstr(index_text, "explicit model load / unload is not allowed"));
    serving_done();
    repository_done();
}

TEST(explicit_loads_what_it_is_told_to)
{
    repository_new();
    model_put("a", 1, NULL);
    model_put("b", 1, NULL);
    serving_new(SP_CONTROL_MODE_EXPLICIT, "b");
    UNTIL(sp_serving_ready(serving) && finds("b", ""));
    CHECK_TEXT(index_now(), "a/ \nb/1 READY\n");
    CHECK(!finds("a", ""));
    CHECK_INT(load("a"), SP_OK);
    CHECK(finds("a", ""));
    CHECK_INT(load("none"), SP_NOT_FOUND);
    CHECK_INT(load("../a"), SP_INVALID);
    CHECK_INT(unload("none", false), SP_NOT_FOUND);
    CHECK_INT(unload("b", false), SP_OK);
    CHECK_TEXT(index_now(), "a/1 READY\nb/1 UNAVAILABLE: unloaded\n");
    CHECK_INT(load("b"), SP_OK);
    CHECK_TEXT(index_now(), "a/1 READY\nb/1 READY\n");
    serving_done();
    repository_done();
}

TEST(a_switch_leaves_no_gap)
{
    repository_new();
    model_put("a", 1, NULL);
    serving_new(SP_CONTROL_MODE_EXPLICIT, "*");
    UNTIL(finds("a", ""));
    uint32_t first = id_of("a");
    CHECK_INT(load("a"), SP_OK); /* nothing has changed */
    CHECK_INT(id_of("a"), first);
    always = "a";
    model_put("a", 1, NULL);
    house[first].open = 1;
    holding = true;
    outcome o = { 0 };
    sp_serving_load(serving, "a", "", note, &o);
    UNTIL(house_count("a") == 2);
    CHECK_INT(id_of("a"), first); /* until the new one is there */
    holding = false;
    UNTIL(o.over);
    CHECK_INT(o.status, SP_OK);
    CHECK(id_of("a") != first && house[first].unloaded); /* which leaves its open requests alone */
    sp_served *served = sp_serving_by_id(serving, first);
    CHECK(served != NULL); /* their answers are counted */
    house[first].open = 0;
    UNTIL((index_now(), !sp_serving_by_id(serving, first)));
    serving_done();
    repository_done();
}

TEST(a_failing_load_leaves_the_running_version)
{
    repository_new();
    model_put("a", 1, NULL);
    serving_new(SP_CONTROL_MODE_EXPLICIT, "*");
    UNTIL(finds("a", ""));
    always = "a";
    uint32_t first = id_of("a");
    model_break("a", "a/config.pbtxt:3: wrong");
    CHECK_INT(load("a"), SP_INVALID);
    CHECK_TEXT(index_text, "a/config.pbtxt:3: wrong");
    CHECK_TEXT(index_now(), "a/1 READY: a/config.pbtxt:3: wrong\n");
    model_put("a", 2, NULL);
    (void)snprintf(failing, sizeof(failing), "a");
    CHECK_INT(load("a"), SP_CORRUPT);
    CHECK_TEXT(index_now(), "a/1 READY: the house does not like it\n");
    CHECK_INT(id_of("a"), first);
    CHECK_INT(house_count("a"), 1);
    failing[0] = '\0';
    CHECK_INT(load("a"), SP_OK);
    CHECK_TEXT(index_now(), "a/1 READY\na/2 READY\n");
    CHECK(sp_serving_ready(serving));
    serving_done();
    repository_done();
}

TEST(ensembles_bring_their_models_and_follow_them)
{
    repository_new();
    model_put("e", 1, "m n");
    model_put("m", 1, NULL);
    model_put("n", 1, NULL);
    serving_new(SP_CONTROL_MODE_EXPLICIT, NULL);
    UNTIL(sp_serving_ready(serving));
    CHECK_INT(load("e"), SP_OK);
    CHECK(finds("m", "") && finds("n", ""));
    uint32_t e = id_of("e"), m = id_of("m");
    CHECK_INT(house[e].steps[0], m);
    always = "e";
    model_put("m", 1, NULL);
    CHECK_INT(load("m"), SP_OK);
    UNTIL(id_of("e") != e && house[m].unloaded); /* the house's own checks: never before the ensemble is bound anew */
    CHECK_INT(house[id_of("e")].steps[0], id_of("m"));
    (void)snprintf(failing, sizeof(failing), "e"); /* it stays with what it has */
    uint32_t second = id_of("m");
    model_put("m", 1, NULL);
    CHECK_INT(load("m"), SP_OK);
    for (int i = 0; i < 100; i++)
        turn();
    CHECK(!house[second].unloaded && house[id_of("e")].steps[0] == second && id_of("m") != second);
    failing[0] = '\0';
    always = NULL;
    CHECK_INT(unload("n", false), SP_OK);
    CHECK(!finds("e", "") && strstr(index_now(), "e/1 UNAVAILABLE: depends on 'n', which was unloaded"));
    CHECK_INT(load("e"), SP_OK);
    CHECK_INT(unload("e", true), SP_OK);
    UNTIL(!finds("m", "") && !finds("n", "") && (index_now(), house_count(NULL) == 0));
    serving_done();
    repository_done();
}

TEST(ensembles_that_cannot_be_are_told_so)
{
    repository_new();
    model_put("e", 1, "f");
    model_put("f", 1, "e");
    model_put("g", 1, "missing");
    model_put("h", 1, "bad");
    model_break("bad", "no good");
    serving_new(SP_CONTROL_MODE_NONE, NULL);
    UNTIL(strstr(index_now(), "circle") && !strstr(index_now(), "LOADING"));
    CHECK(strstr(index_now(), "ensemble 'g' depends on 'missing' which has no loaded version"));
    CHECK(strstr(index_now(), "ensemble 'h' depends on 'bad' which has no loaded version: no good"));
    CHECK_INT(house_count(NULL), 0);
    serving_done();
    repository_done();
}

TEST(polling_follows_the_files)
{
    char gone[400];

    repository_new();
    model_put("a", 1, NULL);
    model_put("e", 1, "late");
    serving_new(SP_CONTROL_MODE_POLL, NULL);
    UNTIL(finds("a", ""));
    always = "a";
    uint32_t first = id_of("a");
    model_put("a", 2, NULL);
    UNTIL(finds("a", "2") && id_of("a") != first);
    model_put("late", 1, NULL);
    UNTIL(finds("late", "") && finds("e", "")); /* the ensemble is tried again */
    model_break("a", "half a file");
    UNTIL(strstr(index_now(), "half a file"));
    CHECK(finds("a", "2"));
    always = NULL;
    (void)snprintf(gone, sizeof(gone), "%s/a", repository);
    remove_tree(gone);
    UNTIL(!finds("a", ""));
    CHECK_INT(load("late"), SP_UNAVAILABLE);
    serving_done();
    repository_done();
}

TEST(ends_in_the_middle_of_anything)
{
    repository_new();
    model_put("a", 1, NULL);
    model_put("e", 1, "a b");
    model_put("b", 1, NULL);
    for (int turns = 0; turns < 12; turns++) {
        outcome one = { 0 }, two = { 0 };
        serving_new(SP_CONTROL_MODE_EXPLICIT, "*");
        memset(house, 0, sizeof(house));
        last_id = 0;
        holding = turns % 2;
        sp_serving_load(serving, "e", "", note, &one);
        sp_serving_unload(serving, "a", false, note, &two);
        for (int i = 0; i < turns; i++)
            turn();
        serving_done();
        CHECK(one.over && two.over);
    }
    repository_done();
}

/* --- a storm ------------------------------------------------------------------------------------------------------------------------ */

#define STORM_MODELS 4
#define STORM_CALLS  60
typedef struct pending_call {
    outcome outcome;
    int model;
    bool load;
} pending_call;

TEST(whatever_is_called_what_is_current_is_found)
{
    static const char *const names[STORM_MODELS] = { "a", "b", "c", "e" };
    static pending_call calls[STORM_CALLS];
    bool held[STORM_MODELS] = { false }; /* loaded, and no unload was called since that could touch it */
    int made = 0;

    repository_new();
    for (int i = 0; i < STORM_MODELS; i++)
        model_put(names[i], 1, i == 3 ? "a b" : NULL);
    serving_new(SP_CONTROL_MODE_EXPLICIT, "*");
    UNTIL(finds("a", "") && finds("b", "") && finds("c", "") && finds("e", ""));
    memset(calls, 0, sizeof(calls));
    for (int i = 0; i < STORM_MODELS; i++)
        held[i] = true;
    while (made < STORM_CALLS) {
        int m = test_random_between(0, STORM_MODELS - 1), what = test_random_between(0, 9);
        pending_call *call = &calls[made];
        (void)snprintf(failing, sizeof(failing), "%s", test_random_between(0, 3) ? "" : names[m]);
        holding = !test_random_between(0, 4);
        if (what < 4) {
            model_put(names[m], test_random_between(1, 2), m == 3 ? "a b" : NULL);
        } else if (what == 4) {
            model_break(names[m], "broken");
        } else if (what < 9) {
            sp_serving_load(serving, names[m], "", note, &call->outcome);
            made++;
        } else {
            sp_serving_unload(serving, names[m], test_random_between(0, 1), note, &call->outcome);
            memset(held, 0, sizeof(held)); /* ensembles go with it, with dependents their models */
            made++;
        }
        for (int t = test_random_between(0, 6); t > 0; t--) {
            turn();
            for (uint32_t id = 1; id <= last_id; id++)
                house[id].open = house[id].unloaded && house[id].open ? test_random_between(0, 1) : house[id].ready && !test_random_between(0, 9);
            for (int i = 0; i < STORM_MODELS; i++)
                CHECK(!held[i] || finds(names[i], ""));
        }
    }
    failing[0] = '\0';
    holding = false;
    for (int i = 0; i < STORM_CALLS; i++)
        UNTIL(calls[i].outcome.over);
    for (int i = 0; i < STORM_MODELS; i++) {
        model_put(names[i], 1, i == 3 ? "a b" : NULL);
        CHECK_INT(load(names[i]), SP_OK);
    }
    for (uint32_t id = 1; id <= last_id; id++)
        house[id].open = 0;
    UNTIL((index_now(), house_count(NULL) == STORM_MODELS)); /* nothing is forgotten in the house */
    serving_done();
    repository_done();
}
