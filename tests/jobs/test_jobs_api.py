# SPDX-License-Identifier: Apache-2.0
"""/v1/jobs as a client sees it: handing in, answers, lists, events, deletion, what is refused and how."""
import hashlib

import pytest

import jobhouse
from jobhouse import form, until

SLOW = "noop0/worker.batch:sleep=1500@body-prefix=slow,noop1/worker.batch:sleep=1500@body-prefix=slow"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One server for the tests that do not mind each other's jobs."""
    if not jobhouse.PROGRAM.exists():
        pytest.skip(f"{jobhouse.PROGRAM} is not built")
    one = jobhouse.Server(tmp_path_factory.mktemp("jobs") / "server")
    yield one
    assert one.process.poll() is None, one.log_text()
    assert one.stop() == 0


def test_a_job_goes_from_202_to_done(server):
    reply = server.submit(b"hello", "task=noop&client_id=me&priority=3&metadata=" + "%7B%22a%22%3A%20%5B1%5D%7D")
    accepted = reply.json()
    assert reply.status == 202 and accepted["status"] == "queued" and accepted["durability"] == "disk", reply
    assert reply.headers["location"] == "/v1/jobs/" + accepted["id"]
    job = server.wait_job(accepted["id"])
    assert job["status"] == "done" and job["progress"] == 100 and job["attempts"] == 1, job
    assert job["result"]["payload_bytes"] == 5 and job["result"]["provider"].startswith("noop"), job
    assert job["client_id"] == "me" and job["metadata"] == {"a": [1]} and job["priority"] == 3, job
    assert job["created_at"] <= job["started_at"] <= job["finished_at"] < job["expires_at"], job
    assert job["error"] is None


def test_a_picture_is_classified_as_by_infer(serve):
    picture = jobhouse.ASSETS / "media" / "images" / "zebra.jpeg"
    if not picture.exists() or not (jobhouse.MODELS / "efficientnet-lite0" / "1" / "model.onnx").exists():
        pytest.skip("the zebra or the default model is not there (SPILLWAY_ASSETS, make model)")
    server = serve(workers="codec0,cpu0")
    body, kind = form({"task": "classify", "top_k": 2, "client_id": "form"}, picture.read_bytes())
    reply = server.ask("POST", "/v1/jobs", body, {"Content-Type": kind})
    assert reply.status == 202, reply
    big, kind = form({"task": "classify"}, picture.read_bytes() + b"\0" * 300_000)  # a body that lies in a file of its own
    other = server.ask("POST", "/v1/jobs", big, {"Content-Type": kind})
    now = server.ask("POST", "/infer", picture.read_bytes(), {"Content-Type": "image/jpeg"}).json()
    job = server.wait_job(reply.json()["id"])
    assert job["status"] == "done" and job["client_id"] == "form" and job["parameters"] == {"top_k": 2}, job
    assert job["result"]["predictions"] == now["predictions"][:2] and job["result"].keys() == now.keys(), (job, now)
    assert server.wait_job(other.json()["id"])["result"]["predictions"] == now["predictions"]
    broken = server.submit(b"no picture at all", "task=classify")
    job = server.wait_job(broken.json()["id"])
    assert job["status"] == "failed" and job["attempts"] == 1 and job["result"] is None, job
    assert job["error"]["status"] == "invalid" and job["error"]["attempts"], job


@pytest.mark.parametrize("fields, status, code, words", [
    ({"task": "clasify", "url": "http://a/b"}, 400, "unknown_task", "classify"),
    ({"url": "http://a/b"}, 400, "no_task", "which task"),
    ({"task": "send", "url": "http://a/b"}, 400, "unknown_task", "send"),
    ({"task": "noop"}, 400, "empty_body", "neither a body nor a url"),
    ({"task": "noop", "url": "ftp://a/b"}, 400, "bad_url", "http://"),
    ({"task": "noop", "url": "http://user:pw@a/b"}, 400, "bad_url", "password"),
    ({"task": "noop", "url": "http:///b"}, 400, "bad_url", "no host"),
    ({"task": "noop", "url": "http://a/b", "local_only": True}, 403, "local_only", "url"),
    ({"task": "noop", "url": "http://a/b", "colour": 1}, 400, "unknown_field", "colour"),
    ({"task": "noop", "url": "http://a/b", "priority": 11}, 400, "bad_parameter", "-10 to 10"),
    ({"task": "noop", "url": "http://a/b", "priority": "high"}, 400, "bad_parameter", "whole number"),
    ({"task": "noop", "url": "http://a/b", "ttl": 0}, 400, "bad_parameter", "ttl"),
    ({"task": "noop", "url": "http://a/b", "local_only": "yes"}, 400, "bad_parameter", "true or false"),
    ({"task": "noop", "url": "http://a/b", "client_id": "x" * 128}, 400, "bad_parameter", "127"),
    ({"task": "noop", "url": "http://a/b", "metadata": {"a": "x" * 5000}}, 413, "field_too_large", "4096"),
    ({"task": "noop", "url": "http://a/b", "parameters": {"top_k": 0}}, 400, "bad_parameter", "1 to 100"),
    ({"task": "noop", "url": "http://a/b", "parameters": {"x": []}}, 400, "bad_parameter", "parameters.x"),
    ({"task": "noop", "url": "http://a/b", "parameters": 3}, 400, "bad_parameter", "object"),
    ({"task": "noop", "url": "http://a/b", "webhook": "javascript:1"}, 400, "bad_url", "webhook"),
    ({"task": "noop", "url": "http://a/b", "output": {"to": 1}}, 400, "bad_output", "put_urls"),
    ({"task": "noop", "url": "http://a/b", "output": {"put_urls": []}}, 400, "bad_output", "1 to 8"),
    ({"task": "noop", "url": "http://a/b", "output": {"put_urls": ["x"]}}, 400, "bad_url", "put_urls[0]"),
    ({"task": "noop", "url": "http://a/b", "output": {"s3": {"bucket": "b"}}}, 400, "bad_output", "key"),
    ({"task": "noop", "url": "http://a/b", "output": {"s3": {"bucket": "b", "key": "k"}}}, 501, "no_s3", "s3.endpoint"),
    ({"task": "noop", "url": "http://a/b"}, 501, "no_net_worker", "net0"),
    ('{"task": "noop",\n "url": }', 400, "bad_json", "line 2, column"),
    ('{"task": "noop", "task": "noop"}', 400, "bad_json", "duplicate"),
    ("[]", 400, "bad_json", "object"),
])
def test_what_cannot_be_is_refused_with_the_reason(server, fields, status, code, words):
    reply = server.submit_json(fields)
    told = reply.json()
    assert reply.status == status and told["code"] == code and words in told["error"], reply


def test_bodies_of_the_wrong_kind(server):
    assert server.submit(b"", "task=noop").json()["code"] == "empty_body"
    assert server.submit(b"x", "task=noop&url=http://a/b").json()["code"] == "two_bodies"
    reply = server.ask("POST", "/v1/jobs?task=noop", b"x", {"Content-Type": "text/plain"})
    assert reply.status == 415 and "application/json" in reply.json()["error"], reply
    reply = server.submit_json({"task": "noop", "metadata": "x" * 70_000})
    assert reply.status == 413, reply
    body, kind = form({"task": "noop", "metadata": '{"a": '}, b"x")
    reply = server.ask("POST", "/v1/jobs", body, {"Content-Type": kind})
    assert reply.status == 400 and "line 1, column" in reply.json()["error"], reply
    body, kind = form({"task": "noop", "webhook": "http://a/b"}, b"x")
    reply = server.ask("POST", "/v1/jobs", body, {"Content-Type": kind})
    assert reply.status == 501 and "net worker" in reply.json()["error"], reply
    assert server.ask("GET", "/v1/jobs/nothing-like-it").status == 404
    assert server.ask("DELETE", "/v1/jobs/nothing-like-it").status == 404
    assert server.ask("GET", "/v1/jobs/%00%00").status == 404
    assert server.ask("GET", "/v1/jobs?status=tired").status == 400
    assert server.ask("GET", "/v1/jobs?limit=1000").status == 400
    assert server.ask("PUT", "/v1/jobs", b"x").status == 405


def test_an_idempotency_key_makes_one_job_of_two_requests(server):
    first = server.submit(b"once", headers={"Idempotency-Key": "key-1"})
    again = server.submit(b"once", headers={"Idempotency-Key": "key-1"})
    assert first.status == again.status == 202 and first.json()["id"] == again.json()["id"], (first, again)
    assert not first.json()["existed"] and again.json()["existed"] and again.headers["idempotency-replayed"] == "true"
    other = server.submit(b"twice", headers={"Idempotency-Key": "key-1"})
    assert other.status == 409 and first.json()["id"] in other.json()["error"], other
    field, kind = form({"task": "noop", "idempotency_key": "key-1"}, b"once")
    assert server.ask("POST", "/v1/jobs", field, {"Content-Type": kind}).json()["id"] == first.json()["id"]


def test_lists_by_page_status_and_task(serve):
    server = serve()
    names = [server.submit(b"%d" % i).json()["id"] for i in range(7)]
    for name in names:
        server.wait_job(name)
    page = server.ask("GET", "/v1/jobs?limit=3&status=done&task=noop").json()
    assert [j["id"] for j in page["jobs"]] == names[:3:-1] and page["cursor"], page
    rest = server.ask("GET", "/v1/jobs?limit=200&cursor=" + page["cursor"]).json()
    assert [j["id"] for j in rest["jobs"]] == names[3::-1] and rest["cursor"] is None, rest
    assert server.ask("GET", "/v1/jobs?status=failed").json()["jobs"] == []
    assert server.ask("GET", "/v1/jobs?task=classify").json()["jobs"] == []


def test_events_follow_a_job_to_its_end(serve):
    server = serve(faults=SLOW)
    name = server.submit(b"slow one", "task=noop&client_id=c&metadata=%7B%22m%22%3A1%7D").json()["id"]
    seen = server.events(name)
    assert seen[0][0] in ("job.queued", "job.running") and seen[-1][0] == "job.done", seen
    assert {"job.progress"} < {kind for kind, _ in seen} or seen[0][1]["progress"] == 10, seen
    assert all(d["id"] == name and d["client_id"] == "c" and d["metadata"] == {"m": 1} for _, d in seen), seen
    assert server.events(name) == [("job.done", server.events(name)[0][1])]  # of a finished one: its end, and no more
    assert server.ask("GET", "/v1/jobs/job-1/events").status == 404


def test_queued_and_running_jobs_are_cancelled_finished_ones_erased(serve):
    server = serve(faults=SLOW, workers="noop0")
    running = server.submit(b"slow a").json()["id"]
    server.wait_job(running, "running")
    reply = server.ask("DELETE", "/v1/jobs/" + running)
    assert reply.status == 200 and reply.json()["status"] == "cancelled", reply
    assert server.job(running)["status"] == "cancelled"
    until(lambda: server.ask("GET", "/healthz").json()["requests_open"] == 0, "its request is gone")
    assert server.job(running)["status"] == "cancelled" and server.metric("spillway_jobs_running") == 0
    name = server.submit(b"quick").json()["id"]
    assert server.wait_job(name)["status"] == "done"
    assert server.ask("DELETE", "/v1/jobs/" + name).json()["status"] == "erased"
    assert server.ask("GET", "/v1/jobs/" + name).status == 404
    assert server.ask("DELETE", "/v1/jobs/" + running).json()["status"] == "erased"
    assert server.jobs() == []


def test_higher_priorities_go_first_and_a_queued_job_can_be_cancelled(serve):
    server = serve(faults=SLOW, workers="noop0", config="jobs:\n  concurrency: 1\n")
    server.wait_job(server.submit(b"slow, so that the others wait").json()["id"], "running")
    low = server.submit(b"low", "task=noop&priority=-5").json()["id"]
    away = server.submit(b"away").json()["id"]
    high = server.submit(b"high", "task=noop&priority=5").json()["id"]
    assert server.ask("DELETE", "/v1/jobs/" + away).json()["status"] == "cancelled"
    low, high = server.wait_job(low), server.wait_job(high)
    assert high["finished_at"] <= low["started_at"], (high, low)
    gone = server.job(away)
    assert gone["status"] == "cancelled" and gone["started_at"] is None, gone


def test_a_passing_failure_is_tried_again_and_a_lasting_one_ends_as_dead_letter(serve):
    server = serve(workers="noop0", faults="worker.batch:fail@body-prefix=bad", config="jobs:\n  tries: 2\n")
    bad = server.submit(b"bad luck").json()["id"]
    fine = server.submit(b"fine").json()["id"]
    assert server.wait_job(fine)["status"] == "done"  # others do not wait for its pauses
    job = server.wait_job(bad)
    assert job["status"] == "failed" and job["attempts"] == 2 and job["error"]["code"] == "tries_exhausted", job
    assert "fault point" in job["error"]["error"], job
    events = [kind for kind, _ in server.events(bad)]
    assert events == ["job.failed"]


def test_disk_full_is_503_and_leaves_nothing_half_accepted(serve):
    server = serve(faults="store.write:fail@n=1")
    reply = server.submit(b"x" * 200_000)
    assert reply.status == 503 and int(reply.headers["retry-after"]) > 0, reply
    assert server.jobs() == [] and list((server.directory / "var/data/bodies").iterdir()) == []
    name = server.submit(b"x" * 60_000).json()["id"]
    assert server.wait_job(name)["status"] == "done"
    assert [j["id"] for j in server.jobs()] == [name]


def test_a_store_that_fails_now_and_then_loses_and_doubles_nothing(serve):
    server = serve(faults="store.sqlite:fail@every=43")
    first = until(lambda: r if (r := server.submit(b"first")).status == 202 else None, "the store is open", pause=0.2)
    accepted, refused = [first.json()["id"]], 0
    for i in range(60):
        reply = server.submit(b"job %d" % i)
        assert reply.status in (202, 503), reply
        if reply.status == 202:
            accepted.append(reply.json()["id"])
        else:
            assert "retry-after" in reply.headers
            refused += 1

    waiting = set(accepted)

    def all_done():
        for name in list(waiting):
            reply = server.ask("GET", "/v1/jobs/" + name)
            assert reply.status in (200, 503), reply
            if reply.status == 200 and reply.json()["status"] == "done":
                waiting.discard(name)
        return not waiting
    until(all_done, "all accepted jobs are done", pause=0.1)
    assert refused and accepted
    names, cursor = [], ""
    while cursor is not None:  # small pages: a long one would always meet the fault
        page = until(lambda c=cursor: r.json() if (r := server.ask("GET", f"/v1/jobs?limit=5&cursor={c}")).status == 200 else None,
                     "a page")
        names, cursor = names + [j["id"] for j in page["jobs"]], page["cursor"]
    assert sorted(names) == sorted(accepted), "refused ones left nothing behind"


def test_a_second_server_on_the_same_directory_says_why_it_has_no_jobs(serve):
    first, second = serve("same"), serve("same")
    reply = second.submit()
    assert reply.status == 503 and "retry-after" in reply.headers and reply.json()["code"] == "store_down", reply
    assert second.ask("POST", "/infer?task=noop", b"x", {"Content-Type": "application/octet-stream"}).status == 200
    assert first.submit().status == 202


def test_sigterm_finishes_what_runs_and_keeps_what_waits(serve):
    server = serve(faults=SLOW, workers="noop0", config="jobs:\n  concurrency: 1\n")
    running = server.submit(b"slow").json()["id"]
    server.wait_job(running, "running")
    waiting = server.submit(b"quick").json()["id"]
    assert server.stop() == 0
    server.start()
    job = server.job(running)
    assert job["status"] == "done" and job["attempts"] == 1, job
    assert server.wait_job(waiting)["status"] == "done"


def test_a_job_that_waits_too_long_expires_and_whoever_follows_is_told(serve):
    server = serve(faults="worker.batch:sleep=60000", workers="noop0", config="jobs:\n  concurrency: 1\n",
                   env={"SPILLWAY_JOBS_SWEEP_MS": "200"})
    server.wait_job(server.submit(b"in the way").json()["id"], "running")
    name = server.submit(b"late", "task=noop&ttl=1").json()["id"]
    assert server.events(name)[-1][0] == "job.failed"
    assert server.job(name)["error"]["code"] == "expired"
    server.kill()  # a drain would wait ten seconds for the one that is in the way


def token(name, text, more=""):
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"  - {{name: {name}, sha256: {digest}, scopes: [infer], tenant: {name}{more}}}\n"


def test_tenants_see_their_own_jobs_only_and_local_tokens_stay_local(serve):
    server = serve(workers="noop0,net0", config="tokens:\n" + token("acme", "a" * 32) + token("bolt", "b" * 32, ", local_only: true"))
    acme, bolt = ({"Authorization": "Bearer " + c * 32} for c in "ab")
    name = server.submit(b"x", headers=acme).json()["id"]
    until(lambda: server.ask("GET", "/v1/jobs/" + name, headers=acme).json()["status"] == "done", "it is done")
    for method, path in (("GET", "/v1/jobs/"), ("DELETE", "/v1/jobs/"), ("GET", "/v1/results/"), ("DELETE", "/v1/results/")):
        assert server.ask(method, path + name, headers=bolt).status == 404, (method, path)
    assert server.ask("GET", f"/v1/jobs/{name}/events", headers=bolt).status == 404
    assert server.ask("GET", "/v1/jobs", headers=bolt).json()["jobs"] == []
    assert server.ask("GET", "/v1/results", headers=bolt).json()["results"] == []
    assert [j["id"] for j in server.ask("GET", "/v1/jobs", headers=acme).json()["jobs"]] == [name]
    key = {"Idempotency-Key": "same"}
    ids = {server.submit(b"x", headers={**who, **key}).json()["id"] for who in (acme, bolt)}
    assert len(ids) == 2, "keys are a tenant's own"
    reply = server.submit(b"x", "task=noop&webhook=http://example.com/", headers=bolt)
    assert reply.status == 403 and reply.json()["code"] == "local_only", reply
    assert server.submit(b"x").status == 401
