#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the tests and adds them up; the last line is `N passed, N failed, N skipped`.

usage: run_tests.py [--build DIR] [--sanitizer asan|tsan] PART...

  checks   tools/check_*.py: include direction, banned calls, headers alone
  c        `meson test`: every binary prints TAP
  python   pytest over tests/
  fuzz     each libFuzzer target: its kept seeds and the same mutations of them on every machine, as many as its time
           allows; with --fuzz-seconds: other ones each time, for that long

A skip is no pass: it is counted apart and printed with its reason. A C test that crashes, hangs or prints fewer results
than it promised counts as one failure more. The counts also go to DIR/test-counts.json, for .ci/run.
Exit status: 0 when nothing failed and something passed.
"""
import argparse
import concurrent.futures
import glob
import json
import os
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as xml

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FUZZ_BUILD = "build-fuzz"
PYTHON_SECONDS = 1500  # all Python tests together; a hang ends here, with the stacks that pytest has printed by then


class Tally:
    def __init__(self):
        self.passed = self.failed = self.skipped = 0
        self.reasons = {}

    def fail(self, name, text=""):
        self.failed += 1
        print(f"FAILED {name}")
        for line in text.rstrip().splitlines()[-60:]:
            print(f"    {line[:300]}")

    def skip(self, name, reason):
        self.skipped += 1
        self.reasons.setdefault(reason or "(no reason given)", []).append(name)


# Up to GCC 13 and LLVM 16 the sanitizers take a dynamic TLS block whose address happens to be 16 past a page for one of
# glibc 2.19, read its bounds from the 16 bytes before it, and die when they look there: LeakSanitizer at exit, with "Tracer
# caught signal 11: addr=0xd0" (github.com/google/sanitizers/issues/1322). For every other block they record nothing, since
# ours come from malloc; so without the look no leak is missed, and what such a block points to is found through malloc.
NO_TLS_GUESS = "intercept_tls_get_addr=0"


def environment(args):
    env = dict(os.environ, SPILLWAY_BUILD=os.path.abspath(args.build), PYTHONDONTWRITEBYTECODE="1")
    if args.sanitizer == "asan":
        env.setdefault("ASAN_OPTIONS", "abort_on_error=1:allocator_may_return_null=1:strict_string_checks=1:"
                       f"detect_stack_use_after_return=1:{NO_TLS_GUESS}")
        env.setdefault("UBSAN_OPTIONS", "print_stacktrace=1:halt_on_error=1")
    if args.sanitizer == "tsan":
        env.setdefault("TSAN_OPTIONS", "halt_on_error=1:second_deadlock_stack=1:ignore_noninstrumented_modules=1:"
                       f"{NO_TLS_GUESS}:suppressions={ROOT}/tools/tsan.supp")
    if args.sanitizer:
        env["TBB_ENABLE_SANITIZERS"] = "1"  # OpenVINO's: else it opens a library in a way that the sanitizers abort on
        env["SPILLWAY_SANITIZER"] = args.sanitizer  # a test that cannot run under it says so and skips
    return env


# ---- checks ----

def run_checks(args, tally):
    for script in sorted(glob.glob(os.path.join(ROOT, "tools", "check_*.py"))):
        name = os.path.basename(script)
        done = subprocess.run([sys.executable, script], cwd=ROOT, text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, check=False)
        if done.returncode:
            tally.fail(name, done.stdout)
        else:
            tally.passed += 1


# ---- C tests ----

TAP_LINE = re.compile(r"(not )?ok\b\s*(\d+)?\s*-?\s*(.*?)\s*(?:#\s*(SKIP|TODO)\b\s*(.*))?$", re.IGNORECASE)


def read_tap(suite, text, tally):
    """Adds one binary's results; returns (results seen, results promised or None)."""
    seen, promised, diagnostics = 0, None, []
    for line in text.splitlines():
        plan = re.match(r"1\.\.(\d+)", line)
        match = TAP_LINE.match(line)
        if plan:
            promised = int(plan[1])
        elif line.startswith("#"):
            diagnostics.append(line)
        elif match:
            seen += 1
            name = f"{suite}: {match[3] or match[2]}"
            if match[4] and match[4].upper() == "SKIP":
                tally.skip(name, match[5])
            elif match[1]:
                tally.fail(name, "\n".join(diagnostics))
            else:
                tally.passed += 1
            diagnostics = []
    return seen, promised


def run_c(args, tally, env):
    log = os.path.join(args.build, "meson-logs", "testlog.json")
    if os.path.exists(log):
        os.remove(log)
    command = ["meson", "test", "-C", args.build, "--no-rebuild", "--quiet", "--num-processes", str(os.cpu_count() or 1),
               "--timeout-multiplier", "6" if args.sanitizer else "2"]
    done = subprocess.run(command, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if not os.path.exists(log):
        if "No tests defined" not in done.stdout:
            tally.fail("meson test", done.stdout)
        return
    with open(log, encoding="utf-8") as file:
        for line in file:
            test = json.loads(line)
            failed_before = tally.failed
            seen, promised = read_tap(test["name"], test.get("stdout") or "", tally)
            if tally.failed > failed_before:
                continue
            if test["result"] in ("OK", "SKIP", "EXPECTEDFAIL") and promised == seen:
                continue
            tally.fail(test["name"], f"{test['result']}, exit {test['returncode']}, {seen} of {promised} results\n"
                       + "\n".join((test.get("stdout") or "").splitlines()[-5:]) + "\n" + (test.get("stderr") or ""))


# ---- Python tests ----

# Three at once, since most of a server test is waiting; each takes about as long as the others. A group is all of tests/ but
# the rooms of the others: named one by one, their conftest.py files would all be loaded first, under one name.
PYTHON_GROUPS = ["fault", "servers", "other"]
SERVERS = {"gateway", "jobs", "net", "serving", "store"}


def group_of(room, sanitizer):
    if room in SERVERS and not (sanitizer == "tsan" and room == "serving"):  # the others have less to do then
        return "servers"
    return "fault" if room == "fault" else "other"


# Python tests that have nothing for a sanitizer to see. Under AddressSanitizer: what compares figures of libraries that are not
# instrumented, and tools of ours in Python; the kernels' own tests are in C. Under ThreadSanitizer also rooms whose Python tests
# drive one thread of ours; what has threads in them is tested in C.
NOTHING_TO_SEE = {"asan": {"bench", "tools", "kernels", "engine/test_conformance.py", "engine/test_real_models.py"}}
NOTHING_TO_SEE["tsan"] = NOTHING_TO_SEE["asan"] | {"cli", "engine", "media", "task"}


def python_group(name, sanitizer):
    rooms = sorted(entry.name for entry in os.scandir(os.path.join(ROOT, "tests")) if entry.is_dir())
    left_out = {room for room in rooms if group_of(room, sanitizer) != name} | NOTHING_TO_SEE.get(sanitizer, set())
    return ["tests", *(f"--ignore=tests/{path}" for path in sorted(left_out))]


def run_python_group(args, env, name):
    report = os.path.join(args.build, f"pytest-{name}.xml")
    if os.path.exists(report):
        os.remove(report)
    command = ["timeout", "--kill-after=20", str(PYTHON_SECONDS), sys.executable, "-X", "faulthandler", "-m", "pytest", "-q",
               "-p", "no:cacheprovider", "-o", "faulthandler_timeout=240", "--tb=short", "--no-header", "--junitxml", report,
               *python_group(name, args.sanitizer)]
    done = subprocess.run(command, cwd=ROOT, env=env, text=True, errors="replace", stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, check=False)
    return report, done


def count_python_group(tally, report, done):
    if not os.path.exists(report):
        tally.fail("pytest", done.stdout)
        return
    failed = tally.failed
    for case in xml.parse(report).getroot().iter("testcase"):
        name = f"{case.get('classname')}.{case.get('name')}"
        bad = case.find("failure") if case.find("failure") is not None else case.find("error")
        if bad is not None:
            tally.fail(name, bad.text or bad.get("message") or "")
        elif case.find("skipped") is not None:
            tally.skip(name, case.find("skipped").get("message"))
        else:
            tally.passed += 1
    if done.returncode not in (0, 1, 5) or (done.returncode == 1 and tally.failed == failed):
        tally.fail("pytest", done.stdout)


def run_python(args, tally, env):
    with concurrent.futures.ThreadPoolExecutor(len(PYTHON_GROUPS)) as pool:
        for report, done in pool.map(lambda name: run_python_group(args, env, name), PYTHON_GROUPS):
            count_python_group(tally, report, done)


# ---- fuzzing ----

# A test must say the same twice, so `make test` tries these; to look for what is new is `make fuzz`'s.
KNOWN_FUZZ = ["-seed=1", "-runs=20000"]
KNOWN_FUZZ_SECONDS = 8


def fuzz_one(target, seconds, how):
    """Seeds lie in tests/fuzz/corpus/NAME (kept); what is found new stays in the build directory, for `make fuzz` alone."""
    name = os.path.basename(target)
    found = os.path.join(FUZZ_BUILD, "known" if how else "corpus", name)
    if how:
        shutil.rmtree(found, ignore_errors=True)
    artifacts = os.path.join(FUZZ_BUILD, "artifacts", "")
    os.makedirs(found, exist_ok=True)
    os.makedirs(artifacts, exist_ok=True)
    seeds = [d for d in (os.path.join("tests", "fuzz", "corpus", name.removeprefix("fuzz_")),) if os.path.isdir(d)]
    command = [target, found, *seeds, *how, f"-max_total_time={seconds}", "-timeout=10", "-rss_limit_mb=2048",
               f"-artifact_prefix={artifacts}{name}-", "-print_final_stats=1", "-verbosity=0"]
    env = dict(os.environ)
    env.setdefault("ASAN_OPTIONS", NO_TLS_GUESS)
    try:
        done = subprocess.run(command, cwd=ROOT, env=env, text=True, errors="replace", stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=seconds + 120, check=False)
        return name, done.returncode, done.stdout
    except subprocess.TimeoutExpired as late:
        return name, -1, f"still running after {late.timeout} s"


def run_fuzz(args, tally):
    if not os.path.exists(os.path.join(ROOT, FUZZ_BUILD, "build.ninja")):
        done = subprocess.run(["meson", "setup", FUZZ_BUILD, "-Dfuzz=true", "-Db_sanitize=address,undefined",
                               "-Db_lundef=false", "-Db_pie=false"], cwd=ROOT, env=dict(os.environ, CC="clang-14"),
                              text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        if done.returncode:
            tally.fail("fuzz: meson setup", done.stdout)
            return
    subprocess.run(["ninja", "-C", FUZZ_BUILD, "--quiet", "build.ninja"], cwd=ROOT, check=False, stdout=subprocess.DEVNULL)
    known = subprocess.run(["ninja", "-C", FUZZ_BUILD, "-t", "targets", "all"], cwd=ROOT, text=True,
                           stdout=subprocess.PIPE, check=True).stdout
    names = sorted(set(re.findall(r"^(tests/fuzz/fuzz_(?!replay_)\w+):", known, re.MULTILINE)))
    if not names:
        return
    done = subprocess.run(["ninja", "-C", FUZZ_BUILD, "--quiet", *names], cwd=ROOT, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        tally.fail("fuzz: build", done.stdout)
        return
    targets = [os.path.join(ROOT, FUZZ_BUILD, name) for name in names]
    seconds, how = (args.fuzz_seconds, []) if args.fuzz_seconds else (KNOWN_FUZZ_SECONDS, KNOWN_FUZZ)
    print(f"fuzzing {len(targets)} targets for {seconds} s each at most", flush=True)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for name, status, output in pool.map(lambda target: fuzz_one(target, seconds, how), targets):
            if status:
                tally.fail(f"{name} (the input lies in {FUZZ_BUILD}/artifacts)", output)
            else:
                tally.passed += 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default="build")
    parser.add_argument("--sanitizer", choices=["asan", "tsan"])
    parser.add_argument("--fuzz-seconds", type=int, default=0, help="for each target; 0: the mutations that never change")
    parser.add_argument("parts", nargs="+", choices=["checks", "c", "python", "fuzz"])
    args = parser.parse_args()
    os.chdir(ROOT)
    env = environment(args)

    total = Tally()
    for part in args.parts:
        start, before = time.monotonic(), (total.passed, total.failed, total.skipped)
        {"checks": lambda: run_checks(args, total), "c": lambda: run_c(args, total, env),
         "python": lambda: run_python(args, total, env), "fuzz": lambda: run_fuzz(args, total)}[part]()
        counts = [after - was for after, was in zip((total.passed, total.failed, total.skipped), before)]
        print(f"{part:7} {counts[0]:5} ok {counts[1]:4} bad {counts[2]:4} skip {time.monotonic() - start:7.1f} s", flush=True)

    for reason, names in sorted(total.reasons.items()):
        print(f"skipped {len(names)}: {reason} ({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})")
    os.makedirs(args.build, exist_ok=True)
    with open(os.path.join(args.build, "test-counts.json"), "w", encoding="utf-8") as file:
        json.dump({"passed": total.passed, "failed": total.failed, "skipped": total.skipped}, file)
    print(f"{total.passed} passed, {total.failed} failed, {total.skipped} skipped")
    return 0 if total.passed and not total.failed else 1


if __name__ == "__main__":
    sys.exit(main())
