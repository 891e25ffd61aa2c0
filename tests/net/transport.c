/* SPDX-License-Identifier: Apache-2.0
 * libspillway_net.so through its interface, in this process, so that a leak checker sees all of its memory: what is
 * started ends once, by done or cancel, and close takes what is left. */
#include "base/clock.h"
#include "provider/load.h"
#include "test.h"

#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

static const sp_net_api *api;
static sp_net *net;
static int listener = -1, port;
static int fail_at, calls_seen; /* the fault hook: the fail_at-th call fails */

static bool fault(void)
{
    return ++calls_seen == fail_at;
}

/* Answers each connection's first request with 200 and "hi", unless its path begins with /wait: then with nothing. */
static void *serve(void *context)
{
    static const char text[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\nX-Kept:  yes \r\n\r\nhi";
    for (;;) {
        char head[4096];
        int fd = accept(listener, NULL, NULL);
        if (fd < 0)
            return NULL;
        ssize_t n = recv(fd, head, sizeof(head) - 1, 0);
        head[n > 0 ? n : 0] = 0;
        if (strstr(head, " /wait"))
            continue; /* kept open until this process ends */
        (void)!send(fd, text, sizeof(text) - 1, MSG_NOSIGNAL);
        (void)shutdown(fd, SHUT_WR);
        while (recv(fd, head, sizeof(head), 0) > 0) { }
        (void)close(fd);
    }
}

static void open_net(void)
{
    sp_error err = { 0 };
    const sp_net_options options = { .fault = fault };
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t size = sizeof(address);
    pthread_t thread;
    fail_at = calls_seen = 0;
    if (listener < 0) {
        listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        REQUIRE(bind(listener, (struct sockaddr *)&address, sizeof(address)) == 0 && listen(listener, 64) == 0);
        REQUIRE(getsockname(listener, (struct sockaddr *)&address, &size) == 0);
        port = ntohs(address.sin_port);
        REQUIRE(pthread_create(&thread, NULL, serve, NULL) == 0 && pthread_detach(thread) == 0);
    }
    sp_status s = sp_net_load(&api, &err);
    if (s)
        test_fail(__FILE__, __LINE__, "%s", err.message);
    REQUIRE(s == SP_OK && api->open(&options, &net, &err) == SP_OK);
}

typedef struct outcome {
    int done;
    sp_status status;
    int http_status;
    char body[16], kept[16];
} outcome;

static void done(void *context, const sp_http_result *result)
{
    outcome *o = context;
    o->done++;
    o->status = result->status;
    o->http_status = result->http_status;
    (void)snprintf(o->body, sizeof(o->body), "%.*s", (int)result->body.size_bytes, (const char *)result->body.data);
    (void)snprintf(o->kept, sizeof(o->kept), "%.15s", result->kept[1]);
}

static sp_status start(const char *path, outcome *o, sp_net_call **ret_call)
{
    char url[64];
    sp_error err = { 0 };
    (void)snprintf(url, sizeof(url), "http://127.0.0.1:%d%s", port, path);
    sp_http_request request = {
        .method = SP_HTTP_POST, .url = url, .headers = "A: b\nContent-Type: text/plain\n", .bearer = "key",
        .body = { sp_view_of("left "), sp_view_of("right") }, .deadline_ns = sp_clock_now_ns() + 20 * SP_NS_PER_S, .sink_fd = -1,
        .body_limit_bytes = 100, .keep_headers = { "X-None", "x-kept" }, .done = done, .context = o,
    };
    return api->start(net, &request, ret_call, &err);
}

static void drive_until(const outcome *o)
{
    int64_t until_ns = sp_clock_now_ns() + 20 * SP_NS_PER_S;
    while (!o->done && sp_clock_now_ns() < until_ns)
        api->drive(net, -1, 100 * SP_NS_PER_MS);
}

TEST(an_answer_comes_once)
{
    open_net();
    outcome o = { 0 };
    sp_net_call *call;
    REQUIRE(start("/", &o, &call) == SP_OK);
    drive_until(&o);
    CHECK(o.done == 1 && o.status == SP_OK && o.http_status == 200);
    CHECK_TEXT(o.body, "hi");
    CHECK_TEXT(o.kept, "yes");
    api->close(net);
}

TEST(what_is_cancelled_or_left_behind_is_freed)
{
    open_net();
    outcome o = { 0 };
    sp_net_call *calls[40];
    for (int i = 0; i < 40; i++)
        REQUIRE(start(i % 2 ? "/wait" : "/", &o, &calls[i]) == SP_OK);
    api->cancel(net, calls[0]); /* before anything moved */
    for (int i = 0; i < 20; i++)
        api->drive(net, -1, 5 * SP_NS_PER_MS);
    for (int i = 1; i < 20; i += 2)
        api->cancel(net, calls[i]);
    int before = o.done;
    api->close(net);
    CHECK(before <= 19 && o.done == before);
}

TEST(each_libcurl_call_may_fail)
{
    open_net();
    int refused = 0, at = 1;
    for (; at < 200; at++) {
        outcome o = { 0 };
        sp_net_call *call;
        calls_seen = 0;
        fail_at = at;
        sp_status s = start("/", &o, &call);
        if (s) {
            CHECK_INT(s, SP_NOMEM);
            refused++;
            continue;
        }
        drive_until(&o);
        CHECK(o.done == 1 && o.status == SP_OK);
        break; /* past the last of them */
    }
    CHECK(refused == at - 1 && refused >= 20);
    api->close(net);
}

TEST(the_bell_ends_a_wait)
{
    open_net();
    int bell = eventfd(1, EFD_CLOEXEC); /* rung already */
    int64_t begun_ns = sp_clock_now_ns();
    api->drive(net, bell, 30 * SP_NS_PER_S);
    CHECK(sp_clock_now_ns() - begun_ns < 15 * SP_NS_PER_S);
    api->close(net);
    (void)close(bell);
}
