# SPDX-License-Identifier: Apache-2.0
"""URLs of users may lead to public addresses only, however they are spelled and wherever they redirect."""
import socket

import pytest

from outside import reply


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
