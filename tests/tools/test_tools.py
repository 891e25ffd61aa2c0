# SPDX-License-Identifier: Apache-2.0
"""The checks notice what they exist for, and the adder of test results counts right."""
import os
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tools"))
import check_banned  # noqa: E402
import check_includes  # noqa: E402
import debian_package_of_suite as later  # noqa: E402
import run_tests  # noqa: E402


def write(root, name, text):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_higher_room_is_noticed(tmp_path):
    order = ["base", "kernels", "route"]
    write(tmp_path, "src/base/a.c", '#include "base/a.h"\n#include "kernels/prep.h"\n')
    write(tmp_path, "src/route/b.c", '#include "kernels/prep.h"\n#include "route/b.h"\n#include "b_private.h"\n')
    write(tmp_path, "include/spillway.h", '#include "base/status.h"\n')
    found = check_includes.violations(str(tmp_path), order)
    assert len(found) == 2
    assert any("src/base/a.c: base is below kernels" in line for line in found)
    assert any("include/spillway.h" in line for line in found)


def test_the_order_of_rooms_is_read_from_meson():
    order = check_includes.room_order()
    assert order.index("base") < order.index("kernels") < order.index("route") < order.index("gateway")


SPDX = "/* SPDX-License-Identifier: Apache-2.0 */\n"


@pytest.mark.parametrize("line, word", [
    ("strcpy(a, b);", "strcpy"), ("x = atoi (text);", "atoi"), ("p = alloca(n);", "alloca"),
    ("if (sprintf(a, b))", "sprintf"), ("int a\u200b;", "invisible"), ("/* \u202e */", "invisible"), ("\x07", "control"),
])
def test_banned_is_noticed(line, word):
    assert any(word in found for found in check_banned.problems_of("src/base/x.c", (SPDX + line + "\n").encode()))


@pytest.mark.parametrize("line", [
    "x = SP_MAX(at - sp_clock_now_ns(), 0);", "x = SP_MIN(SP_MAX(n, 1),\n    atomic_load(&a));", "x = SP_CLAMP(i++, 0, 9);",
])
def test_what_a_macro_would_evaluate_twice_is_noticed(line):
    assert any("twice" in found for found in check_banned.problems_of("src/base/x.c", (SPDX + line + "\n").encode()))


@pytest.mark.parametrize("line", [
    "x = SP_MIN(strlen(a), 4) + sp_clock_now_ns();", "x = SP_MAX(a == b, c <= d);", "x = SP_MIN(p->n, -1);",
])
def test_what_is_the_same_each_time_passes(line):
    assert check_banned.problems_of("src/base/x.c", (SPDX + line + "\n").encode()) == []


@pytest.mark.parametrize("line", [
    "snprintf(a, 1, b);", "/* strcpy(a, b) */", 'puts("atoi(x)");', "ops->system(1);", "my_strcpy(a, b);",
    "longjmp(here, 1);", "x = atoi(t); /* allowed: digits were checked */",
])
def test_what_only_looks_banned_passes(line):
    assert check_banned.problems_of("src/media/x.c", (SPDX + line + "\n").encode()) == []


def test_longjmp_is_for_media_only():
    assert check_banned.problems_of("src/route/x.c", (SPDX + "longjmp(here, 1);\n").encode())


def test_spdx_line_and_length_are_checked():
    assert check_banned.problems_of("src/base/x.c", b"int x;\n")
    assert check_banned.problems_of("src/base/x.c", (SPDX + "\n" * 1001).encode())


def test_tap_is_added_up(capsys):
    tally = run_tests.Tally()
    text = ("ok 1 - one\n# x.c:3: (seed 5) a == b\nnot ok 2 - two\nok 3 - three # SKIP no assets\n"
            "ok 4 - four: 50 # of 100\n1..5\n")
    assert run_tests.read_tap("suite", text, tally) == (4, 5)
    assert (tally.passed, tally.failed, tally.skipped) == (2, 1, 1)
    assert tally.reasons == {"no assets": ["suite: three"]}
    out = capsys.readouterr().out
    assert "FAILED suite: two" in out and "(seed 5)" in out


ONE_LINE = """# comment
deb-src http://mirror.invalid/debian bookworm main
deb [signed-by=/usr/share/keyrings/k.gpg arch=amd64] http://mirror.invalid/debian bookworm main contrib # tail
"""
DEB822 = """Types: deb
URIs: http://security.invalid/
Suites: bookworm-security
Components: main

# comment
Types: deb deb-src
URIs: http://mirror.invalid/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc
"""


def test_the_later_suite_keeps_the_machines_mirror(tmp_path):
    assert later.one_line_entry(ONE_LINE, "bookworm", "trixie") == (
        "deb [signed-by=/usr/share/keyrings/k.gpg arch=amd64] http://mirror.invalid/debian trixie main\n")
    fields = later.fields_of(later.deb822_entry(DEB822, "bookworm", "trixie"))
    assert fields["uris"] == "http://mirror.invalid/debian" and fields["suites"] == "trixie"
    assert "abc" in fields["signed-by"] and fields["types"] == "deb"
    assert later.deb822_entry("Enabled: no\n" + DEB822.split("\n\n")[1], "bookworm", "trixie") is None
    write(tmp_path, "sources.list", "")
    write(tmp_path, "sources.list.d/debian.sources", DEB822)
    write(tmp_path, "sources.list.d/off.list.disabled", ONE_LINE)
    kind, text = later.source_entry("bookworm", "trixie", str(tmp_path))
    assert kind == ".sources" and "suites: trixie" in text
    assert later.source_entry("sid", "trixie", str(tmp_path)) is None
