"""The pytest plugin, as a project that uses it sees it: fixtures, markers, plans and replays."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest

from usbip_vudc.errors import SchemeError
from usbip_vudc.pytest_support import make_gadget

pytest_plugins = ["pytester"]

READS_AND_FAILS = """
    def test_disk(storage_gadget):
        disk = storage_gadget.disk
        disk.write(0, bytes(65536))
        assert disk.read(0, 128) == bytes(65536)
        raise AssertionError("the end")
"""

CHANCE = "mass_storage.in p(0.9) layout(odd); host.in p(0.9) nak(1); cable.in p(0.9) delay(1ms)"
"""Each rule sees some ten transfers: that one of them never acts is not to be expected."""


@pytest.fixture
def run(pytester: pytest.Pytester) -> Run:
    return Run(pytester)


class Run:
    """Runs pytest on one file, in this process."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self._pytester = pytester

    def __call__(self, code: str | None, *arguments: str) -> pytest.RunResult:
        if code is not None:
            self._pytester.makepyfile(test_it=code)
        words = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-rs", "-W", "error")
        return self._pytester.runpytest_inprocess(*words, *arguments)


def section(result: pytest.RunResult) -> list[str]:
    """The lines of the first failure's section, without its heading."""
    lines = result.outlines
    start = next(n for n, line in enumerate(lines) if re.match(r"-+ usbip-vudc plan -+$", line))
    stop = next(n for n in range(start, len(lines)) if lines[n].startswith("replay: "))
    return lines[start + 1 : stop + 1]


# --- fixtures ----------------------------------------------------------------------------------


def test_the_fixtures_work_on_our_own_udc(run: Run) -> None:
    result = run("""
        from usbip_vudc.host.blocking import BlockingHost
        from usbip_vudc.host.handshake import list_devices
        from usbip_vudc.usb.ch9 import SetupPacket

        def test_serial(serial_gadget, gadget):
            assert gadget.name == "serial"
            serial_gadget.port.write(b"to and fro")
            assert serial_gadget.port.read(64) == b"to and fro"

        def test_storage(storage_gadget, gadget):
            assert gadget.name == "storage"
            storage_gadget.disk.write(3, b"x" * 512)
            assert storage_gadget.disk.read(3, 1) == b"x" * 512

        def test_one_device_for_all(serial_gadget, storage_gadget, usb_device, host, udc, plan):
            assert str(udc) == "vudc,super,pyusb"
            assert not plan
            assert usb_device.idProduct == 0x0106
            assert serial_gadget.port.device is storage_gadget.disk.device is usb_device
            assert host.control(SetupPacket(0x80, 8, wLength=1)) == b"\\x01"

        def test_a_client_of_my_own(vudc_server):
            (listed,) = list_devices(vudc_server.host, vudc_server.port)
            assert (listed.device.busid,) == vudc_server.busids
            BlockingHost(vudc_server.host, vudc_server.port, vudc_server.busid).close()

        def test_it_can_be_unplugged(carried, storage_gadget):
            first = storage_gadget.disk
            carried.unplug()
            carried.wait_gone()
            assert storage_gadget.disk is not first
            assert storage_gadget.disk.read(0, 1) == bytes(512)
    """)
    result.assert_outcomes(passed=5)


def test_a_gadget_by_marker_and_by_fixture(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makefile(".toml", mine="""
        name = "mine"
        idVendor = 0x1209
        idProduct = 7
        [[configs]]
        [[configs.functions]]
        type = "acm"
    """)  # fmt: skip
    result = run("""
        import pytest
        from usbip_vudc.gadget import Gadget
        from usbip_vudc.registry import GadgetOptions, load_gadget
        from usbip_vudc.usb.ch9 import Speed

        def slow():
            made = load_gadget("serial", GadgetOptions())
            return Gadget(name="slow", idVendor=1, idProduct=2, max_speed=Speed.FULL,
                          configs=made.configs)

        @pytest.mark.gadget("storage", size="1M")
        def test_ready_made(storage_gadget):
            assert storage_gadget.disk.read_capacity().blocks == 2048

        @pytest.mark.gadget("mine.toml")
        def test_scheme(usb_device):
            assert usb_device.idProduct == 7

        @pytest.mark.gadget(slow())
        def test_object(usb_device, udc):
            assert usb_device.idProduct == 2
            assert udc.speed == Speed.FULL

        @pytest.mark.gadget("storage", sise="1M")
        def test_wrong(usb_device):
            pass

        class TestOverridden:
            @pytest.fixture
            def gadget(self):
                return slow()

            def test_fixture(self, usb_device):
                assert usb_device.idProduct == 2
    """)
    result.assert_outcomes(passed=4, errors=1)
    result.stdout.fnmatch_lines(
        ["@pytest.mark.gadget: gadget storage: sise='1M': expected one of image, *"]
    )


def test_the_speed_behind_the_udc_is_taken(run: Run) -> None:
    result = run("""
        def test_packets(usb_device):
            assert usb_device[0][(1, 0)][0].wMaxPacketSize == 64
    """, "--udc", "vudc:full")  # fmt: skip
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["usbip-vudc: udc vudc:full"])


# --- skips and mistakes ------------------------------------------------------------------------


def test_what_cannot_be_is_skipped_and_says_why(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    result = run("""
        import pytest
        from usbip_vudc.carrier import Carrier
        from usbip_vudc.injection import Plan

        @pytest.mark.kernel
        def test_kernel(usb_device):
            pass

        @pytest.mark.needs_root
        def test_root(vudc_server):
            pass

        @pytest.mark.gadget("storage")
        def test_low_speed(usb_device):
            pass

        @pytest.mark.parametrize("udc", [Carrier.parse("no_such_udc.0")])
        def test_udc(usb_device):
            pass

        @pytest.mark.kernel
        @pytest.mark.needs_root
        def test_of_somebody_else(tmp_path):
            pass
    """, "--udc", "vudc:low", "--strict-markers")  # fmt: skip
    result.assert_outcomes(passed=1, skipped=4)
    result.stdout.fnmatch_lines_random([
        "SKIPPED * DID NOT RUN: it needs Linux's own USB, and vudc,low,pyusb does without: run it "
        "as root with --udc dummy_udc.0, --udc usbip-vudc.0 or --udc vudc:linux",
        "SKIPPED * DID NOT RUN: it needs root: run pytest as root",
        "SKIPPED * DID NOT RUN: * low speed*",
        "SKIPPED * DID NOT RUN: no_such_udc.0,super,linux: the kernel's side of USB is root's *",
    ])  # fmt: skip


def test_a_udc_that_was_asked_for_and_is_not_there_fails(run: Run) -> None:
    result = run("def test_it(usb_device): pass", "--udc", "no_such_udc.0")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["no_such_udc.0,super,linux: *"])


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("--udc", "vudc:warp"), "--udc: carrier: 'warp' is unknown; expected low, *"),
        (("--plan", "acm.in stal"), "--plan: rule 'acm.in stal': 'stal' is no action; *"),
        (("--plan", "no-such.toml"), "--plan: * No such file *: 'no-such.toml'"),
        (("--plan-seed", "1"), "--plan-seed says nothing without --plan"),
        (
            ("--udc", "vudc:linux", "--plan", "host.in stall"),
            "--plan on --udc vudc:linux: rule 'host.in stall' needs a host of ours, *",
        ),
    ],
)
def test_a_wrong_option_is_told_before_anything_runs(
    run: Run, arguments: tuple[str, ...], what: str
) -> None:
    result = run("def test_it(): pass", *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {what}"])


# --- plans -------------------------------------------------------------------------------------


def test_a_failure_tells_the_plan_and_replays_to_the_same_trace(run: Run) -> None:
    first = run(READS_AND_FAILS, "--plan", CHANCE)
    first.assert_outcomes(failed=1)
    told = section(first)
    (seed,) = re.findall(r"seed (\d+) \(drawn\)$", "\n".join(first.outlines), re.MULTILINE)
    assert told[0].startswith("plan: Plan.parse('mass_storage.in p(0.9) layout(odd); ")
    assert told[0].endswith(f", seed={seed})")
    assert told[1] == f"seed: {seed}"
    for seam in ("function", "host", "cable"):
        assert any(line.startswith(f"{seam}: ") for line in told)
    replay = shlex.split(told[-1].removeprefix("replay: "))
    assert replay[:4] == ["pytest", "test_it.py::test_disk", "--udc", "vudc"]

    again = run(None, *replay[1:])
    again.assert_outcomes(failed=1)
    assert section(again) == told


def test_every_rule_is_accounted_for(run: Run) -> None:
    plan = "mass_storage.in cbw(0x28) phase(data) layout(odd); mass_storge.in stall"
    result = run("""
        def test_disk(storage_gadget):
            storage_gadget.disk.read(0, 1)

        def test_port(serial_gadget):
            serial_gadget.port.write(b"not injected")
    """, "--plan", plan)  # fmt: skip
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines([
        "1: 'mass_storage.in cbw(0x28) phase(data) layout(odd)' fired 1 time(s)",
        "2: 'mass_storge.in stall' NEVER FIRED",
    ])  # fmt: skip


def test_a_plan_of_the_tests_own(run: Run) -> None:
    result = run("""
        import pytest
        import usb.core
        from usbip_vudc.injection import Plan

        @pytest.fixture
        def plan():
            return Plan.parse("acm.in nth(1) stall")

        def test_stall(serial_gadget):
            serial_gadget.port.write(b"lost?")
            with pytest.raises(usb.core.USBError, match="Pipe"):
                serial_gadget.port.read(64)
            serial_gadget.port.device.clear_halt(0x82)
            assert serial_gadget.port.read(64) == b"found"

        @pytest.mark.gadget("storage")
        def test_other_gadget(usb_device):
            pass
    """)
    result.assert_outcomes(failed=1, errors=1)
    assert section(result)[-1] == "replay: pytest test_it.py::test_stall"
    result.stdout.fnmatch_lines([
        "the plan of this test: rule 'acm.in nth(1) stall': function acm is not there; *",
    ])  # fmt: skip


def test_a_long_trace_is_cut_to_its_end(run: Run) -> None:
    result = run("""
        def test_port(serial_gadget):
            for _ in range(60):
                serial_gadget.port.write(b"x")
                serial_gadget.port.read(1)
            raise AssertionError
    """, "--plan", "host.out nak(1)")  # fmt: skip
    told = section(result)
    assert told[2] == "host: 60 firing(s), the last 50"
    assert len([line for line in told if ": host 0x0" in line]) == 50


def test_a_worker_of_xdist_has_the_seed_that_was_drawn(run: Run) -> None:
    pytest.importorskip("xdist")
    result = run(READS_AND_FAILS, "--plan", CHANCE, "-n", "1")
    result.assert_outcomes(failed=1)
    (drawn,) = re.findall(r"seed (\d+) \(drawn\)$", "\n".join(result.outlines), re.MULTILINE)
    assert f"seed: {drawn}" in section(result)
    # Its counts came back. One rule may be out of luck under the seed that was drawn; not all.
    assert re.search(r"fired [1-9]\d* time", result.stdout.str())


# --- a guest in other projects -----------------------------------------------------------------


def test_it_says_nothing_where_it_is_not_used(run: Run) -> None:
    result = run("def test_it(): assert False")
    assert "usbip-vudc:" not in result.stdout.str()
    assert "usbip-vudc plan" not in result.stdout.str()


def test_loading_it_loads_nothing_else_of_the_package() -> None:
    code = (
        "import pytest, sys; before = set(sys.modules); import usbip_vudc.pytest_plugin; "
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["usbip_vudc", "usbip_vudc.pytest_plugin"]


def test_an_option_that_the_gadget_has_not_is_refused() -> None:
    with pytest.raises(SchemeError, match=r"gadget serial: size='1M': expected one of back_press"):
        make_gadget("serial", {"size": "1M"})
    with pytest.raises(SchemeError, match="gadget 'toaster' is unknown; there are composite"):
        make_gadget("toaster", {"size": "1M"})
