# SPDX-License-Identifier: Apache-2.0
"""Uploads to an S3-compatible store: each signature is worked out a second time, by botocore."""
import hashlib
import re

import pytest

from outside import reply

auth = pytest.importorskip("botocore.auth", reason="the second opinion on signatures is botocore's")
from botocore.awsrequest import AWSRequest  # noqa: E402
from botocore.credentials import Credentials  # noqa: E402

ACCESS, SECRET, REGION = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "eu-test-1"


@pytest.fixture
def store(start_net, scripted):
    """(net, server) with the keys in place; server.heads has the requests."""
    server = scripted(reply(200, headers=['ETag: "x"']))
    net = start_net(env={"S3_ACCESS": ACCESS, "S3_SECRET": SECRET})
    net.config(f"s3:\n  endpoint: {server.url}\n  region: {REGION}\n  access_key: {{env: S3_ACCESS}}\n  secret_key: {{env: S3_SECRET}}\n")
    return net, server


def check_signature(request):
    header = request.headers["authorization"]
    found = re.fullmatch(r"AWS4-HMAC-SHA256 Credential=([^,]+),\s*SignedHeaders=([^,]+),\s*Signature=([0-9a-f]{64})", header)
    assert found, header
    scope, names, signature = found.groups()
    assert scope.startswith(f"{ACCESS}/") and scope.endswith(f"/{REGION}/s3/aws4_request")
    signed = {name: request.headers[name] for name in names.split(";")}
    assert {"host", "x-amz-date", "x-amz-content-sha256"} <= set(signed)
    assert request.headers["x-amz-content-sha256"] == hashlib.sha256(request.body).hexdigest()
    again = AWSRequest(method=request.method, url=f"http://{request.headers['host']}{request.target}", data=request.body, headers=signed)
    again.context["timestamp"] = request.headers["x-amz-date"]
    judge = auth.S3SigV4Auth(Credentials(ACCESS, SECRET), "s3", REGION)
    text = judge.string_to_sign(again, judge.canonical_request(again))
    assert judge.signature(text, again) == signature, text


@pytest.mark.parametrize("key", ["result.json", "a/b/c.bin", "with-dash_under.score~tilde", "2026/11/21/job-01J.json",
                                 "with%20blank/and%2Bplus", "%C3%BCml.json"])
@pytest.mark.parametrize("body", [b"", b"{}", b"x" * 300000])
def test_put_is_signed(store, key, body):
    net, server = store
    answer = net.run("send", url=f"{server.url}/bucket/{key}", put=True, s3=True, private_ok=True, body=body,
                     headers="Content-Type: application/json\nX-Amz-Meta-Job: 42\n")
    assert answer["status"] == "ok" and answer["http_status"] == 200, answer
    assert server.heads[0].method == "PUT" and server.heads[0].body == body
    check_signature(server.heads[0])


def test_secrets_stay_secret(store, scripted):
    net, server = store
    wrong = scripted(reply(403, b"<Error><Code>SignatureDoesNotMatch</Code></Error>"))
    answer = net.run("send", url=f"{wrong.url}/bucket/k", put=True, s3=True, private_ok=True, body=b"x")
    assert (answer["status"], answer["code"]) == ("refused", "send_failed")
    assert SECRET not in str(answer) + net.log_text()
    assert SECRET not in "".join(r.head for r in wrong.heads)


def test_without_keys(start_net, scripted):
    server = scripted(reply(200))
    net = start_net()
    net.config(f"s3:\n  endpoint: {server.url}\n  access_key: {{env: S3_NOT_SET}}\n  secret_key: {{env: S3_NOT_SET}}\n")
    answer = net.run("send", url=f"{server.url}/b/k", put=True, s3=True, private_ok=True, body=b"x")
    assert answer["status"] == "unavailable" and "S3_NOT_SET" in answer["message"] and not server.heads
    assert net.run("send", url=f"{server.url}/b/k", s3=True, serial=9, body=b"x")["code"] == "no_config"
