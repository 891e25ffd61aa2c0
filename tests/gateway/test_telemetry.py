# SPDX-License-Identifier: Apache-2.0
"""The access log and traces of real servers: a front whose only link is another Spillway, a back that answers, and a collector
of our own that takes OTLP over HTTP. The JSON is held to the field names and types of opentelemetry-proto's JSON mapping, and
ids must join up across both servers."""
import http.client
import http.server
import json
import os
import pathlib
import re
import signal
import subprocess
import threading
import time

import pytest

BUILD = pathlib.Path(os.environ.get("SPILLWAY_BUILD", pathlib.Path(__file__).resolve().parents[2] / "build"))
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector(http.server.ThreadingHTTPServer):
    """POST /v1/traces; `refuse` answers so many first batches with 503."""
    daemon_threads = True

    def __init__(self):
        collector = self
        self.batches, self.refuse, self.lock = [], 0, threading.Lock()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with collector.lock:
                    refused = collector.refuse > 0
                    collector.refuse -= refused
                    if not refused:
                        collector.batches.append((self.path, dict(self.headers), json.loads(body)))
                self.send_response(503 if refused else 200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def spans(self):
        """[(service, span)] of all that came."""
        found = []
        with self.lock:
            for _, _, body in self.batches:
                for resource in body["resourceSpans"]:
                    service = attributes(resource["resource"])["service.name"]
                    for scope in resource["scopeSpans"]:
                        found += [(service, span) for span in scope["spans"]]
        return found

    def wait(self, test, seconds=20):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            spans = self.spans()
            if test(spans):
                return spans
            time.sleep(0.05)
        pytest.fail(f"the spans did not come: {[(s, x['name']) for s, x in self.spans()]}")


def attributes(thing):
    values = {}
    for entry in thing["attributes"]:
        assert set(entry) == {"key", "value"} and len(entry["value"]) == 1
        (kind, value), = entry["value"].items()
        assert kind in ("stringValue", "intValue", "boolValue", "doubleValue") and (kind != "intValue" or isinstance(value, str))
        values[entry["key"]] = int(value) if kind == "intValue" else value
    return values


class Server:
    def __init__(self, where, name, config, args=()):
        where.mkdir(exist_ok=True)
        self.access, self.config = where / f"{name}.jsonl", where / f"{name}.yaml"
        self.config.write_text(config)
        self.process = subprocess.Popen(
            [BUILD / "spillway", "serve", "--http-port", "0", "--metrics-port", "-1", "--data-dir", where / name, "--config",
             self.config, "--model-repository", where, "--drain-delay", "0", "--log-level", "error", *map(str, args)],
            stdout=subprocess.PIPE, stderr=open(where / f"{name}.log", "wb"), text=True)
        self.port = int(re.search(r":(\d+)$", self.process.stdout.readline().strip())[1])
        threading.Thread(target=self.process.stdout.read, daemon=True).start()

    def ask(self, method, path, body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.headers
        finally:
            connection.close()

    def wait_ready(self):
        end = time.monotonic() + 30
        while time.monotonic() < end:
            if all(w["state"] == "ready" for w in json.loads(self.ask("GET", "/healthz")[1])["workers"]):
                return self
            time.sleep(0.02)
        pytest.fail("not ready")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) == 0

    def lines(self):
        return [json.loads(line) for line in self.access.read_text().splitlines()] if self.access.exists() else []

    def metric(self, labels):
        text = self.ask("GET", "/metrics")[1].decode()
        found = re.findall(rf"^{re.escape(labels)} ([0-9.]+)$", text, re.M)
        return float(found[0]) if found else 0.0


@pytest.fixture(scope="module")
def collector():
    it = Collector()
    yield it
    it.shutdown()
    it.server_close()


@pytest.fixture(scope="module")
def pair(tmp_path_factory, collector):
    where = tmp_path_factory.mktemp("traces")
    url = f"http://127.0.0.1:{collector.server_port}"
    back = Server(where, "back", f"workers: [noop0, net0]\naccess_log: {where}/back.jsonl\n"
                                 f"tracing: {{otlp: '{url}', rate: 0, service: back}}\n").wait_ready()
    front = Server(where, "front", f"workers: [net0]\naccess_log: {where}/front.jsonl\n"
                                   f"tracing: {{otlp: '{url}/v1/traces', rate: 0, service: front}}\n"
                                   f"remotes: {{hq: {{kind: spillway, url: 'http://127.0.0.1:{back.port}'}}}}\n"
                                   "chains: {noop: {links: [hq]}}\n").wait_ready()
    yield front, back
    front.stop()
    back.stop()


def ask_traced(front, request_id, flags="01"):
    status, body, _ = front.ask("POST", "/infer?task=noop", b"four", Content_Type="application/octet-stream",
                                traceparent=f"00-{TRACE}-{PARENT}-{flags}", tracestate="congo=t61rcWkgMzE",
                                X_Request_Id=request_id)
    assert status == 200 and body == b"four"


def test_spans_of_both_servers_join_up(pair, collector):
    front, back = pair
    ask_traced(front, "joined")
    spans = collector.wait(lambda s: sum(x["name"] == "POST /infer" for _, x in s) >= 2)
    assert all(span["traceId"] == TRACE for _, span in spans)
    ids = [span["spanId"] for _, span in spans]
    assert len(set(ids)) == len(ids)
    by_name = {(service, span["name"]): span for service, span in spans}
    begin = by_name["front", "POST /infer"]
    attempt, = [span for (service, name), span in by_name.items() if service == "front" and name.startswith("attempt hq")]
    assert begin["parentSpanId"] == PARENT and attempt["parentSpanId"] == begin["spanId"]
    there = by_name["back", "POST /infer"]
    assert there["parentSpanId"] == attempt["spanId"], "the far side's request hangs under the attempt that asked it"
    assert by_name["back", "attempt noop0"]["parentSpanId"] == there["spanId"]
    assert (begin["kind"], attempt["kind"]) == (2, 3)
    for outer, inner in ((begin, attempt), (attempt, there)):  # one machine, one clock
        assert int(outer["startTimeUnixNano"]) <= int(inner["startTimeUnixNano"])
        assert int(inner["endTimeUnixNano"]) <= int(outer["endTimeUnixNano"]) + 50_000_000
    said = attributes(begin)
    assert said["http.request.method"] == "POST" and said["http.route"] == "/infer"
    assert said["http.response.status_code"] == 200 and said["spillway.request_id"] == "joined"
    assert said["spillway.link"].startswith("hq") and said["http.request.body.size"] == 4


def test_the_json_is_opentelemetrys(pair, collector):
    ask_traced(pair[0], "shape")
    collector.wait(lambda s: any(attributes(x).get("spillway.request_id") == "shape" for _, x in s if x["kind"] == 2))
    for path, headers, body in collector.batches:
        assert path == "/v1/traces" and headers["Content-Type"] == "application/json"
        assert set(body) == {"resourceSpans"}
        for resource in body["resourceSpans"]:
            assert set(resource) == {"resource", "scopeSpans"} and set(resource["resource"]) == {"attributes"}
            assert {"service.name", "service.version", "service.instance.id"} <= set(attributes(resource["resource"]))
            for scope in resource["scopeSpans"]:
                assert set(scope) == {"scope", "spans"} and set(scope["scope"]) == {"name", "version"}
                for span in scope["spans"]:
                    assert set(span) <= {"traceId", "spanId", "parentSpanId", "traceState", "name", "kind", "startTimeUnixNano",
                                         "endTimeUnixNano", "attributes", "status"}
                    assert re.fullmatch("[0-9a-f]{32}", span["traceId"]) and re.fullmatch("[0-9a-f]{16}", span["spanId"])
                    assert re.fullmatch("[0-9a-f]{16}", span.get("parentSpanId", "0" * 16))
                    assert isinstance(span["name"], str) and span["kind"] in (1, 2, 3)
                    begun, ended = span["startTimeUnixNano"], span["endTimeUnixNano"]
                    assert isinstance(begun, str) and isinstance(ended, str)
                    assert 0 <= int(ended) - int(begun) < 60e9 and abs(int(begun) / 1e9 - time.time()) < 300
                    assert set(span["status"]) <= {"code", "message"} and span["status"].get("code", 0) in (0, 1, 2)
                    attributes(span)


def test_what_is_not_sampled_is_not_exported(pair, collector):
    front, _ = pair
    before = len(collector.spans())
    ask_traced(front, "quiet", flags="00")
    front.ask("POST", "/infer?task=noop", b"x", Content_Type="application/octet-stream")  # rate 0: none begins here
    ask_traced(front, "loud")
    spans = collector.wait(lambda s: sum(attributes(x).get("spillway.request_id") == "loud" for _, x in s) >= 2)[before:]
    assert not any(attributes(x).get("spillway.request_id") == "quiet" for _, x in spans)
    assert all(span["traceId"] == TRACE for _, span in spans)


def test_a_collector_that_is_busy_gets_it_later(pair, collector):
    front, back = pair
    collector.refuse = 1
    ask_traced(front, "later")
    collector.wait(lambda s: sum(attributes(x).get("spillway.request_id") == "later" for _, x in s) >= 2)
    assert front.metric('spillway_trace_spans_total{outcome="not_delivered"}') == 0


def test_every_request_is_one_line(pair):
    front, back = pair
    ask_traced(front, "one-line")
    status, _, _ = front.ask("GET", "/no/such/page")
    assert status == 404
    assert front.ask("POST", "/infer?task=noop&top_k=0", b"x", Content_Type="application/octet-stream")[0] == 400
    end = time.monotonic() + 10
    while time.monotonic() < end and not ([x for x in front.lines() if x.get("status") == 400] and
                                          [x for x in back.lines() if x["request_id"] == "one-line"]):
        time.sleep(0.02)
    line, = [x for x in front.lines() if x["request_id"] == "one-line"]
    assert (line["method"], line["route"], line["status"]) == ("POST", "/infer", 200)
    assert line["trace_id"] == TRACE and re.fullmatch("[0-9a-f]{16}", line["span_id"])
    assert line["link"].startswith("hq") and line["attempts"] >= 1 and line["cache"] == "off"
    assert line["bytes_in"] == 4 and line["bytes_out"] == 4 and 0 < line["ms"] < 30000
    assert line["address"] == "127.0.0.1" and re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
    far, = [x for x in back.lines() if x["request_id"] == "one-line"]
    assert far["trace_id"] == TRACE and far["span_id"] != line["span_id"] and far["link"] == "noop0"
    lost, = [x for x in front.lines() if x["status"] == 404]
    assert lost["route"] == "other" and lost["code"] == "no_such_path"
    bad, = [x for x in front.lines() if x["status"] == 400]
    assert bad["code"] == "bad_parameter"
    traces = {x["trace_id"] for x in front.lines()}
    assert len(traces) > 2, "a request without a traceparent begins a trace of its own"


def test_a_client_that_goes_away_is_499(pair):
    front, _ = pair
    connection = http.client.HTTPConnection("127.0.0.1", front.port, timeout=30)
    connection.putrequest("POST", "/infer?task=noop")
    connection.putheader("Content-Type", "application/octet-stream")
    connection.putheader("Content-Length", "1000")
    connection.putheader("X-Request-Id", "gone")
    connection.endheaders()
    connection.send(b"a part")
    connection.close()
    end = time.monotonic() + 10
    while time.monotonic() < end and not [x for x in front.lines() if x["request_id"] == "gone"]:
        time.sleep(0.02)
    line, = [x for x in front.lines() if x["request_id"] == "gone"]
    assert line["status"] == 499


def test_the_log_can_be_moved_away_and_goes_to_stderr(tmp_path):
    server = Server(tmp_path, "one", f"workers: [noop0]\naccess_log: {tmp_path}/one.jsonl\n").wait_ready()
    moved = tmp_path / "moved.jsonl"
    try:
        os.rename(server.access, moved)
        server.process.send_signal(signal.SIGHUP)
        end = time.monotonic() + 20
        while time.monotonic() < end and not server.lines():
            server.ask("GET", "/healthz")
            time.sleep(0.02)
        assert server.lines()
    finally:
        server.stop()
    other = Server(tmp_path, "two", "workers: [noop0]\n", ["--access-log", "stderr"])
    other.ask("GET", "/healthz", X_Request_Id="seen")
    other.stop()
    assert any('"request_id":"seen"' in line for line in (tmp_path / "two.log").read_text().splitlines())


def test_a_collector_that_is_not_there_costs_no_answer(tmp_path):
    server = Server(tmp_path, "alone", "workers: [noop0, net0]\ntracing: {otlp: 'http://127.0.0.1:9', rate: 1}\n").wait_ready()
    try:
        for _ in range(200):
            assert server.ask("POST", "/infer?task=noop", b"x", Content_Type="application/octet-stream")[0] == 200
        end = time.monotonic() + 20
        while time.monotonic() < end and not server.metric('spillway_trace_spans_total{outcome="not_delivered"}'):
            time.sleep(0.1)
        assert server.metric('spillway_trace_spans_total{outcome="not_delivered"}') > 0
    finally:
        server.process.kill()
        server.process.wait(10)


@pytest.mark.parametrize("text, words", [
    ("tracing: {otlp: 'collector:4318'}", "otlp must be"),
    ("tracing: {rate: 2}", "tracing.rate"),
    ("workers: [codec0, cpu0]\ntracing: {otlp: 'http://127.0.0.1:4318'}", "net0"),
    ("access_log: /nowhere/at/all/access.jsonl", "/nowhere/at/all/access.jsonl"),
])
def test_what_cannot_be_is_told_at_the_start(tmp_path, text, words):
    (tmp_path / "c.yaml").write_text(text + "\n")
    done = subprocess.run([BUILD / "spillway", "serve", "--http-port", "0", "--metrics-port", "-1", "--config", tmp_path / "c.yaml",
                           "--data-dir", tmp_path / "d"], capture_output=True, text=True, timeout=60)
    assert done.returncode != 0 and words in done.stderr
