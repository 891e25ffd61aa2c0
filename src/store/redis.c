/* SPDX-License-Identifier: Apache-2.0
 * The connection to Redis. The socket is made here and not by hiredis: close-on-exec from its first moment (workers are
 * spawned beside), and connecting is bounded. */
#include "store/redis.h"

#include "base/clock.h"
#include "base/fault.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define WORDS_MOST 96 /* of one command; an add has the most, two a field */
#define CONNECT_NS (1000 * SP_NS_PER_MS)

/* --- the URL ----------------------------------------------------------------------------------------------------- */

static sp_status bad_url(const char *what, sp_error *reterr)
{
    return SP_FAIL(reterr, SP_INVALID, "%s; a Redis is named redis://[user:password@]host[:port][/db]", what);
}

/* Copies [from, to) when it fits. */
static bool take_part(const char *from, const char *to, char *ret_text, size_t size_bytes)
{
    if (to < from || (size_t)(to - from) >= size_bytes)
        return false;
    memcpy(ret_text, from, (size_t)(to - from));
    ret_text[to - from] = 0;
    return true;
}

static bool take_number(const char *from, const char *to, int most, int *ret_number)
{
    char text[8], *end = NULL;
    if (!take_part(from, to, text, sizeof(text)) || text[0] < '0' || text[0] > '9')
        return false;
    long number = strtol(text, &end, 10);
    *ret_number = (int)number;
    return !*end && number <= most;
}

static bool take_credentials(sp_redis *redis, const char *from, const char *at)
{
    const char *colon = memchr(from, ':', (size_t)(at - from));
    if (!colon)
        return take_part(from, at, redis->password, sizeof(redis->password));
    return take_part(from, colon, redis->user, sizeof(redis->user)) &&
           take_part(colon + 1, at, redis->password, sizeof(redis->password));
}

static bool take_address(sp_redis *redis, const char *from, const char *end)
{
    const char *host_end, *colon;
    if (*from == '[') { /* IPv6 */
        host_end = memchr(from, ']', (size_t)(end - from));
        if (!host_end || !take_part(from + 1, host_end, redis->host, sizeof(redis->host)))
            return false;
        colon = host_end + 1 < end ? host_end + 1 : NULL;
    } else {
        colon = memchr(from, ':', (size_t)(end - from));
        if (!take_part(from, colon ? colon : end, redis->host, sizeof(redis->host)))
            return false;
    }
    if (colon && (*colon != ':' || !take_number(colon + 1, end, 65535, &redis->port)))
        return false;
    return redis->host[0] != 0;
}

static sp_status parse_url(sp_redis *redis, const char *url, sp_error *reterr)
{
    static const char scheme[] = "redis://";
    if (strncmp(url, "rediss://", 9) == 0)
        return bad_url("TLS (rediss://) is not built in; put a TLS tunnel before it", reterr);
    if (strncmp(url, scheme, sizeof(scheme) - 1) != 0)
        return bad_url("the address of Redis does not begin with redis://", reterr);
    const char *from = url + sizeof(scheme) - 1, *end = from + strcspn(from, "/"), *at = memrchr(from, '@', (size_t)(end - from));
    if (at && !take_credentials(redis, from, at))
        return bad_url("the user or password of Redis is too long", reterr);
    if (!take_address(redis, at ? at + 1 : from, end))
        return bad_url("the host or port of Redis cannot be read", reterr);
    if (end[0] && end[1] && !take_number(end + 1, url + strlen(url), 9999, &redis->db))
        return bad_url("the database of Redis is no number", reterr);
    return SP_OK;
}

sp_status sp_redis_init(sp_redis *redis, const char *name, const char *url, int64_t timeout_ns, sp_error *reterr)
{
    *redis = (sp_redis){ .port = 6379, .timeout_ns = timeout_ns };
    sp_breaker_settings settings = { .consecutive_failures = 2, .failure_percent = 50, .minimum_calls = 20,
                                     .window_ns = 10 * SP_NS_PER_S, .open_ns = 250 * SP_NS_PER_MS,
                                     .open_max_ns = 5 * SP_NS_PER_S, .probes = 1 };
    sp_guarded_init(&redis->guarded, name, &settings);
    return parse_url(redis, url, reterr);
}

static void disconnect(sp_redis *redis)
{
    if (redis->context)
        redisFree(redis->context);
    redis->context = NULL;
}

void sp_redis_done(sp_redis *redis)
{
    disconnect(redis);
}

const char *sp_redis_name(const sp_redis *redis)
{
    static _Thread_local char name[192];
    (void)snprintf(name, sizeof(name), "%s:%d", redis->host, redis->port);
    return name;
}

/* --- connecting -------------------------------------------------------------------------------------------------- */

static int64_t left_ns(const sp_redis *redis, int64_t most_ns)
{
    if (!redis->deadline_ns)
        return most_ns;
    int64_t left = redis->deadline_ns - sp_clock_now_ns();
    return SP_CLAMP(left, SP_NS_PER_MS, most_ns);
}

/* 0, or an errno. */
static int finish_connect(int fd, int64_t timeout_ns)
{
    struct pollfd poller = { .fd = fd, .events = POLLOUT };
    int e = 0;
    socklen_t length = sizeof(e);
    int n = poll(&poller, 1, (int)(timeout_ns / SP_NS_PER_MS));
    if (n <= 0)
        return n == 0 ? ETIMEDOUT : errno;
    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &e, &length) == 0 ? e : errno;
}

static int connect_one(const struct addrinfo *address, int64_t timeout_ns, int *ret_fd)
{
    SP_CLEANUP(sp_fd_closep) int fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return errno;
    if (connect(fd, address->ai_addr, address->ai_addrlen) != 0) {
        int e = errno == EINPROGRESS ? finish_connect(fd, timeout_ns) : errno;
        if (e)
            return e;
    }
    int yes = 1;
    if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK) != 0)
        return errno;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes)); /* slower without, not wrong */
    *ret_fd = fd;
    fd = -1;
    return 0;
}

static sp_status open_socket(sp_redis *redis, int *ret_fd, sp_error *reterr)
{
    char port[8];
    struct addrinfo hints = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM }, *addresses = NULL;
    (void)snprintf(port, sizeof(port), "%d", redis->port);
    int e = getaddrinfo(redis->host, port, &hints, &addresses);
    if (e)
        return SP_FAIL_FROM(reterr, SP_UNAVAILABLE, "getaddrinfo", e, "Redis at %s: %s", sp_redis_name(redis), gai_strerror(e));
    e = ECONNREFUSED;
    for (const struct addrinfo *a = addresses; a && e; a = a->ai_next)
        e = connect_one(a, left_ns(redis, CONNECT_NS), ret_fd);
    freeaddrinfo(addresses);
    if (e)
        return SP_FAIL_FROM(reterr, SP_UNAVAILABLE, "redis", e, "cannot reach Redis at %s: %s", sp_redis_name(redis), strerror(e));
    return SP_OK;
}

static sp_status greet(sp_redis *redis, sp_error *reterr)
{
    SP_CLEANUP(sp_redis_reply_freep) redisReply *reply = NULL;
    char db[16];
    sp_status s = SP_OK;
    if (redis->password[0] && redis->user[0])
        s = sp_redis_say(redis, &reply, reterr, "AUTH", redis->user, redis->password, NULL);
    else if (redis->password[0])
        s = sp_redis_say(redis, &reply, reterr, "AUTH", redis->password, NULL);
    if (s)
        return s;
    sp_redis_reply_freep(&reply);
    (void)snprintf(db, sizeof(db), "%d", redis->db);
    if (redis->db)
        s = sp_redis_say(redis, &reply, reterr, "SELECT", db, NULL);
    return s || !redis->greet ? s : redis->greet(redis, redis->greet_context, reterr);
}

static sp_status connect_now(sp_redis *redis, sp_error *reterr)
{
    int fd = -1;
    sp_status s = open_socket(redis, &fd, reterr);
    if (s)
        return s;
    redis->context = redisConnectFd(fd);
    if (!redis->context) {
        (void)close(fd);
        return SP_FAIL(reterr, SP_NOMEM, "no memory for a connection to Redis");
    }
    redis->greeting = true;
    s = greet(redis, reterr);
    redis->greeting = false;
    if (s)
        disconnect(redis);
    return s;
}

/* --- calling ----------------------------------------------------------------------------------------------------- */

/* What Redis answered instead of a result. Its words are for people; the first one is stable. */
static sp_status error_reply(sp_redis *redis, const redisReply *reply, sp_error *reterr)
{
    static const char *const not_now[] = { "LOADING", "BUSY", "MASTERDOWN", "READONLY", "MISCONF", "NOREPLICAS", "OOM", "TRYAGAIN",
                                           "CLUSTERDOWN", "NOGROUP", "NOAUTH", "WRONGPASS", "NOPERM", "MOVED" };
    for (size_t i = 0; i < SP_ARRAY_LEN(not_now); i++) {
        /* Inside a script's error it stands behind "ERR Error running script ...: @user_script: 3: ". */
        if (strstr(reply->str, not_now[i]))
            return sp_error_set(reterr, SP_UNAVAILABLE, strcmp(not_now[i], "OOM") ? "" : "redis_full", "redis", 0, __FILE__, __LINE__,
                                "Redis at %s: %.180s", sp_redis_name(redis), reply->str);
    }
    return SP_FAIL_FROM(reterr, SP_INTERNAL, "redis", 0, "Redis at %s: %.180s", sp_redis_name(redis), reply->str);
}

static sp_status broken(sp_redis *redis, sp_error *reterr)
{
    bool late = redis->context->err == REDIS_ERR_IO && (errno == EAGAIN || errno == EWOULDBLOCK);
    sp_status s = late ? SP_FAIL_FROM(reterr, SP_UNAVAILABLE, "redis", EAGAIN, "Redis at %s did not answer in time", sp_redis_name(redis)) :
                         SP_FAIL_FROM(reterr, SP_UNAVAILABLE, "redis", redis->context->err, "the connection to Redis at %s broke: %.100s",
                                      sp_redis_name(redis), redis->context->errstr);
    disconnect(redis); /* a late answer must not be taken for that to the next question */
    return s;
}

static sp_status faulted(sp_redis *redis, sp_fault_action action, sp_error *reterr)
{
    if (action == SP_FAULT_NONE)
        return SP_OK;
    disconnect(redis);
    if (action == SP_FAULT_NOMEM)
        return SP_FAIL(reterr, SP_NOMEM, "no memory to talk to Redis (fault point)");
    return SP_FAIL(reterr, SP_UNAVAILABLE, "the connection to Redis broke (fault point)");
}

/* Connected: one command and its reply. */
static sp_status exchange(sp_redis *redis, int word_count, const sp_view *words, redisReply **ret_reply, sp_error *reterr)
{
    const char *text[WORDS_MOST];
    size_t length[WORDS_MOST];
    SP_ASSERT(word_count <= WORDS_MOST);
    for (int i = 0; i < word_count; i++) {
        text[i] = words[i].size_bytes ? (const char *)words[i].data : "";
        length[i] = words[i].size_bytes;
    }
    sp_status s = faulted(redis, SP_FAULT("store.redis"), reterr);
    if (s)
        return s;
    int64_t ns = left_ns(redis, redis->timeout_ns);
    struct timeval limit = { .tv_sec = ns / SP_NS_PER_S, .tv_usec = ns % SP_NS_PER_S / 1000 };
    (void)redisSetTimeout(redis->context, limit); /* a socket that cannot be set is broken; the next line tells */
    errno = 0;
    redisReply *reply = redisCommandArgv(redis->context, word_count, text, length);
    if (!reply)
        return broken(redis, reterr);
    s = faulted(redis, SP_FAULT("store.redis.reply"), reterr);
    if (!s && reply->type == REDIS_REPLY_ERROR)
        s = error_reply(redis, reply, reterr);
    if (s)
        freeReplyObject(reply);
    else
        *ret_reply = reply;
    return s;
}

/* Nothing is outstanding: if there is something to read it is the end, so that a Redis that was restarted meanwhile
 * costs no call. */
static void look_alive(sp_redis *redis)
{
    struct pollfd poller = { .fd = redis->context ? redis->context->fd : -1, .events = POLLIN | POLLRDHUP };
    if (redis->context && poll(&poller, 1, 0) != 0)
        disconnect(redis);
}

sp_status sp_redis_call(sp_redis *redis, int word_count, const sp_view *words, redisReply **ret_reply, sp_error *reterr)
{
    uint32_t ticket = 0;
    if (redis->greeting)
        return exchange(redis, word_count, words, ret_reply, reterr);
    if (!sp_guarded_allow(&redis->guarded, &ticket))
        return SP_FAIL_CODE(reterr, SP_UNAVAILABLE, "breaker_open", "Redis at %s is down; the next try follows soon",
                            sp_redis_name(redis));
    look_alive(redis);
    sp_status s = redis->context ? SP_OK : connect_now(redis, reterr);
    if (!s)
        s = exchange(redis, word_count, words, ret_reply, reterr);
    /* "No such script" is an answer of a healthy server. */
    sp_guarded_record(&redis->guarded, ticket, s != SP_UNAVAILABLE);
    if (s == SP_UNAVAILABLE)
        disconnect(redis); /* also after "read-only" or "no group": greet the next one anew */
    return s;
}

sp_status sp_redis_say(sp_redis *redis, redisReply **ret_reply, sp_error *reterr, ...)
{
    sp_view words[WORDS_MOST];
    int count = 0;
    va_list args;
    va_start(args, reterr);
    for (const char *word; count < WORDS_MOST && (word = va_arg(args, const char *));)
        words[count++] = sp_view_of(word);
    va_end(args);
    return sp_redis_call(redis, count, words, ret_reply, reterr);
}

sp_status sp_redis_run(sp_redis *redis, sp_redis_script *script, int word_count, const sp_view *words, redisReply **ret_reply,
                       sp_error *reterr)
{
    sp_view all[WORDS_MOST] = { sp_view_of("EVALSHA"), sp_view_of(script->sha1), sp_view_of("0") };
    SP_ASSERT(word_count + 3 <= WORDS_MOST);
    memcpy(all + 3, words, (size_t)word_count * sizeof(*words));
    sp_error err = { 0 };
    sp_status s = SP_INTERNAL;
    if (script->sha1[0])
        s = sp_redis_call(redis, word_count + 3, all, ret_reply, &err);
    if (!script->sha1[0] || (s == SP_INTERNAL && strstr(err.message, "NOSCRIPT"))) { /* new to it, or it was restarted */
        SP_CLEANUP(sp_redis_reply_freep) redisReply *loaded = NULL;
        err = (sp_error){ 0 };
        s = sp_redis_say(redis, &loaded, &err, "SCRIPT", "LOAD", script->text, NULL);
        if (!s) {
            (void)snprintf(script->sha1, sizeof(script->sha1), "%.*s", (int)sp_redis_text(loaded).size_bytes, sp_redis_text(loaded).data);
            all[1] = sp_view_of(script->sha1);
            s = sp_redis_call(redis, word_count + 3, all, ret_reply, &err);
        }
    }
    if (s && reterr)
        *reterr = err;
    return s;
}
