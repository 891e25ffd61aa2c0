# SPDX-License-Identifier: Apache-2.0
"""/v1/results and /v1/costs: what was answered, by whom, at what price; erasing it everywhere."""
import pytest

import jobhouse
from jobhouse import until


@pytest.fixture(scope="module")
def picture():
    path = jobhouse.ASSETS / "media" / "images" / "zebra.jpeg"
    if not path.exists() or not (jobhouse.MODELS / "efficientnet-lite0" / "1" / "model.onnx").exists():
        pytest.skip("the zebra or the default model is not there (SPILLWAY_ASSETS, make model)")
    return path.read_bytes()


def test_results_of_jobs_and_requests_are_found_priced_and_erased(serve, picture):
    server = serve(workers="codec0,cpu0", config="results:\n  all: true\ncache:\n  memory: 1MiB\n").ready()
    job = server.submit(picture, "task=classify&stream=cam1&client_id=me&metadata=%7B%22a%22%3A1%7D").json()["id"]
    assert server.wait_job(job)["status"] == "done"
    plain = server.ask("POST", "/infer?stream=cam2", picture, {"Content-Type": "image/jpeg", "X-Request-Id": "plain-1"})
    assert plain.status == 200 and plain.json()["cache"] == "miss", plain
    assert server.ask("POST", "/infer", picture, {"Content-Type": "image/jpeg", "X-Request-Id": "plain-2"}).json()["cache"] == "hit"

    def found(query=""):
        reply = server.ask("GET", "/v1/results" + query)
        assert reply.status == 200, reply
        return [r["id"] for r in reply.json()["results"]]
    until(lambda: len(found()) == 3, "three results")
    assert found("?stream=cam1") == [job] and found("?stream=cam2") == ["plain-1"]
    assert set(found("?text=zebra")) == {job, "plain-1", "plain-2"} and found("?text=submarine") == []
    assert found("?provider=cpu7") == [] and found("?fallback=true") == [] and len(found("?fallback=false&task=classify")) == 3
    assert found("?to=2001-01-01") == [] and len(found("?from=2001-01-01T00:00:00Z")) == 3
    page = server.ask("GET", "/v1/results?limit=2").json()
    assert len(page["results"]) == 2 and len(found("?limit=2&cursor=" + page["cursor"])) == 1
    assert server.ask("GET", "/v1/results?from=yesterday").status == 400
    document = server.ask("GET", "/v1/results/" + job).json()
    text = str(document)
    assert "zebra" in text and "'client_id': 'me'" in text and "'metadata': {'a': 1}" in text, document

    costs = server.ask("GET", "/v1/costs").json()["costs"]
    assert costs and costs[0]["task"] == "classify" and sum(c["requests"] for c in costs) == 3, costs
    assert server.ask("GET", "/v1/costs?to=2001-01-01").json()["costs"] == []

    assert server.ask("DELETE", "/v1/results/" + job).status == 200
    assert server.ask("GET", "/v1/jobs/" + job).status == 404 and server.ask("GET", "/v1/results/" + job).status == 404
    assert server.ask("DELETE", "/v1/results/plain-1").status == 200  # and with it the cached answer
    again = server.ask("POST", "/infer", picture, {"Content-Type": "image/jpeg"}).json()
    assert again["cache"] == "miss" and again["predictions"] == plain.json()["predictions"]
    assert server.ask("DELETE", "/v1/results/plain-1").status == 404


def test_without_results_all_only_jobs_are_kept(serve):
    server = serve()
    server.ask("POST", "/infer?task=noop", b"x", {"Content-Type": "application/octet-stream"})
    job = server.submit(b"x").json()["id"]
    server.wait_job(job)
    assert [r["id"] for r in server.ask("GET", "/v1/results").json()["results"]] == [job]
