# SPDX-License-Identifier: Apache-2.0
"""Servers that share one Redis: they take over each other's jobs, keep what was accepted through outages, and say how
durable that is."""
import collections
import http.client
import threading

from jobhouse import FINAL, until

QUICK = {"SPILLWAY_JOBS_RENEW_MS": "300"}  # three missed renewals: a job is taken over after a second, not after 15


def config(redis, more=""):
    return f"jobs:\n  redis: {redis.url}\n  concurrency: 4\n{more}"


def test_a_server_that_is_killed_leaves_its_jobs_to_the_other(serve, redis, receive):
    store, hook = redis(), receive()
    more = "  allow_private_webhooks: true\n"
    first = serve("first", workers="noop0,net0", config=config(store, more), env=QUICK, faults="worker.batch:sleep=60000")
    second = serve("second", workers="noop0,net0", config=config(store, more), env=QUICK, faults="worker.batch:sleep=20")
    second.process.send_signal(19)  # SIGSTOP: so that it is the first one that claims
    names = [first.submit(b"job %d" % i, f"task=noop&client_id={i}&webhook={hook.url}/h").json()["id"] for i in range(12)]
    until(lambda: len(first.jobs("&status=running")) >= 1, "the first has some in hand")
    first.kill()
    second.process.send_signal(18)
    for i, name in enumerate(names):
        job = second.wait_job(name)
        assert job["status"] == "done" and job["client_id"] == str(i), job
    seen = collections.Counter(j["id"] for j in second.jobs())
    assert set(seen) == set(names) and max(seen.values()) == 1
    until(lambda: set(names) <= set(hook.delivered()), "every webhook")
    results = collections.Counter(r["id"] for r in second.ask("GET", "/v1/results?limit=200").json()["results"])
    assert set(names) <= set(results) and max(results.values()) == 1


def test_two_servers_share_the_work_and_each_sees_all_of_it(serve, redis):
    store = redis()
    servers = [serve(name, config=config(store), env=QUICK, faults="worker.batch:sleep=10") for name in ("a", "b")]
    accepted = servers[0].submit(b"x").json()
    assert accepted["durability"] == "aof-always", accepted
    names = [servers[i % 2].submit(b"%d" % i).json()["id"] for i in range(60)]
    for i, name in enumerate(names):
        assert servers[(i + 1) % 2].wait_job(name)["status"] == "done"
    done = [s.metric('spillway_jobs_total') for s in servers]
    assert sum(done) == 61 and min(done) > 0, done
    key = {"Idempotency-Key": "both"}
    assert servers[0].submit(b"k", headers=key).json()["id"] == servers[1].submit(b"k", headers=key).json()["id"]
    assert servers[1].submit(b"other", headers=key).status == 409


def test_events_of_a_job_that_another_server_runs(serve, redis):
    store = redis()
    asked = serve("asked", workers="noop0", config=config(store), env=QUICK)
    asked.process.send_signal(19)
    runs = serve("runs", config=config(store), env=QUICK, faults="worker.batch:sleep=1500")
    name = runs.submit(b"x").json()["id"]
    runs.wait_job(name, "running")
    asked.process.send_signal(18)
    events = asked.events(name)
    assert events[0][0] == "job.running" and events[-1][0] == "job.done", events


def test_while_redis_is_down_jobs_are_refused_and_none_is_lost(serve, redis):
    store = redis()
    server = serve(config=config(store), env=QUICK, faults="worker.batch:sleep=20")
    accepted, refused, ending, lock = [], [], threading.Event(), threading.Lock()

    def traffic():
        while not ending.is_set():
            try:
                reply = server.submit(b"x", timeout=20)
            except (OSError, http.client.HTTPException):
                continue
            with lock:
                if reply.status == 202:
                    accepted.append(reply.json()["id"])
                else:
                    assert reply.status == 503 and int(reply.headers["retry-after"]) > 0, reply
                    refused.append(reply)
            ending.wait(0.005)
    client = threading.Thread(target=traffic)
    client.start()
    try:
        for _ in range(2):
            before = len(accepted)
            until(lambda b=before: len(accepted) > b + 15, "jobs come in")
            store.kill()
            before = len(refused)
            until(lambda b=before: len(refused) > b, "jobs are refused")
            assert server.ask("POST", "/infer?task=noop", b"x", {"Content-Type": "application/octet-stream"}).status == 200
            store.start()
    finally:
        ending.set()
        client.join()
    until(lambda: server.ask("GET", "/v1/jobs").status == 200, "the store is back")
    for name in accepted:
        assert server.wait_job(name, *FINAL)["status"] == "done"


def test_less_durability_than_demanded_is_refused(serve, redis):
    store = redis(appendfsync="everysec")
    server = serve("strict", config=config(store))
    reply = server.submit(b"x")
    assert reply.status == 503 and "aof-everysec" in reply.json()["error"], reply
    loose = serve("loose", config=config(store, "  durability: aof-everysec\n"))
    accepted = loose.submit(b"x").json()
    assert accepted["durability"] == "aof-everysec" and loose.wait_job(accepted["id"])["status"] == "done"
