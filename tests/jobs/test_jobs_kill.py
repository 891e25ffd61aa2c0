# SPDX-License-Identifier: Apache-2.0
"""kill -9 of the whole server, again and again, while jobs come in: every job that was answered 202 completes exactly
once, and its webhook arrives at least once under the job's id. SPILLWAY_FULL=1 (make soak): 50 kills."""
import collections
import http.client
import random
import threading
import time

import jobhouse
from jobhouse import until

KILLS = 50 if jobhouse.FULL else 12
SECRET = "a secret of the test"


class Traffic:
    """Clients that hand jobs in without pause. A job counts once its 202 was read to the end."""

    def __init__(self, server, clients, query):
        self.server, self.query = server, query
        self.accepted, self.lock, self.ending = {}, threading.Lock(), threading.Event()
        self.unexpected, self.unsure = [], 0
        self.threads = [threading.Thread(target=self.run, args=(i,), daemon=True) for i in range(clients)]
        for t in self.threads:
            t.start()

    def run(self, number):
        count = 0
        while not self.ending.is_set():
            count += 1
            mark = f"client {number} job {count}"
            body = mark.encode() + b"." * random.choice((0, 500, 70_000 if count % 50 == 0 else 20))
            try:
                reply = self.server.submit(body[:72_000], f"{self.query}&client_id={number}-{count}", timeout=5)
            except (OSError, http.client.HTTPException):
                with self.lock:
                    self.unsure += 1  # killed before, between or after: nobody promised anything
                time.sleep(0.01)
                continue
            with self.lock:
                if reply.status == 202:
                    self.accepted[reply.json()["id"]] = f"{number}-{count}"
                elif reply.status not in (429, 503):
                    self.unexpected.append(reply)
            time.sleep(0.002)

    def count(self):
        with self.lock:
            return len(self.accepted)

    def end(self):
        self.ending.set()
        for t in self.threads:
            t.join(30)
        assert not self.unexpected, self.unexpected[:3]


def kill_again_and_again(server, traffic, kills):
    random.seed(4)
    for _ in range(kills):
        before = traffic.count()
        until(lambda b=before: traffic.count() > b + 10, "jobs come in")
        time.sleep(random.random() * 0.15)  # somewhere in the middle of things
        server.kill()
        server.start()


def check_all_done(server, accepted):
    unfinished = lambda: [j["id"] for s in ("queued", "running") for j in server.jobs("&status=" + s)]  # noqa: E731
    until(lambda: not unfinished(), "every job has ended", pause=0.2)
    jobs = server.jobs()
    seen = collections.Counter(j["id"] for j in jobs)
    by_id = {j["id"]: j for j in jobs}
    lost = [name for name in accepted if name not in by_id]
    assert not lost, f"{len(lost)} of {len(accepted)} accepted jobs are gone: {lost[:3]}"
    assert max(seen.values()) == 1, "a job twice in the list"
    wrong = [by_id[name] for name, client in accepted.items() if by_id[name]["status"] != "done" or by_id[name]["client_id"] != client]
    assert not wrong, wrong[:3]
    return by_id


def test_every_accepted_job_survives_kill_9_of_the_whole_server(serve, receive):
    hook = receive(secret=SECRET)
    server = serve(workers="noop0,noop1,net0", env={"HOOK_SECRET": SECRET}, faults="worker.batch:sleep=5",
                   config="jobs:\n  webhook_secret: {env: HOOK_SECRET}\n  allow_private_webhooks: true\n  concurrency: 8\n")
    traffic = Traffic(server, 3, f"task=noop&webhook={hook.url}/done")
    kill_again_and_again(server, traffic, KILLS)
    traffic.end()
    jobs = check_all_done(server, traffic.accepted)
    until(lambda: set(traffic.accepted) <= set(hook.delivered()), "every webhook has arrived", seconds=120, pause=0.2)
    assert not hook.bad, hook.bad[:1]
    delivered = hook.delivered()
    assert set(delivered) <= set(jobs), "a webhook of a job that nobody knows"
    taken = {name: document for _, name, document in hook.deliveries}
    for name, client in traffic.accepted.items():
        document = taken[name]
        assert document["status"] == "done" and document["client_id"] == client and document["event"] == "job.done", document
    results = {}
    cursor = ""
    while cursor is not None:
        page = server.ask("GET", f"/v1/results?limit=200&cursor={cursor}").json()
        for one in page["results"]:
            results[one["id"]] = results.get(one["id"], 0) + 1
        cursor = page["cursor"]
    assert set(traffic.accepted) <= set(results) and max(results.values()) == 1, "each result once"
    twice = sum(1 for n in delivered.values() if n > 1)
    print(f"\n{KILLS} kills: {len(traffic.accepted)} jobs accepted, {len(jobs)} in the store (the rest: killed before the 202 was "
          f"read), {twice} webhooks came more than once, 0 lost")
