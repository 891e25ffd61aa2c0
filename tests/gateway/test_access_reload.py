# SPDX-License-Identifier: Apache-2.0
"""Tokens that change while the server runs (SIGHUP)."""
import signal
import time

from test_access import TABLE, ask, authorization, configured, token, tokens_yaml  # noqa: F401 (a fixture)


def until_true(test, seconds=10):
    until = time.monotonic() + seconds
    while not test():
        assert time.monotonic() < until, "never happened"
        time.sleep(0.02)


def test_reload_takes_new_tokens_and_refills_nobody(configured):
    first = [token("slow", rate_per_s="0.001", burst=1), token("gone")]
    server = configured(tokens_yaml(*first))
    assert ask(server, "POST", "/infer?task=noop", authorization("slow"), b"x").status == 200
    assert ask(server, "POST", "/infer?task=noop", authorization("slow"), b"x").status == 429
    server.config.write_text(tokens_yaml(token("aaa"), token("slow", rate_per_s="0.002", burst=5), token("zzz")))
    server.signal(signal.SIGHUP)
    until_true(lambda: ask(server, "POST", "/infer?task=noop", authorization("zzz"), b"x").status == 200)
    assert ask(server, "POST", "/infer?task=noop", authorization("slow"), b"x").status == 429
    assert ask(server, "POST", "/infer?task=noop", authorization("gone"), b"x").status == 401
    assert ask(server, "POST", "/infer?task=noop", authorization("aaa"), b"x").status == 200


def test_last_token_that_goes_opens_nothing_off_loopback(configured):
    server = configured(TABLE, "0.0.0.0")
    # The last token goes: nothing opens.
    server.config.write_text("log_level: info\n")
    server.signal(signal.SIGHUP)
    until_true(lambda: ask(server, "POST", "/infer?task=noop", authorization("infer"), b"x").status == 401)
    assert ask(server, "POST", "/infer?task=noop", None, b"x").status == 401
