# SPDX-License-Identifier: Apache-2.0
"""Who may do what: tokens, scopes, rates, peers, pages of other sites, the admin port. Nothing here depends on time."""
import hashlib
import os
import re
import signal
import subprocess
import socket

import pytest

import conftest

ROUTES = [  # method, path, scopes that will do, status when it is allowed
    ("POST", "/infer?task=noop", {"infer"}, 200),
    ("GET", "/", {"infer", "admin", "metrics"}, 200),
    ("GET", "/favicon.ico", {"infer", "admin", "metrics"}, 200),
    ("GET", "/metrics", {"metrics", "admin"}, 200),
    ("GET", "/v1/links", {"metrics", "admin"}, 200),
    ("GET", "/v1/jobs", {"infer", "admin"}, None),  # None: whatever it says, it is not 401 or 403
    ("GET", "/v1/jobs/none", {"infer", "admin"}, None),
    ("DELETE", "/v1/jobs/none", {"infer", "admin"}, None),
    ("POST", "/v1/videos/analyses", {"infer"}, None),
    ("GET", "/v1/videos/analyses", {"infer", "admin"}, None),
    ("GET", "/v1/videos/analyses/none", {"infer", "admin"}, None),
    ("DELETE", "/v1/videos/analyses/none", {"infer", "admin"}, None),
    ("GET", "/v1/videos/analyses/none/events", {"infer", "admin"}, None),
    ("GET", "/v1/videos/analyses/none/report.json", {"infer", "admin"}, None),
    ("GET", "/v1/videos/analyses/none/files/frames.csv", {"infer", "admin"}, None),
    ("GET", "/v1/videos/analyses/none/files/key/000001.png", {"infer", "admin"}, None),
    ("GET", "/v1/results", {"infer", "admin"}, None),
    ("GET", "/v1/costs", {"infer", "admin"}, None),
    ("GET", "/v1/events/ws", {"infer", "admin"}, 426),
]
STATES = ["none", "unknown", "malformed", "basic", "expired", "infer", "admin", "metrics", "infer+metrics"]


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


def tokens_yaml(*tokens):
    lines = ["tokens:"]
    for token in tokens:
        first = True
        for key, value in token.items():
            lines.append("  %s %s: %s" % ("-" if first else " ", key, value))
            first = False
    return "\n".join(lines) + "\n"


def token(name, scopes="[infer]", **more):
    return {"name": name, "sha256": digest("secret-" + name), "scopes": scopes, "tenant": "acme", **more}


TABLE = tokens_yaml(
    token("expired", "[infer, admin, metrics]", expires="2001-01-01"),
    token("infer"), token("admin", "[admin]"), token("metrics", "[metrics]"),
    token("infer+metrics", "[infer, metrics]"))


def authorization(state):
    return {"none": {}, "unknown": {"Authorization": "Bearer secret-of-nobody"}, "malformed": {"Authorization": "Bearer"},
            "basic": {"Authorization": "Basic dXNlcjpwYXNz"}}.get(state, {"Authorization": "Bearer secret-" + state})


def ask(server, method, path, headers=None, body=b"", port=None, host="localhost"):
    lines = ["%s %s HTTP/1.1" % (method, path)] + (["Host: " + host] if host is not None else [])
    if method == "POST":
        lines += ["Content-Length: %d" % len(body), "Content-Type: application/octet-stream"]
    lines += ["%s: %s" % pair for pair in (headers or {}).items()]
    with conftest.Raw(port or server.port) as raw:
        raw.send(("\r\n".join(lines) + "\r\n\r\n").encode() + body)
        return raw.reply(method == "HEAD")


def params(server, query="", headers=None):
    reply = ask(server, "POST", "/infer?task=noop" + query, headers, b"PARAMS")
    assert reply.status == 200, reply.body
    return dict(re.findall(r"(\w+)=(\S*)", reply.body.decode()))


@pytest.fixture
def configured(own_gateway, tmp_path):
    """configured(yaml): a gateway with that configuration."""
    def make(yaml, *args):
        path = tmp_path / "spillway.yaml"
        path.write_text(yaml)
        server = own_gateway(*args, env={"FAKE_CONFIG": str(path)})
        server.config = path
        return server
    return make


def test_every_route_with_every_token(configured):
    server = configured(TABLE)
    table = []
    for method, path, scopes, allowed in ROUTES:
        for state in STATES:
            reply = ask(server, method, path, authorization(state), b"hello")
            known = state in ("infer", "admin", "metrics", "infer+metrics")
            if not known:
                expected = [401]
            elif set(state.split("+")) & scopes:
                expected = [allowed] if allowed else [s for s in range(200, 600) if s not in (401, 403)]
            else:
                expected = [403]
            table.append((method, path, state, reply.status))
            assert reply.status in expected, table[-1]
            if reply.status in (401, 403):
                assert reply.headers["www-authenticate"].startswith('Bearer realm="spillway"')
                assert reply.headers["content-type"] == "application/problem+json"
                assert reply.json()["status"] == reply.status
                if state in ("unknown", "expired"):
                    assert 'error="invalid_token"' in reply.headers["www-authenticate"]
                assert "secret" not in reply.body.decode()
    assert len(table) == len(ROUTES) * len(STATES)


def test_health_is_open_but_short_without_a_right_to_more(configured):
    server = configured(TABLE)
    for state in STATES:
        reply = ask(server, "GET", "/healthz", authorization(state))
        assert reply.status == 200
        assert ("workers" in reply.json()) == (state in ("admin", "metrics", "infer+metrics")), state
        assert ask(server, "GET", "/readyz", authorization(state)).status == 200
    assert ask(server, "GET", "/healthz", port=server.metrics_port).status == 200
    assert ask(server, "GET", "/metrics", port=server.metrics_port).status == 401
    assert ask(server, "GET", "/metrics", authorization("metrics"), port=server.metrics_port).status == 200


def test_refusals_are_told_without_the_body_being_used(configured):
    server = configured(TABLE)
    with server.raw() as raw:  # refused before the body is sent
        raw.send(b"POST /infer HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1000000\r\n\r\n")
        assert raw.reply().status == 401
        assert raw.interim == []
    reply = ask(server, "POST", "/infer?task=noop", None, b"x" * 3_000_000)
    assert reply.status == 401
    assert ask(server, "GET", "/healthz", authorization("admin")).json()["requests_open"] == 0


def test_token_in_the_query_is_for_event_streams_only(configured):
    server = configured(TABLE)
    assert ask(server, "GET", "/v1/events/ws?access_token=secret-infer").status == 426
    assert ask(server, "GET", "/v1/events/ws?access_token=secret-nobody").status == 401
    assert ask(server, "GET", "/metrics?access_token=secret-metrics").status == 401


def test_authorization_is_read_as_written(configured):
    server = configured(TABLE)
    good = ["Bearer secret-infer", "bearer secret-infer", "BEARER   secret-infer", "Bearer secret-infer "]
    bad = ["Bearersecret-infer", "Bearer secret-infer, Bearer secret-infer", "Bearer secret-infe", "Bearer secret-inferr",
           "Bearer \"secret-infer\"", "Bearer " + "a" * 5000, "Bearer secret infer", ""]
    for text in good:
        assert ask(server, "POST", "/infer?task=noop", {"Authorization": text}, b"x").status == 200, text
    for text in bad:
        assert ask(server, "POST", "/infer?task=noop", {"Authorization": text}, b"x").status == 401, text


def test_headers_that_say_it_twice_are_refused(configured):
    server = configured(TABLE)
    for name, values in (("Authorization", ("Bearer secret-infer", "Bearer secret-admin")), ("Host", ("localhost", "evil")),
                         ("Origin", ("http://localhost", "http://evil"))):
        with server.raw() as raw:
            raw.send(("GET /metrics HTTP/1.1\r\n" + "".join("%s: %s\r\n" % (name, v) for v in values) +
                      ("" if name == "Host" else "Host: localhost\r\n") + "\r\n").encode())
            assert raw.reply().status == 400, name


def test_tier_tenant_and_local_only_come_from_the_token(configured):
    server = configured(tokens_yaml(token("gold", tier="premium", local_only="true"), token("plain", "[infer]")))
    lies = {"X-Spillway-Tier": "premium", "X-Spillway-Tenant": "other", "X-Spillway-Hops": "1"}
    seen = params(server, headers={**authorization("gold"), **lies, "X-Spillway-Local-Only": "0"})
    assert seen["tier"] == "premium" and seen["tenant"] == "acme" and seen["local_only"] == "1" and seen["hops"] == "1"
    seen = params(server, headers={**authorization("plain"), **lies})
    assert seen["tier"] == "" and seen["tenant"] == "acme" and seen["local_only"] == "0"


def test_peers_that_are_trusted_are_believed(configured, own_gateway):
    told = {"X-Spillway-Tier": "premium", "X-Spillway-Tenant": "other", "X-Spillway-Hops": "2"}
    for peers, believed in [("[127.0.0.0/8]", True), ("['::1', 127.0.0.1]", True), ("[10.0.0.0/8, 'fd00::/8']", False)]:
        server = configured("trusted_peers: %s\n" % peers)
        seen = params(server, headers=told)
        assert (seen["tier"], seen["tenant"]) == (("premium", "other") if believed else ("", "")), peers
        assert seen["hops"] == "2"
    seen = params(own_gateway(), headers=told)
    assert seen["tier"] == "" and seen["tenant"] == ""


def test_hops_are_limited(own_gateway):
    server = own_gateway()
    for hops, status in [("0", 200), ("4", 200), ("5", 508), ("-1", 508), ("x", 508), ("", 508), ("9999999", 508)]:
        reply = ask(server, "POST", "/infer?task=noop", {"X-Spillway-Hops": hops}, b"x")
        assert reply.status == status, hops
        assert status == 200 or reply.json()["code"] == "too_many_hops"


def test_parameters_reach_the_house(own_gateway):
    server = own_gateway()
    seen = params(server, "&force_cpu=1&local_only=true&priority=-3&link=cpu0&wish=late", {"X-Wish": "early"})
    assert seen == {"tier": "", "tenant": "", "local_only": "1", "force_cpu": "1", "priority": "-3", "hops": "0",
                    "link": "cpu0", "header": "early", "parameter": "late"}
    assert params(server, headers={"X-Spillway-Local-Only": "1"})["local_only"] == "1"
    assert params(server, "&local_only=0", {"X-Spillway-Local-Only": "1"})["local_only"] == "1"
    assert ask(server, "POST", "/infer?task=noop&priority=11", body=b"x").status == 400
    assert ask(server, "POST", "/infer?task=noop&local_only=maybe", body=b"x").status == 400


def test_only_admins_go_around_the_chain_or_before_others(configured):
    server = configured(tokens_yaml(token("infer"), token("both", "[infer, admin]")))
    for query, plain in [("&link=cpu0", 403), ("&priority=1", 403), ("&priority=-1", 200), ("&force_cpu=1", 200)]:
        assert ask(server, "POST", "/infer?task=noop" + query, authorization("infer"), b"x").status == plain, query
        assert ask(server, "POST", "/infer?task=noop" + query, authorization("both"), b"x").status == 200, query


def test_rate_and_quota(configured):
    server = configured(tokens_yaml(token("slow", rate_per_s="0.001", burst=3),
                                    token("few", requests_per_day=2), token("free")))
    for name, count, code in [("slow", 3, "rate"), ("few", 2, "quota")]:
        for i in range(count):
            assert ask(server, "POST", "/infer?task=noop", authorization(name), b"x").status == 200, (name, i)
        reply = ask(server, "POST", "/infer?task=noop", authorization(name), b"x")
        assert reply.status == 429 and reply.json()["code"] == code
        assert 1 <= int(reply.headers["retry-after"]) <= 86400
    assert ask(server, "GET", "/", authorization("few")).status == 200  # the quota is of work
    assert ask(server, "GET", "/healthz", authorization("slow")).status == 200
    for _ in range(10):
        assert ask(server, "POST", "/infer?task=noop", authorization("free"), b"x").status == 200


def test_off_loopback_needs_tokens(configured, tmp_path):
    program = os.path.join(conftest.BUILD, "tests/gateway/fake_gateway")
    for address in ("0.0.0.0", "::"):
        if address == "::" and not socket.has_ipv6:
            continue
        done = subprocess.run([program, address], capture_output=True, text=True, timeout=20, check=False)
        assert done.returncode == 1 and "without access control" in done.stderr
    server = configured(TABLE, "0.0.0.0")
    assert ask(server, "POST", "/infer?task=noop", None, b"x").status == 401
    assert ask(server, "GET", "/readyz", host="anything.example").status == 200
    assert ask(server, "POST", "/infer?task=noop", authorization("infer"), b"x", host="anything.example").status == 200


HOSTS = [("localhost", True), ("localhost:8000", True), ("LOCALHOST", True), ("localhost.", True), ("a.localhost", True),
         ("127.0.0.1", True), ("127.9.9.9:1", True), ("[::1]:8000", True), ("[::1]", True), (None, None),
         ("spillway.example", True), ("SPILLWAY.example:8000", True),
         ("evil.example", False), ("127.0.0.1.evil.example", False), ("localhost.evil.example", False),
         ("xlocalhost", False), ("128.0.0.1", False), ("0.0.0.0", False), ("[::2]", False), ("localhost:99999", False),
         ("user@localhost", False), ("", False), ("localhost/", False), ("2130706433", False)]


def test_host_must_mean_this_machine(configured):
    server = configured("hosts: [spillway.example]\n")
    for host, allowed in HOSTS:
        for method, path in (("GET", "/"), ("POST", "/infer?task=noop")):
            reply = ask(server, method, path, host=host, body=b"x")
            if allowed is None:
                assert reply.status in (200, 400)  # libmicrohttpd's own word for HTTP/1.1 without a Host
            else:
                assert reply.status == (200 if allowed else 403), (host, reply.body)
                assert allowed or reply.json()["code"] == "host_not_allowed"


def test_pages_of_other_sites_may_not_write(configured):
    server = configured("hosts: [spillway.example]\n")
    cases = [({"Origin": "http://localhost:3000"}, True), ({"Origin": "https://spillway.example"}, True),
             ({"Origin": "http://127.0.0.1:8000"}, True), ({}, True), ({"Sec-Fetch-Site": "same-origin"}, True),
             ({"Origin": "http://evil.example"}, False), ({"Origin": "null"}, False), ({"Origin": ""}, False),
             ({"Origin": "file://"}, False), ({"Origin": "http://localhost.evil.example"}, False),
             ({"Sec-Fetch-Site": "cross-site"}, False)]
    for headers, allowed in cases:
        assert ask(server, "POST", "/infer?task=noop", headers, b"x").status == (200 if allowed else 403), headers
        assert ask(server, "GET", "/", headers).status == 200
        socket_headers = {**headers, "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
                          "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
        with server.raw() as raw:
            raw.send(("GET /v1/events/ws HTTP/1.1\r\nHost: localhost\r\n" +
                      "".join("%s: %s\r\n" % h for h in socket_headers.items()) + "\r\n").encode())
            status = int(raw._line_end(b"\r\n\r\n").split()[1])
            assert status == (101 if allowed else 403), headers


def test_admin_port_takes_what_only_admins_may_do(configured):
    server = configured(TABLE + "admin_port: 0\n")
    admin = int(re.search(r"admin (\d+)", server.text).group(1))
    assert admin > 0
    assert ask(server, "GET", "/v1/links", authorization("admin"), port=admin).status == 200
    assert ask(server, "GET", "/v1/links", None, port=admin).status == 401
    assert ask(server, "GET", "/healthz", port=admin).status == 200
    assert ask(server, "POST", "/infer?task=noop", authorization("infer"), b"x", port=admin).status == 404


def test_tokens_are_not_in_the_log(configured, tmp_path):
    path = tmp_path / "spillway.yaml"
    path.write_text(TABLE + "log_level: debug\n")
    log = open(tmp_path / "log", "w+")
    process = subprocess.Popen([os.path.join(conftest.BUILD, "tests/gateway/fake_gateway")], stdout=subprocess.PIPE,
                               stderr=log, env={**os.environ, "FAKE_CONFIG": str(path)})
    try:
        port = int(re.search(rb"http (\d+)", process.stdout.readline()).group(1))
        for state in STATES:
            ask(None, "POST", "/infer?task=noop", authorization(state), b"FAIL=14,internal,boom", port=port)
            ask(None, "GET", "/v1/events/ws?access_token=secret-infer", port=port)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)
        process.stdout.close()
    log.seek(0)
    text = log.read()
    log.close()
    assert "request failed" in text and "secret" not in text
    for name in STATES:
        assert digest("secret-" + name) not in text
