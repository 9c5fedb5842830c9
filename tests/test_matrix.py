"""The matrix: what is computed of a cell against rows written by hand, and cells that are run."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from usbip_vudc.cli import main
from usbip_vudc.errors import SchemeError
from usbip_vudc.injection import CATALOGUE, Layout, Plan
from usbip_vudc.matrix import Axes, Cell, examine, examine_all, expected, why_impossible
from usbip_vudc.matrix import results as results_module
from usbip_vudc.matrix.axes import parse_axes
from usbip_vudc.matrix.cell import GADGETS, read_plan
from usbip_vudc.matrix.expectation import Expected, Step
from usbip_vudc.matrix.reports import as_json, from_json, ktap
from usbip_vudc.matrix.results import AS_EXPECTED, RED, Summary
from usbip_vudc.matrix.results import Result as CellResult
from usbip_vudc.matrix.running import RECOVERED, Seen
from usbip_vudc.settle import wait_until
from usbip_vudc.usb.ch9 import Speed

OK = "OUT data equal, IN data equal"
HOSTILE = "OUT TransportError, IN -EOVERFLOW, recovered"
ANYTHING = "any named outcome, recovered"

EXPECTED = {
    # 2019: 3584 is no multiple of 1024, and one of 512.
    "storage/vudc/super/no-sg/3584+7x4096/none": HOSTILE,
    "storage/vudc/super/sg/3584+7x4096/none": OK,
    "storage/vudc/super/sg/each:3584+7x4096/none": HOSTILE,
    "storage/vudc/high/no-sg/3584+7x4096/none": OK,
    "storage/vudc/high/no-sg/straddle/none": HOSTILE,
    "storage/vudc/super/no-sg/whole/none": OK,
    "storage/vudc/super/no-sg/packets:2/none": OK,
    "storage/vudc/super/no-sg/one-byte-head/none": HOSTILE,
    # Packets of eight bytes: every entry is whole packets.
    "storage/vudc/full/no-sg/3584+7x4096/function packet_size(full=8)": OK,
    # A stream has no ends that anyone sees on its way out.
    "serial/vudc/super/no-sg/3584+7x4096/none": "OUT data equal, IN -EOVERFLOW, recovered",
    "generic/vudc/full/no-sg/odd/none": "OUT data equal, IN -EOVERFLOW, recovered",
    "serial/vudc/full/no-sg/3584+7x4096/none": OK,
    # Plans that keep every packet, or only take time.
    "storage/vudc/super/sg/odd/odd-segments": OK,
    "storage/vudc/super/sg/whole/stub-without-sg": OK,
    "storage/vudc/super/sg/whole/crumbling-stream#5": OK,
    "storage/vudc/super/sg/whole/host p(0.5) delay(20ms)#7": OK,
    "storage/vudc/super/sg/whole/function layout(each:1024)": OK,
    "serial/vudc/super/sg/whole/unread-port": OK,
    "serial/vudc/super/no-sg/odd/unread-port": ANYTHING,  # 200 ms for each of the URBs
    # Ready-made plans, each as the bug that it stands for.
    "storage/vudc/super/sg/whole/sg-2019": "OUT data equal, IN -EOVERFLOW, recovered",
    "storage/vudc/high/sg/whole/sg-2019": OK,
    "storage/vudc/high/no-sg/odd/sg-2019": "OUT TransportError, IN data equal, recovered",
    "storage/vudc/super/sg/whole/zero-length-csw": OK,
    "storage/vudc/super/sg/whole/stalled-csw": OK,
    "storage/vudc/super/sg/whole/wrong-tag": f"setup TransportError, {OK}, recovered",
    "storage/vudc/super/no-sg/odd/wrong-tag": f"setup TransportError, {HOSTILE}",
    "storage/vudc/super/sg/whole/residue-lies": "OUT data equal, IN StorageError, recovered",
    "storage/vudc/super/sg/whole/olympus-signature": (
        "setup TransportError, OUT TransportError, IN TransportError, recovered"
    ),
    "storage/vudc/super/sg/whole/data-with-csw": f"setup -EOVERFLOW, {OK}, recovered",
    "storage/vudc/super/sg/whole/bit-rot": "OUT data equal, IN data equal or data differs, "
    "recovered",
    "storage/vudc/super/sg/whole/flaky-wire#3": "setup maybe -EIO or -EPROTO, "
    "OUT data equal or -EIO or -EPROTO, IN data equal or -EIO or -EPROTO, recovered",
    "storage/vudc/super/sg/whole/pulled-plug": "OUT data equal and -ENODEV, IN data equal, "
    "recovered",
    # What no rule predicts.
    "storage/vudc/super/sg/whole/mass_storage.in nth(3) stall": ANYTHING,
    "storage/vudc/super/sg/whole/function layout(each:odd)": ANYTHING,
    "storage/vudc/super/sg/whole/host delay(3s)": ANYTHING,
    "storage/vudc/super/no-sg/odd/residue-lies": ANYTHING,
    "storage/dummy_udc.0/high/sg/3584+7x4096/wrong-tag": ANYTHING,
    "storage/dummy_udc.0/high/sg/3584+7x4096/odd-segments": OK,
}


@pytest.mark.parametrize("text", EXPECTED)
def test_what_a_cell_must_show_is_computed(text: str) -> None:
    assert str(expected(Cell.parse(text))) == EXPECTED[text]


IMPOSSIBLE = {
    "storage/vudc/low/sg/whole/none": r"a bulk endpoint at low speed.*\(USB 2\.0 5\.8\.3\)",
    "storage/usbip-vudc.0/super/sg/whole/none": r"no SuperSpeed.*vudc_dev\.c",
    "storage/dummy_udc.0/super/no-sg/whole/none": r"Linux is the host.*sg_tablesize",
    "storage/dummy_udc.0/super/sg/each:1024/none": r"Linux is the host",
    "storage/dummy_udc.0/super/sg/3584+7x4096/none": r"no_sg_constraint",
    "storage/dummy_udc.0/super/sg/odd/none": r"logical_block_size is 512",
    "storage/vudc,linux/super/sg/63x512/none": r"max_segments is 32",
    "serial/dummy_udc.0/super/sg/odd/none": r"usbfs makes its own",
    "storage/dummy_udc.0,pyusb/super/sg/whole/none": r"write ,stub,pyusb",
    "storage/vudc,stub/super/sg/whole/none": r"on no bus",
    "storage/dummy_udc.0/high/sg/whole/cable tcp_reset": r"no USB/IP cable",
    "storage/dummy_udc.0/high/sg/whole/host nth(3) stall": r"no seam of ours",
    "serial/vudc/high/sg/whole/sg-2019": r"Bulk-Only commands, and serial has none",
    "storage/vudc/high/sg/whole/acm.in stall": r"function acm is not there",
    "storage/vudc/high/sg/whole/mass_storage packet_size(high=64)": r"expected 512",
    "storage/vudc/high/sg/[1024][]/none": r"a transfer has one SG list",
}


@pytest.mark.parametrize("text", IMPOSSIBLE)
def test_a_cell_that_cannot_exist_says_by_which_rule(text: str) -> None:
    impossible = why_impossible(Cell.parse(text))
    assert impossible is not None
    assert impossible.kind == "cannot exist"
    assert re.search(IMPOSSIBLE[text], impossible.why), impossible.why


def test_what_this_machine_lacks_is_another_matter() -> None:
    impossible = why_impossible(Cell.parse("storage/no_such_udc.7/high/sg/whole/none"))
    assert impossible is not None
    assert impossible.kind == "not here"


# --- text ---------------------------------------------------------------------------------------

PLANS = st.one_of(
    st.just(Plan()),
    st.builds(
        lambda name, seed: read_plan(f"{name}#{seed}"),
        st.sampled_from(sorted(CATALOGUE)),
        st.integers(0, 2**63 - 1),
    ),
    st.builds(
        lambda n, seed: Plan.parse(f"mass_storage.in nth({n}) stall; cable tcp_cut(1, 47)", seed),
        st.integers(1, 99),
        st.integers(0, 9),
    ),
)
WAYS = ("vudc", "vudc,linux", "usbip-vudc.3", "dummy_udc.0", "dummy_udc.0,pyusb,stub", "fe98.usb")
CELLS = st.builds(
    Cell,
    st.sampled_from(GADGETS),
    st.sampled_from(WAYS),
    st.sampled_from([Speed.LOW, Speed.FULL, Speed.HIGH, Speed.SUPER]),
    st.booleans(),
    st.sampled_from(["whole", "3584+7x4096", "each:[1,511][]", "random:7", "512@512+1@0"]).map(
        Layout.parse
    ),
    PLANS,
)


@given(CELLS)
def test_the_text_of_a_cell_pastes_back(cell: Cell) -> None:
    assert Cell.parse(str(cell)) == cell
    _, *words = shlex.split(CellResult(cell=str(cell), status=RED).replay)
    assert parse_axes(words[1:]) == [cell]


WRONG = {
    "storage/vudc/super/sg/whole": "5 parts",
    "disc/vudc/super/sg/whole/none": "gadget 'disc': expected one of storage, serial, generic",
    "storage/vudc/fast/sg/whole/none": "fast",
    "storage/vudc/super/maybe/whole/none": "'maybe': expected sg or no-sg",
    "storage/vudc/super/sg/4096+x/none": "column 6",
    "storage/vudc/super/sg/whole/sg-2020": "sg-2019",
    "storage/vudc/super/sg/whole/host stall#x": "expected a number behind #",
    "storage/vudc,macos/super/sg/whole/none": "'macos': expected pyusb, linux or stub",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_text_names_the_part(text: str) -> None:
    with pytest.raises(SchemeError, match=re.escape(WRONG[text])):
        Cell.parse(text)


def test_cells_of_a_file_name_the_line(tmp_path: Path) -> None:
    good = "storage/vudc/super/sg/whole/none"
    file = tmp_path / "cells"
    file.write_text(f"# my cells\n\n{good}\n")
    assert parse_axes(["--cells", str(file)]) == [Cell.parse(good)]
    file.write_text(f"{good}\nstorage\n")
    with pytest.raises(SchemeError, match="line 2"):
        parse_axes(["--cells", str(file)])


def test_axes_multiply_and_no_cell_comes_twice() -> None:
    words = shlex.split("--gadget storage --speed high --speed super --no-sg --layout odd")
    words += ("--plan", "none")
    assert [str(cell) for cell in parse_axes([*words, "--layout", "odd"])] == [
        "storage/vudc/high/no-sg/odd/none",
        "storage/vudc/super/no-sg/odd/none",
    ]
    assert parse_axes([]) == list(Axes().cells())
    seeded = parse_axes([*words[:-1], "bit-rot", "--plan", "sg-2019#3", "--plan-seed", "7"])
    assert [str(cell).rpartition("/")[2] for cell in seeded[:2]] == ["bit-rot#7", "sg-2019#3"]
    with pytest.raises(SchemeError, match="leave the axes out"):
        parse_axes(["--cell", "storage/vudc/high/sg/odd/none", "--speed", "high"])


# --- expectations against what was seen ---------------------------------------------------------


def test_an_expectation_wants_all_that_must_be_and_nothing_else() -> None:
    wanted = Expected(out=Step.only("data equal", "-ENODEV"), in_=Step.some("data equal", "-EIO"))
    good = Seen(out=("data equal", "-ENODEV"), in_=("data equal",), recovery=RECOVERED)
    assert wanted.holds(good)
    assert not wanted.holds(Seen(out=("data equal",), in_=("data equal",)))
    assert not wanted.holds(Seen(out=good.out, in_=("-EPIPE",), recovery=RECOVERED))
    assert not wanted.holds(Seen(("-EIO",), good.out, good.in_, RECOVERED))
    assert not wanted.holds(Seen(out=good.out, in_=good.in_, recovery="does not recover: -EIO"))


def test_any_outcome_still_has_to_recover() -> None:
    wanted = expected(Cell.parse("storage/vudc/super/sg/whole/mass_storage.in nth(3) stall"))
    assert wanted.holds(Seen(out=("-EPIPE",), in_=("data differs",), recovery=RECOVERED))
    assert not wanted.holds(Seen(out=("-EPIPE",), recovery="does not recover: -ETIMEDOUT"))


# --- runs ---------------------------------------------------------------------------------------

RUN = (
    "storage/vudc/super/no-sg/3584+7x4096/none",
    "storage/vudc/super/sg/3584+7x4096/none",
    "storage/vudc/super/sg/whole/olympus-signature",
    "storage/vudc/super/sg/random:7/cable layout(each:1024); cable tcp_cut(7, 1000)",
    "storage/vudc/high/sg/straddle/mass_storage.in phase(data) every(2) babble(1)",
    "serial/vudc/super/no-sg/one-byte-head/none",
    "generic/vudc/full/sg/maxp+1/function layout(straddle)",
    "storage/vudc/low/sg/whole/none",
)


def test_a_matrix_in_this_process_and_in_two_others_is_the_same() -> None:
    cells = [Cell.parse(text) for text in RUN]
    here = {result.cell: result for result in examine_all(cells)}
    assert list(here) == list(map(str, cells))
    assert [here[text].status for text in RUN] == [AS_EXPECTED] * 7 + ["cannot exist"]
    assert here[RUN[0]].seen == HOSTILE
    assert here[RUN[2]].firings > 4
    there = {result.cell: result for result in examine_all(cells, 2)}
    assert {text: result.seen for text, result in there.items()} == {
        text: result.seen for text, result in here.items()
    }


def test_an_overflow_costs_a_serial_gadget_bytes_and_no_slot_of_its_ring(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("usbip_vudc.matrix.bench._TIMEOUT", 1.0)
    result = examine(Cell.parse("serial/vudc/super/sg/whole/acm.out nth(2) short(7)"))
    assert result.status == AS_EXPECTED
    assert result.seen == "OUT data equal, IN -ETIMEDOUT, data equal, recovered"


def invoke(*words: str) -> Result:
    return CliRunner().invoke(main, ("matrix", *words))


def test_the_command_says_what_came_of_it(tmp_path: Path) -> None:
    xml = tmp_path / "junit.xml"
    words = ("--gadget", "storage", "--no-sg", "--layout", "straddle", "--plan", "none")
    done = invoke(*words, "--speed", "low", "--speed", "super", "--junit", str(xml))
    assert done.exit_code == 0, done.output
    assert HOSTILE in done.output
    assert "a bulk endpoint at low speed: expected interrupt" in done.output
    assert "1 as expected, 0 red, 1 cannot exist, 0 not here" in done.output
    suite = ET.parse(xml).getroot().find("testsuite")
    assert suite is not None
    assert {name: suite.get(name) for name in ("tests", "failures", "skipped")} == {
        "tests": "2", "failures": "0", "skipped": "1",
    }  # fmt: skip
    skipped = suite.find("testcase/skipped")
    assert skipped is not None
    assert "low speed" in (skipped.get("message") or "")


def test_where_nothing_ran_it_says_so() -> None:
    done = invoke("--cell", "storage/vudc/low/sg/whole/none")
    assert done.exit_code == 0
    assert "NOTHING RAN: 0 as expected, 0 red, 1 cannot exist, 0 not here" in done.output


def test_wrong_usage_is_told_apart() -> None:
    done = invoke("--layout", "4096+")
    assert done.exit_code == 2
    assert "layout '4096+', column" in done.output


def test_what_would_be_expected_can_be_listed() -> None:
    done = invoke("--list", "--gadget", "storage", "--no-sg", "--layout", "odd", "--plan", "none")
    assert done.exit_code == 0
    assert done.output.count(HOSTILE) == 2


def test_a_wrong_expectation_is_red_and_its_line_replays_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(results_module, "expected", lambda _cell: Expected())
    text = "storage/vudc/super/no-sg/3584+7x4096/sg-2019#7"
    xml = tmp_path / "junit.xml"
    done = invoke("--cell", text, "--junit", str(xml))
    assert done.exit_code == 1
    assert "0 as expected, 1 red" in done.output
    failure = ET.parse(xml).getroot().find("testsuite/testcase/failure")
    assert failure is not None
    assert failure.get("message") == f"expected {OK}; seen {HOSTILE}"
    line = next(line for line in done.output.splitlines() if line.startswith("replay: "))
    assert line.removeprefix("replay: ") in (failure.text or "")
    command, sub, *words = shlex.split(line.removeprefix("replay: "))
    assert (command, sub) == ("usbip-vudc", "matrix")
    monkeypatch.undo()
    again = invoke(*words, "--json")
    assert again.exit_code == 0
    (cell,) = json.loads(again.stdout)["cells"]
    assert (cell["cell"], cell["seen"]) == (text, HOSTILE)


def test_trouble_in_a_cell_is_red_and_not_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(_cell: Cell) -> Seen:
        raise MemoryError("of the machine")

    monkeypatch.setattr(results_module, "run", run)
    result = examine(Cell.parse("storage/vudc/super/sg/whole/none"))
    assert (result.status, result.seen) == (RED, "trouble: MemoryError: of the machine")


# --- reports ------------------------------------------------------------------------------------

RESULTS = [
    CellResult(cell="storage/vudc/high/sg/odd/none", status=AS_EXPECTED, expected=OK, seen=OK),
    CellResult(
        cell="storage/vudc/high/sg/odd/host stall#7", status=RED, expected=OK, seen=HOSTILE,
        kernel="debian:sid",
    ),
    CellResult(cell="storage/vudc/low/sg/odd/none", status="cannot exist", why="low speed"),
]  # fmt: skip


def test_ktap_is_version_1_with_skips() -> None:
    assert ktap(RESULTS) == (
        "KTAP version 1\n"
        "1..3\n"
        "ok 1 storage/vudc/high/sg/odd/none\n"
        f"# expected: {OK}\n"
        f"# seen: {HOSTILE}\n"
        "# replay: usbip-vudc matrix --kernel debian:sid --cell "
        "'storage/vudc/high/sg/odd/host stall#7'\n"
        "not ok 2 storage/vudc/high/sg/odd/host stall\\#7 on debian:sid\n"
        "ok 3 storage/vudc/low/sg/odd/none # SKIP cannot exist: low speed\n"
    )


def test_json_is_read_back() -> None:
    text = as_json(RESULTS, Summary.of(RESULTS, 1.5))
    assert from_json(text) == RESULTS
    values: dict[str, Any] = json.loads(text)
    assert values["ok"] is False
    assert values["summary"] == {"as expected": 1, "red": 1, "cannot exist": 1, "not here": 0}


def test_results_of_other_kernels_are_merged_by_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    # Here the "guest" is this machine: what is left out is the boot alone.
    def lab(_kernel: str, _results: Path, inside: str) -> tuple[str, ...]:
        return "sh", "-c", inside

    monkeypatch.setattr("usbip_vudc.matrix.kernels._lab", lab)
    monkeypatch.setattr("usbip_vudc.matrix.kernels._SETUP", "")
    cells = ("storage/vudc/super/no-sg/odd/none", "storage/vudc/low/sg/odd/none")
    words = [word for cell in cells for word in ("--cell", cell)]
    done = invoke(*words, "--kernel", "one", "--kernel", "two", "--json")
    assert done.exit_code == 0, done.output
    results = from_json(done.stdout)
    assert [(r.cell, r.kernel, r.seen) for r in results] == [
        (cells[0], "one", HOSTILE), (cells[0], "two", HOSTILE),
        (cells[1], "one", ""), (cells[1], "two", ""),
    ]  # fmt: skip
    assert results[1].replay == f"usbip-vudc matrix --kernel two --cell '{cells[0]}'"


def test_a_lab_without_results_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("usbip_vudc.matrix.kernels._lab", lambda *_: ("sh", "-c", "exit 125"))
    done = invoke("--cell", "storage/vudc/super/sg/odd/none", "--kernel", "none")
    assert done.exit_code == 1
    assert "kernel none: no results from the lab, which ended with 125" in done.output


# --- processes ----------------------------------------------------------------------------------


def start(
    *command: str, directory: Path | None = None, **environment: str
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        (sys.executable, "-m", *command),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=directory,
        env={**os.environ, **environment},
        start_new_session=True,
    )


def alive(group: int) -> list[str]:
    """The processes of a group that run; one that is over may wait for whoever collects it."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, pgrp, *_ = path.read_text().rpartition(") ")[2].split()
            found += [path.parent.name] if pgrp == str(group) and state != "Z" else []
    return found


def test_ctrl_c_ends_the_workers_too() -> None:
    # A plan that never lets a transfer through in time, so that it has no end of its own.
    cell = "storage/vudc/super/sg/whole/host delay(60s)"
    process = start("usbip_vudc", "-v", "matrix", "-n", "2", "--cell", cell, "--cell", f"{cell}#1")
    assert process.stderr is not None
    while "imported by" not in (line := process.stderr.readline()):
        assert line, "it ended before a device was imported"
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=50)
    assert "matrix: interrupted after 0 of 2 cells" in errors
    assert "Traceback" not in errors
    assert process.returncode == 130
    assert wait_until(lambda: not alive(process.pid), 10), alive(process.pid)


def test_pytest_and_xdist_run_the_same_cells(tmp_path: Path) -> None:
    axes = "--gadget storage --speed low --speed super --layout odd --plan none"
    process = start(
        *("pytest", "--pyargs", "usbip_vudc.matrix.pytest_matrix", "-p", "xdist", "-n", "2", "-v"),
        directory=tmp_path,
        USBIP_VUDC_MATRIX=axes,
        PYTEST_DISABLE_PLUGIN_AUTOLOAD="1",
    )
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert "2 passed, 2 skipped" in output
    assert "test_cell[storage/vudc/super/no-sg/odd/none]" in output
