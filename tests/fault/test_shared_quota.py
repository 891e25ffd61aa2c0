# SPDX-License-Identifier: Apache-2.0
"""Two servers with the same key for the same remote keep its quota together, through Redis."""
import shutil

import house
import pytest
import test_soak

CONFIG = """
workers: [codec0, cpu0, net0]
data_dir: {data}
cache: {{redis: "redis://127.0.0.1:{redis}"}}
chains:
  classify:
    links: [house-b, cpu0]
remotes:
  house-b:
    kind: spillway
    url: "http://127.0.0.1:{port}"
    keys:
      - {{env: SHARED_QUOTA_KEY, requests_per_day: 10}}
"""


@pytest.mark.skipif(not shutil.which("redis-server"), reason="redis-server is not installed")
def test_two_servers_one_key(start, labels, tmp_path, monkeypatch):
    monkeypatch.setenv("SHARED_QUOTA_KEY", "anything")
    path, label = next(iter(labels.items()))
    redis, back = test_soak.Redis(tmp_path), start()
    try:
        servers = []
        for name in ("one", "two"):
            config = tmp_path / f"{name}.yaml"
            config.write_text(CONFIG.format(data=tmp_path / name, redis=redis.port, port=back.port))
            servers.append(start(workers="codec0,cpu0,net0", args=["--config", config]))
        for index in range(24):
            status, answer = house.post(servers[index % 2], path.read_bytes(), headers={"Cache-Control": "no-store"})
            assert status == 200 and answer["predictions"][0]["label"] == label
        came = [float(line.rpartition(" ")[2]) for line in back.get("/metrics")[1].decode().splitlines()
                if line.startswith("spillway_requests_total") and 'route="/infer"' in line]
        # The comparison of a new link with the reference goes there as well, from both at once: each may send one more
        # before it hears of the other's.
        assert 10 <= sum(came) <= 12, f"{sum(came)} requests came to the remote, whose key allows 10 a day"
    finally:
        redis.down()
