# SPDX-License-Identifier: Apache-2.0
"""What leaves the house: webhooks (signed, repeated, surviving restarts) and outputs (PUT before the job is done)."""
import json

import pytest

import jobhouse
from jobhouse import until

SECRET = "a secret of the test"
CONFIG = "jobs:\n  webhook_secret: {env: HOOK_SECRET}\n  allow_private_webhooks: true\n"


@pytest.fixture
def serve_net(serve):
    def start(name="server", config=CONFIG, **kw):
        return serve(name, workers="noop0,net0", config=config, env={"HOOK_SECRET": SECRET}, **kw).ready()
    return start


def test_a_webhook_is_signed_and_tells_the_whole_job(serve_net, receive):
    hook = receive(secret=SECRET)
    server = serve_net()
    name = server.submit_json({"task": "noop", "url": hook.url + "/nothing", "webhook": hook.url + "/hook", "client_id": "c",
                               "metadata": {"order": 7}}).json()["id"]
    failed = server.wait_job(name)  # GET /nothing is 501: a failure is told as well
    until(lambda: name in hook.delivered(), "the webhook")
    document = hook.deliveries[0][2]
    assert not hook.bad and document["event"] == "job." + failed["status"] and document["client_id"] == "c", document
    assert document["metadata"] == {"order": 7} and document["error"] == failed["error"], (document, failed)
    until(lambda: not server.job(name)["webhook"]["pending"], "it is marked")
    done = server.submit(b"hello", f"task=noop&webhook={hook.url}/hook").json()["id"]
    until(lambda: done in hook.delivered(), "the webhook")
    assert hook.deliveries[-1][2]["result"]["payload_bytes"] == 5 and not hook.bad


def test_a_picture_behind_a_url_is_fetched(serve, receive):
    picture = jobhouse.ASSETS / "media" / "images" / "zebra.jpeg"
    if not picture.exists() or not (jobhouse.MODELS / "efficientnet-lite0" / "1" / "model.onnx").exists():
        pytest.skip("the zebra or the default model is not there (SPILLWAY_ASSETS, make model)")
    far = receive()
    far.files["/zebra.jpeg"] = picture.read_bytes()
    server = serve(workers="codec0,cpu0,net0", config="fetch:\n  allow_private: true\n").ready()
    job = server.wait_job(server.submit_json({"task": "classify", "url": far.url + "/zebra.jpeg"}).json()["id"])
    assert job["status"] == "done" and job["result"]["predictions"][0]["label"] == "zebra", job
    job = server.wait_job(server.submit_json({"task": "classify", "url": far.url + "/lion.jpeg"}).json()["id"])
    assert job["status"] == "failed" and job["attempts"] == 1 and "404" in job["error"]["error"], job


def test_a_webhook_is_repeated_until_it_is_taken_even_by_another_process(serve_net, receive):
    hook = receive(secret=SECRET, answer=lambda count: 500 if count <= 2 else 204)
    server = serve_net()
    name = server.submit(b"x", f"task=noop&webhook={hook.url}/hook").json()["id"]
    assert server.wait_job(name)["status"] == "done"
    until(lambda: len(hook.deliveries) >= 1, "the first try")
    server.kill()
    server.start()
    until(lambda: name in hook.delivered(), "it is taken")
    assert {n for _, n, _ in hook.deliveries} == {name} and len(hook.deliveries) >= 3 and not hook.bad
    until(lambda: not server.job(name)["webhook"]["pending"], "it is marked")


def test_a_receiver_that_says_gone_is_asked_once(serve_net, receive):
    hook = receive(answer=lambda count: 410)
    server = serve_net()
    name = server.submit(b"x", f"task=noop&webhook={hook.url}/hook").json()["id"]
    until(lambda: server.wait_job(name)["webhook"]["pending"] is False, "given up")
    assert len(hook.deliveries) == 1
    assert server.metric('spillway_webhooks_total') == 1


def test_a_dead_host_is_left_alone_and_does_not_hold_up_others(serve_net, receive):
    dead, alive = receive(answer=lambda count: 503), receive()
    server = serve_net()
    stuck = [server.submit(b"x", f"task=noop&webhook={dead.url}/hook").json()["id"] for _ in range(40)]
    name = server.submit(b"x", f"task=noop&webhook={alive.url}/hook").json()["id"]
    until(lambda: name in alive.delivered(), "the other receiver's webhook")
    for one in stuck:
        server.wait_job(one)
    until(lambda: len(dead.deliveries) >= 5, "the dead one was tried")
    assert len(dead.deliveries) < 30, "the breaker opened"


def test_private_addresses_are_refused_unless_allowed(serve_net, receive):
    hook = receive()
    server = serve_net(config="jobs:\n  webhook_secret: {env: HOOK_SECRET}\n")
    name = server.submit(b"x", f"task=noop&webhook={hook.url}/hook").json()["id"]
    job = until(lambda: j if (j := server.wait_job(name))["webhook"]["tries"] else None, "it was tried")
    assert job["status"] == "done" and job["webhook"]["pending"] and not hook.deliveries, job


def test_outputs_are_put_before_the_job_is_done(serve_net, receive):
    target = receive(answer=lambda count: 503 if count == 1 else 200)
    server = serve_net()
    where = [f"{target.url}/a?signature=secret", f"{target.url}/b"]
    name = server.submit(b"hello", "task=noop&output=" + json.dumps({"put_urls": where}).replace(" ", "%20").replace("&", "%26")
                         ).json()["id"]
    job = server.wait_job(name)
    assert job["status"] == "done", job
    assert [o["url"] for o in job["result"]["output"]] == [f"{target.url}/a", f"{target.url}/b"], "a query is a secret"
    assert set(target.puts) == {"/a?signature=secret", "/b"} and len(target.puts["/b"]) == 2, target.puts.keys()
    headers, body = target.puts["/b"][-1]
    assert json.loads(body)["payload_bytes"] == 5 and headers["Content-Type"] == "application/json"
    assert [o["bytes"] for o in job["result"]["output"]] == [len(body)] * 2


def test_an_output_that_is_refused_fails_the_job(serve_net, receive):
    target = receive(answer=lambda count: 403)
    server = serve_net()
    name = server.submit(b"hello", "task=noop&output=" + json.dumps({"put_urls": [target.url + "/a"]}).replace(" ", "%20")).json()["id"]
    job = server.wait_job(name)
    assert job["status"] == "failed" and job["error"]["code"] == "output_failed" and "403" in job["error"]["error"], job
    assert len(target.puts["/a"]) == 1


def test_an_s3_target_gets_a_signed_put(serve_net, receive):
    target = receive()
    server = serve_net(config=CONFIG + f"s3:\n  endpoint: {target.url}\n  access_key: {{env: HOOK_SECRET}}\n"
                                       "  secret_key: {env: HOOK_SECRET}\n")
    name = server.submit_json({"task": "noop", "url": "http://x/", "output": {"s3": {"bucket": "results", "key": "a b/c.json"}}})
    assert name.status == 202
    server.ask("DELETE", "/v1/jobs/" + name.json()["id"])
    query = json.dumps({"s3": {"bucket": "results", "key": "a b/c.json"}}).replace(" ", "%20")
    job = server.wait_job(server.submit(b"hello", "task=noop&output=" + query).json()["id"])
    assert job["status"] == "done" and job["result"]["output"][0]["url"] == f"{target.url}/results/a%20b/c.json", job
    headers, _ = target.puts["/results/a%20b/c.json"][0]
    assert headers["Authorization"].startswith("AWS4-HMAC-SHA256 Credential=" + SECRET), headers


def test_local_only_jobs_send_nothing_anywhere(serve_net, receive):
    hook = receive()
    server = serve_net()
    for more in ({"webhook": hook.url}, {"output": {"put_urls": [hook.url]}}):
        field = "&".join(f"{k}={v if isinstance(v, str) else json.dumps(v).replace(' ', '')}" for k, v in more.items())
        reply = server.submit(b"x", "task=noop&local_only=true&" + field)
        assert reply.status == 403 and reply.json()["code"] == "local_only", reply
    reply = server.submit_json({"task": "noop", "url": hook.url, "local_only": True})
    assert reply.status == 403 and "url" in reply.json()["error"], reply
    assert server.wait_job(server.submit(b"x", "task=noop&local_only=true").json()["id"])["status"] == "done"
