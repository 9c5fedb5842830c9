"""tests/lane: what is made of two runs of pytest."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests import lane as room
from tests.lane import Counts, Lane, read_junit, verdict
from usbip_vudc.errors import UsbipVudcError
from usbip_vudc.lab.boot import DIED, TIMED_OUT

XML = """<testsuites><testsuite name="pytest">
<testcase classname="a" name="good"/>
<testcase classname="a" name="bad"><failure message="assert 0">text</failure></testcase>
<testcase classname="a" name="bad"><error message="teardown">text</error></testcase>
<testcase classname="a" name="torn"/>
<testcase classname="a" name="torn"><error message="left behind">text</error></testcase>
<testcase classname="a" name="not" ><skipped type="pytest.skip" message="no usbip"/></testcase>
<testcase classname="b" name="not" ><skipped type="pytest.skip" message="no usbip"/></testcase>
</testsuite></testsuites>"""


def test_each_test_is_counted_once(tmp_path: Path) -> None:
    path = tmp_path / "x.xml"
    path.write_text(XML)
    counts = read_junit(path)
    assert counts == Counts(1, 2, Counter({"no usbip": 2}))
    assert str(counts) == "1 passed, 2 failed, 2 skipped (2 x no usbip)"


@pytest.mark.parametrize("text", [None, "", "<testsuites><testsuite>"])
def test_results_that_are_not_there_are_no_counts(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "x.xml"
    if text is not None:
        path.write_text(text)
    assert read_junit(path) is None


@pytest.mark.parametrize(
    ("userspace", "kernel", "ci", "status"),
    [
        (Lane("u"), Lane("k"), True, 0),
        (Lane("u", 1), Lane("k"), False, 1),
        (Lane("u"), Lane("k", TIMED_OUT), False, 1),
        (Lane("u"), Lane("k", why_not="no qemu"), False, 0),
        (Lane("u"), Lane("k", why_not="no qemu"), True, 1),
    ],
    ids=["both", "userspace fails", "kernel fails", "did not run", "did not run in CI"],
)
def test_verdict(userspace: Lane, kernel: Lane, ci: bool, status: int) -> None:
    assert verdict((userspace, kernel), ci=ci) == status


@pytest.mark.parametrize(
    ("lane", "text"),
    [
        (Lane("k", 0, Counts(3), "", 61.2, "clean"), "k: 3 passed, 0 failed, dmesg clean (61 s)"),
        (Lane("k", DIED, seconds=5), "k: THE VM DIED (5 s)"),
        (Lane("k", TIMED_OUT, seconds=900), "k: TIMED OUT (900 s)"),
        (Lane("k", why_not="no qemu"), "k: DID NOT RUN (no qemu)"),
    ],
    ids=["ran", "died", "hung", "did not run"],
)  # fmt: skip
def test_a_lane_says_what_became_of_it(lane: Lane, text: str) -> None:
    assert str(lane) == text


@pytest.fixture
def no_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "userspace", lambda _arguments: Lane("userspace", 0, Counts(9)))
    monkeypatch.setattr(room, "_prepare", lambda: "no qemu-system-x86_64: apt-get install it")


@pytest.mark.usefixtures("no_lanes")
@pytest.mark.parametrize(("ci", "status"), [("", 0), ("true", 1)])
def test_a_lane_that_did_not_run_cannot_be_overlooked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ci: str, status: int
) -> None:
    monkeypatch.setenv("CI", ci)
    assert room.both(()) == status
    said = capsys.readouterr().out.splitlines()
    assert " KERNEL LANE DID NOT RUN: no qemu-system-x86_64: apt-get install it " in said
    assert said[-1].startswith("FAILED: " if status else "passed: ")
    assert "userspace: 9 passed, 0 failed" in said[-1]


def test_a_kernel_that_cannot_be_had_is_why_it_did_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(_text: str | None, *, progress: object) -> None:  # noqa: ARG001
        raise UsbipVudcError("http://mirror: refused")

    monkeypatch.setattr(room, "_prepare", lambda: "")
    monkeypatch.setattr(room, "find", find)
    assert room.kernel_lane("debian:sid", ()).why_not == "http://mirror: refused"
