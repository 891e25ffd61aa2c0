# SPDX-License-Identifier: Apache-2.0
"""URLs of users may lead to public addresses only, however they are spelled and wherever they redirect."""
import os
import socket
import time

import pytest

from outside import BUILD, reply


def spellings(port):
    """This machine, as people who look for a hole write it."""
    return [
        f"http://127.0.0.1:{port}/", f"http://127.1:{port}/", f"http://127.0.1:{port}/", f"http://2130706433:{port}/",
        f"http://0x7f000001:{port}/", f"http://0x7f.0.0.1:{port}/", f"http://0177.0.0.1:{port}/", f"http://017700000001:{port}/",
        f"http://127.0.0.1.:{port}/", f"http://0:{port}/", f"http://0.0.0.0:{port}/", f"http://127.255.255.254:{port}/",
        f"http://localhost:{port}/", f"http://LOCALHOST:{port}/", f"http://localhost.:{port}/", f"http://[::1]:{port}/",
        f"http://[0:0:0:0:0:0:0:1]:{port}/", f"http://[::]:{port}/", f"http://[::ffff:127.0.0.1]:{port}/",
        f"http://[::ffff:7f00:1]:{port}/", f"http://[::127.0.0.1]:{port}/", f"http://[64:ff9b::127.0.0.1]:{port}/",
        f"http://[2002:7f00:1::]:{port}/", f"http://①②⑦.⓪.⓪.①:{port}/", f"http://%31%32%37.0.0.1:{port}/",
        f"http://{socket.gethostname()}:{port}/",
    ]


ELSEWHERE = [
    "http://169.254.169.254/latest/meta-data/", "http://[fd00:ec2::254]/latest/meta-data/", "http://100.100.100.200/",
    "http://168.63.129.16/", "http://192.0.0.192/", "http://10.0.0.1/", "http://172.16.0.1/", "http://172.31.255.255/",
    "http://192.168.1.1/", "http://100.64.0.1/", "http://198.18.0.1/", "http://224.0.0.1/", "http://255.255.255.255/",
    "http://240.0.0.1/", "http://[fe80::1]/", "http://[fc00::1]/", "http://[fd12::1]/", "http://[ff02::1]/",
    "http://[fec0::1]/", "http://[2001:db8::1]/", "http://[::ffff:10.0.0.1]/", "http://[64:ff9b::a00:1]/",
    "http://[2001:0:4136:e378::]/",
]


def test_no_spelling_of_this_machine_gets_in(net, scripted):
    server = scripted(reply(body=b"internal"))
    for url in spellings(server.port):
        answer = net.run("fetch", url=url, timeout_ms=5000)
        assert answer["status"] in ("denied", "invalid", "unavailable"), (url, answer)
        assert answer["status"] == "denied" and answer["code"] == "private_address" or "internal" not in str(answer), (url, answer)
    assert server.connections == 0, server.heads


def test_the_plain_spellings_are_named(net, scripted):
    server = scripted(reply(body=b"internal"))
    for url in spellings(server.port)[:14]:
        if url.startswith("http://127.0.0.1.:"):
            continue  # a name to the resolver here, and an unknown one
        answer = net.run("fetch", url=url)
        assert (answer["status"], answer["code"]) == ("denied", "private_address"), (url, answer)


@pytest.mark.parametrize("url", ELSEWHERE)
def test_nor_of_its_neighbours(net, url):
    answer = net.run("fetch", url=url, timeout_ms=3000)
    assert (answer["status"], answer["code"]) == ("denied", "private_address"), answer


def test_an_open_trusted_connection_is_no_way_around(net, scripted):
    server = scripted(reply(body=b"internal"))
    assert net.run("fetch", url=server.url, private_ok=True)["status"] == "ok"
    answer = net.run("fetch", url=server.url)
    assert (answer["status"], answer["code"]) == ("denied", "private_address")
    assert len(server.heads) == 1


def test_sends_are_guarded_too(net, scripted):
    server = scripted(reply())
    assert net.run("send", url=server.url, body=b"x")["code"] == "private_address"
    assert server.connections == 0


def test_proxies_of_the_environment_are_not_used(start_net, scripted):
    proxy = scripted(reply(body=b"through the proxy"))
    net = start_net(env={"http_proxy": proxy.url, "all_proxy": proxy.url, "HTTPS_PROXY": proxy.url})
    server = scripted(reply(body=b"direct"))
    assert net.run("fetch", url=server.url, private_ok=True)["bytes"] == b"direct"
    assert net.run("fetch", url="http://10.0.0.1/")["code"] == "private_address"
    assert proxy.connections == 0


needs_preload = pytest.mark.skipif(bool(os.environ.get("SPILLWAY_SANITIZER")), reason="a sanitizer's runtime must be the first library")


@pytest.fixture
def odd_names(start_net):
    """A worker whose resolver takes ten seconds for slow.test, and says that inside.test is this machine."""
    return start_net(env={"LD_PRELOAD": str(BUILD / "tests" / "net" / "fake_resolver.so")})


@needs_preload
def test_a_name_that_leads_inside(odd_names, scripted):
    server = scripted(reply(body=b"internal"))
    answer = odd_names.run("fetch", url=f"http://inside.test:{server.port}/")
    assert (answer["status"], answer["code"]) == ("denied", "private_address") and server.connections == 0
    assert odd_names.run("fetch", url=f"http://inside.test:{server.port}/", private_ok=True)["bytes"] == b"internal"


@needs_preload
def test_a_slow_name_server_holds_up_nobody_else(odd_names, scripted):
    server = scripted(reply(body=b"x"))
    begun = time.monotonic()
    slow = [odd_names.start("fetch", url=f"http://slow.test:{i + 1}/", timeout_ms=300 + 100 * i) for i in range(5)]
    cancelled = odd_names.start("fetch", url="http://slow.test:9/", timeout_ms=60000)
    assert odd_names.run("fetch", url=server.url, private_ok=True)["status"] == "ok"
    odd_names.tell(op="cancel", of=cancelled)
    assert odd_names.wait(cancelled)["status"] == "cancelled"
    assert {odd_names.wait(i)["status"] for i in slow} <= {"timeout", "unavailable"}
    assert odd_names.run("fetch", url=server.url, private_ok=True)["status"] == "ok"
    assert time.monotonic() - begun < 8  # the resolver needs ten seconds
