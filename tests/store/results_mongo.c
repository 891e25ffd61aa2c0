/* SPDX-License-Identifier: Apache-2.0
 * store/results on MongoDB's protocol: the contract, outage and return, each call failing in turn. $TEST_MONGO names the
 * server program of .deps/mongo (tools/setup makes it); one server serves all tests, each with a database of its own. */
#include "results_contract.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct {
    pid_t pid;
    int port;
    char dir[256];
    bool missing;
} mongo;
static int database_count;

static int free_port(void)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t length = sizeof(address);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, length) || getsockname(fd, (struct sockaddr *)&address, &length))
        abort();
    (void)close(fd);
    return ntohs(address.sin_port);
}

static bool listens(void)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons((uint16_t)mongo.port),
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool ok = fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0;
    if (fd >= 0)
        (void)close(fd);
    return ok;
}

static void run_server(void)
{
    const char *name = getenv("TEST_MONGO");
    char program[512], port[16], log[320], pid_file[320];
    (void)snprintf(program, sizeof(program), TEST_DEPS "/mongo/bin/%s", name);
    (void)snprintf(port, sizeof(port), "%d", mongo.port);
    (void)snprintf(log, sizeof(log), "%s/log", mongo.dir);
    (void)snprintf(pid_file, sizeof(pid_file), "%s/pid", mongo.dir);
    const char *nx[] = { program, "--data-dir", mongo.dir, "--host", "127.0.0.1", "-p", port, "--log-file", log, "--pid-file", pid_file, NULL };
    const char *secantus[] = { program, "--storage-path", mongo.dir, "--host", "127.0.0.1", "--port", port, "--standalone", "--sync-on-commit",
                               "--cache-size", "64M", "--log-level", "ERROR", NULL };
    pid_t parent = getpid();
    mongo.pid = fork();
    if (mongo.pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* it ends with the tests */
        if (getppid() != parent)
            _exit(1);
        int quiet = open("/dev/null", O_WRONLY | O_CLOEXEC);
        (void)dup2(quiet, 1);
        (void)dup2(quiet, 2);
        (void)execv(program, (char **)(strcmp(name, "nx-27017") == 0 ? nx : secantus));
        _exit(127);
    }
    for (int i = 0; i < 3000 && !listens(); i++) {
        int how;
        if (waitpid(mongo.pid, &how, WNOHANG) == mongo.pid)
            abort();
        (void)nanosleep(&(struct timespec){ 0, 20000000 }, NULL);
    }
}

static void kill_server(void)
{
    int how;
    (void)kill(mongo.pid, SIGKILL);
    (void)waitpid(mongo.pid, &how, 0);
    mongo.pid = 0;
}

static void remove_server(void)
{
    if (mongo.pid)
        kill_server();
    dir_remove(mongo.dir);
}

/* Starts it with the first test. */
static bool have_server(void)
{
    char program[512];
    const char *name = getenv("TEST_MONGO");
    (void)snprintf(program, sizeof(program), TEST_DEPS "/mongo/bin/%s", name ? name : "");
    if (!name || access(program, X_OK) != 0)
        return false;
    if (!mongo.pid) {
        (void)signal(SIGPIPE, SIG_IGN);
        (void)snprintf(mongo.dir, sizeof(mongo.dir), "%s", dir_make());
        mongo.port = free_port();
        run_server();
        (void)atexit(remove_server);
    }
    return true;
}

static void open_results(void)
{
    sp_error err = { 0 };
    if (sp_results_open(loop, &results_config, data_dir, &results, &err))
        test_fail(__FILE__, __LINE__, "%s", err.message);
    REQUIRE(results != NULL);
}

static bool store_begin(void)
{
    if (!have_server())
        return false;
    loop_begin();
    (void)snprintf(data_dir, sizeof(data_dir), "%s", dir_make());
    (void)snprintf(results_config.mongodb, sizeof(results_config.mongodb), "mongodb://127.0.0.1:%d/", mongo.port);
    (void)snprintf(results_config.database, sizeof(results_config.database), "test%d", database_count++);
    open_results();
    return true;
}

static void store_end(void)
{
    (void)begin_ask();
    sp_results_close(results);
    results = NULL;
    loop_end();
    dir_remove(data_dir);
}

static bool spool_is_empty(void)
{
    for (int64_t end = sp_clock_now_ns() + 50 * SP_NS_PER_S; sp_results_spooled(results) > 0 && sp_clock_now_ns() < end;)
        (void)sp_loop_turn(loop, 50 * SP_NS_PER_MS, NULL);
    return sp_results_spooled(results) == 0;
}

TEST(what_bson_cannot_say_is_kept_as_text)
{
    static const char *const documents[] = { "{\"$date\":\"x\",\"a\":{\"$oid\":\"no\"}}", "{\"\":1}", "[1,2,{\"a\":null}]", "\"text\"", "{\"a.b\":1}" };
    if (!store_begin())
        SKIP("%s", "there is no such server here");
    for (size_t i = 0; i < SP_ARRAY_LEN(documents); i++) {
        sp_result r = result_make((int)i + 1);
        sp_results_put(results, &r, sp_view_of(documents[i]));
        found *f = get_result(NULL, r.id);
        json_t *wanted = json_loads(documents[i], JSON_DECODE_ANY, NULL);
        CHECK_INT(f->status, SP_OK);
        CHECK(json_equal(json_object_get(f->json, "document"), wanted));
        json_decref(wanted);
    }
    store_end();
}

TEST(an_outage_spools_and_the_return_writes)
{
    if (!store_begin())
        SKIP("%s", "there is no such server here");
    put_many(5);
    CHECK_INT(query(any)->count, 5);
    kill_server();
    for (int i = 5; i < 40; i++)
        put(i);
    found *f = query(any); /* answered although nobody is there */
    CHECK_INT(f->status, SP_UNAVAILABLE);
    CHECK_INT(sp_results_spooled(results), 35);
    sp_results_close(results); /* the server of results stays away longer than this process */
    open_results();
    CHECK_INT(sp_results_spooled(results), 35);
    run_server();
    CHECK(spool_is_empty());
    for (int i = 0; i < 100 && (f = query(any))->status != SP_OK; i++)
        (void)sp_loop_turn(loop, 50 * SP_NS_PER_MS, NULL);
    CHECK_INT(f->count, 40);
    store_end();
}

TEST(a_bad_address_is_told)
{
    sp_results *opened = NULL;
    sp_error err = { 0 };
    loop_begin();
    (void)snprintf(data_dir, sizeof(data_dir), "%s", dir_make());
    sp_results_config config = { .mongodb = "mongodb://:::" };
    CHECK_INT(sp_results_open(loop, &config, data_dir, &opened, &err), SP_INVALID);
    CHECK(strstr(err.message, "MongoDB") != NULL);
    loop_end();
    dir_remove(data_dir);
}

#ifdef SP_FAULTS
TEST(each_call_of_mongodb_may_fail)
{
    static const char *const actions[] = { "fail", "nomem" };
    if (!have_server())
        SKIP("%s", "there is no such server here");
    for (int n = 1; n <= 12; n++) {
        char rule[64];
        REQUIRE(store_begin());
        (void)snprintf(rule, sizeof(rule), "store.mongo:%s@n=%d", actions[n % 2], n);
        REQUIRE(sp_fault_arm(rule, NULL) == SP_OK);
        put_many(3);
        found *f = query(any);
        CHECK(f->status == SP_OK ? f->count <= 3 : f->status == SP_UNAVAILABLE || f->status == SP_NOMEM);
        f = get_result(NULL, "r0001");
        CHECK(f->status == SP_OK || f->status == SP_NOT_FOUND || f->status == SP_UNAVAILABLE || f->status == SP_NOMEM);
        f = costs(NULL, 0, 0);
        CHECK(f->status == SP_OK || f->status == SP_UNAVAILABLE || f->status == SP_NOMEM);
        f = erase(NULL, "r0000");
        CHECK(f->status == SP_OK || f->status == SP_UNAVAILABLE || f->status == SP_NOMEM);
        bool erased = f->status == SP_OK;
        REQUIRE(sp_fault_arm(NULL, NULL) == SP_OK);
        CHECK(spool_is_empty());
        for (int i = 0; i < 100 && (f = query(any))->status != SP_OK; i++)
            (void)sp_loop_turn(loop, 50 * SP_NS_PER_MS, NULL);
        CHECK_INT(f->count, erased ? 2 : 3);
        store_end();
    }
}
#endif
