# SPDX-License-Identifier: Apache-2.0
"""spillway bench --links against a stand-in whose links have known answers, prices and delays."""
import http.server
import json
import threading
import time
import urllib.parse

import pytest

LINKS = {  # delay, cost in dollars, probabilities by class
    "cuda0": (0.000, 0.000002, {281: 0.71, 282: 0.20, 285: 0.05}),
    "cpu0": (0.030, 0.000001, {281: 0.7104, 282: 0.20, 285: 0.05}),
    "wrong0": (0.000, None, {282: 0.60, 281: 0.30, 285: 0.05}),
    "short0": (0.000, None, {281: 0.71, 282: 0.20}),
}


class Stand(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    asked = []

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))
        link = query.get("link", "")
        Stand.asked.append((link, query.get("top_k"), b"picture" in body, self.headers.get("Authorization")))
        if link == "down0":
            return self.reply(503, {"error": "link down0 has no worker"})
        delay, cost, classes = LINKS.get("cpu0" if link == "liar0" else link, LINKS["cpu0"])
        time.sleep(delay)
        answer = {"provider": "cpu0" if link == "liar0" else link, "reason": "",
                  "predictions": [{"class_id": k, "label": f"class {k}", "probability": p} for k, p in classes.items()]}
        if cost is not None:
            answer["cost_usd"] = cost
        self.reply(200, answer)

    def reply(self, status, answer):
        text = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def url():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stand)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/infer"
    server.shutdown()
    server.server_close()


@pytest.fixture()
def files(tmp_path):
    names = [tmp_path / "a.jpg", tmp_path / "b.jpg"]
    for name in names:
        name.write_bytes(b"a picture")
    return [word for name in names for word in ("--file", name)]


def links(run, url, files, names, *words):
    done = run("bench", url, "--links", names, *files, "--json", *words)
    return done, json.loads(done.stdout) if done.stdout else None


def test_latency_speed_up_cost_and_difference(run, url, files):
    Stand.asked.clear()
    done, table = links(run, url, files, "cpu0,cuda0", "--requests", 5, "--header", "Authorization: Bearer t")
    assert done.returncode == 0, done.stdout + done.stderr
    cpu, cuda = table["links"]
    assert cpu["calls"] == cuda["calls"] == 5 and cpu["failed"] == cuda["failed"] == 0
    assert cpu["p50_ms"] >= 30 and cpu["p95_ms"] >= cpu["p50_ms"] and cpu["speed_up"] == 1
    assert cuda["speed_up"] == pytest.approx(cpu["p50_ms"] / cuda["p50_ms"], rel=1e-6) and cuda["speed_up"] > 1
    assert cpu["usd_per_1000"] == pytest.approx(0.001) and cuda["usd_per_1000"] == pytest.approx(0.002)
    assert cpu["largest_difference"] is None
    assert cuda["largest_difference"] == pytest.approx(0.0004) and cuda["same_first_class"] is True
    assert len(Stand.asked) == 2 * (5 + 2)  # and one round of both files to warm up
    assert all(top_k == "100" and picture and token == "Bearer t" for _, top_k, picture, token in Stand.asked)
    assert [link for link, *_ in Stand.asked[:4]] == ["cpu0", "cuda0"] * 2  # in turns


def test_another_first_class_is_a_failure(run, url, files):
    done, table = links(run, url, files, "cuda0,wrong0", "--requests", 2)
    assert done.returncode == 1
    assert table["links"][1]["same_first_class"] is False
    assert table["links"][1]["largest_difference"] == pytest.approx(0.41)
    assert table["links"][1]["usd_per_1000"] is None
    assert "differs for 2 of 2" in run("bench", url, "--links", "cuda0,wrong0", *files, "--requests", 2).stdout


def test_a_shorter_list_counts_only_what_is_certain(run, url, files):
    done, table = links(run, url, files, "cuda0,short0", "--requests", 2)
    assert done.returncode == 0 and table["links"][1]["largest_difference"] == 0


def test_who_answers_for_another_and_who_does_not_answer(run, url, files):
    done, table = links(run, url, files, "cpu0,liar0,down0", "--requests", 2)
    assert done.returncode == 1
    _, liar, down = table["links"]
    assert liar["by_others"] == 4 and liar["calls"] == 0 and "answered by cpu0 instead" in liar["problem"]
    assert down["failed"] == 4 and down["problem"] == "503: link down0 has no worker"
    assert down["largest_difference"] is None


def test_the_table(run, url, files):
    done = run("bench", url, "--links", "cpu0,cuda0", *files, "--requests", 2)
    head, cpu, cuda = done.stdout.splitlines()
    assert head.split()[0] == "LINK" and cpu.split()[0] == "cpu0" and "0.002000" in cuda and cuda.endswith("same")


@pytest.mark.parametrize("words, said", [
    (["--links", "cpu0"], "--links takes one --file or more"),
    (["--links", "cpu0", "--file", "x.jpg", "--rate", "5"], "instead of --rate"),
    (["--links", "cpu0,,cpu1", "--file", "x.jpg"], "x.jpg"),
    (["--links", "a&b", "--file", "x.jpg"], "'a&b' is no link's name"),
    (["--links", "a,b,c,d,e,f,g,h,i", "--file", __file__], "at most 8 links"),
])
def test_bad_usage(run, url, words, said):
    done = run("bench", url, *words)
    assert done.returncode == 2 and said in done.stderr


def test_nobody_there(run, files):
    done = run("bench", "http://127.0.0.1:9/infer", "--links", "cpu0,cuda0", *files)
    assert done.returncode == 3 and "no connection" in done.stderr
