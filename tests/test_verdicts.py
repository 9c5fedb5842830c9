"""Verdicts: their exit status, and each form that programs and people read, written out."""

from __future__ import annotations

import io
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from rich.console import Console

from usbip_vudc.cli.verdict_options import Telling, verdict_options
from usbip_vudc.errors import SchemeError
from usbip_vudc.verdicts import (
    FAIL,
    PASS,
    SKIP,
    Verdict,
    as_json,
    exit_status,
    ktap,
    summary,
    table,
    write_junit,
)

GOOD = Verdict(
    name="test 1",
    result=PASS,
    what="bulk OUT",
    why="5 MB/s",
    seconds=1.25,
    diagnostics=("length 1024",),
)
BAD = Verdict(
    name="test #4",
    result=FAIL,
    what="bulk [IN]",
    why="-EOVERFLOW (babble)\nof 1024",
    source="usbtest.c",
    seconds=0.5,
    diagnostics=("length 1000", "again: usbip-vudc usbtest --cases 4"),
)
LEFT = Verdict(name="test 15", result=SKIP, why="no isochronous\nendpoints", where="6.1")
ALL = (GOOD, BAD, LEFT)


@pytest.mark.parametrize(
    ("verdicts", "status"),
    [((GOOD,), 0), ((GOOD, LEFT), 0), (ALL, 1), ((BAD,), 1), ((LEFT,), 4), ((), 4)],
)
def test_the_exit_status_tells_failed_from_not_run(
    verdicts: tuple[Verdict, ...], status: int
) -> None:
    assert exit_status(verdicts) == status


def test_the_summary_says_when_nothing_ran() -> None:
    assert summary(ALL) == "1 pass, 1 fail, 1 skip"
    assert summary([LEFT]) == "NOTHING RAN: 0 pass, 0 fail, 1 skip"


def test_a_result_that_is_none_is_refused() -> None:
    with pytest.raises(SchemeError, match=r"verdict x: result 'green': expected pass, fail, skip"):
        Verdict(name="x", result="green")


def test_ktap_is_version_1_and_explains_failures_alone() -> None:
    assert ktap("usbtest on 1-1", ALL) == (
        "KTAP version 1\n"
        "# usbtest on 1-1\n"
        "1..3\n"
        "ok 1 test 1\n"
        "# -EOVERFLOW (babble)\n"
        "# of 1024\n"
        "# source: usbtest.c\n"
        "# length 1000\n"
        "# again: usbip-vudc usbtest --cases 4\n"
        "not ok 2 test \\#4\n"
        "ok 3 test 15 on 6.1 # SKIP no isochronous endpoints\n"
    )


def test_junit_has_failures_skips_and_what_passing_showed(tmp_path: Path) -> None:
    path = tmp_path / "junit.xml"
    write_junit("usbip-vudc usbtest", ALL, path, 2.5)
    suite = ET.parse(path).getroot().find("testsuite")
    assert suite is not None
    assert {name: suite.get(name) for name in ("name", "tests", "failures", "skipped", "time")} == {
        "name": "usbip-vudc usbtest", "tests": "3", "failures": "1", "skipped": "1", "time": "2.5",
    }  # fmt: skip
    good, bad, left = suite.findall("testcase")
    assert (good.get("name"), good.get("classname")) == ("test 1", "usbip_vudc.usbtest")
    assert good.findtext("system-out") == "5 MB/s\nlength 1024"
    failure = bad.find("failure")
    assert failure is not None
    assert failure.get("message") == BAD.why
    assert (failure.text or "").splitlines() == ["source: usbtest.c", *BAD.diagnostics]
    assert left.get("classname") == "usbip_vudc.usbtest.6.1"


def test_what_is_quoted_of_the_judged_is_neither_obeyed_nor_bad_xml(tmp_path: Path) -> None:
    bad = Verdict(name="x", result=FAIL, why="\x1b[31mred\x07", diagnostics=("a\tb\x00\x9b2J",))
    assert bad.why == r"\x1b[31mred\x07"
    assert bad.diagnostics == ("a\tb\\x00\\x9b2J",)
    write_junit("x", [bad], tmp_path / "junit.xml")
    ET.parse(tmp_path / "junit.xml")


def test_json_has_every_field_and_the_counts() -> None:
    values = json.loads(as_json(ALL, {"device": "1-1"}))
    assert values["device"] == "1-1"
    assert values["ok"] is False
    assert values["summary"] == {"pass": 1, "fail": 1, "skip": 1}
    assert values["verdicts"][1]["why"] == BAD.why
    assert json.loads(as_json([GOOD, LEFT]))["ok"] is True


def test_the_table_shows_text_as_it_is_and_no_empty_column() -> None:
    console = Console(width=150, record=True, file=io.StringIO())
    console.print(table("usbtest", ALL))
    text = console.export_text()
    assert "bulk [IN]" in text
    assert "where" in text
    console.print(table("usbtest", [GOOD]))
    text = console.export_text()
    assert "where" not in text
    assert "1.25" in text


def test_a_name_is_in_one_piece_on_80_columns() -> None:
    long = "what it does, told at some length, as most of them are " * 2
    verdicts = [Verdict(name="unlink-race-pending", result=FAIL, what=long, why=long, source=long)]
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(table("conformance", verdicts))
    text = console.export_text()
    assert "unlink-race-pending" in text
    assert max(map(len, text.splitlines())) <= 80


@click.command()
@verdict_options
@click.pass_context
def judge(ctx: click.Context, telling: Telling) -> None:
    ctx.exit(telling.tell("judge", ALL, 3.0, about={"device": "1-1"}))


def test_a_command_tells_in_the_form_that_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "junit.xml"
    told = CliRunner().invoke(judge, ["--junit", str(path)])
    assert told.exit_code == 1
    assert "1 pass, 1 fail, 1 skip (3.0 s)" in told.stdout
    assert path.exists()
    told = CliRunner().invoke(judge, ["--ktap"])
    assert told.stdout == ktap("judge", ALL)
    told = CliRunner().invoke(judge, ["--json"])
    assert json.loads(told.stdout)["seconds"] == 3.0


def test_xml_that_cannot_be_written_hides_no_verdict(tmp_path: Path) -> None:
    told = CliRunner().invoke(judge, ["--junit", str(tmp_path / "no" / "junit.xml")])
    assert told.exit_code == 2
    assert f"there is no directory {tmp_path / 'no'}" in " ".join(told.output.split())
    told = CliRunner().invoke(judge, ["--junit", "/proc/no.xml"])
    assert isinstance(told.exception, OSError)
    assert "1 pass, 1 fail, 1 skip" in told.stdout


def test_two_forms_at_once_are_wrong_usage() -> None:
    told = CliRunner().invoke(judge, ["--json", "--ktap"])
    assert told.exit_code == 2
    assert "give one" in told.output
