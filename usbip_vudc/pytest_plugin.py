"""The pytest plugin: gadgets, their hosts, and a plan of what goes wrong, as fixtures.

    def test_blocks_come_back(storage_gadget):
        storage_gadget.disk.write(0, bytes(512))

    pytest --plan 'mass_storage.in nth(3) stall'

It loads nothing of the package before a fixture or an option is used, and leaves projects that
use neither alone. `usbip_vudc/seams.py` and `usbip_vudc/pytest_support.py` do the work.
"""

from __future__ import annotations

import os
import random
import shlex
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NoReturn

import pytest

if TYPE_CHECKING:
    import usb.core

    from usbip_vudc.carrier import Carried, Carrier
    from usbip_vudc.gadget import Gadget
    from usbip_vudc.host.blocking import BlockingHost
    from usbip_vudc.injection import Plan
    from usbip_vudc.pytest_support import SerialGadget, StorageGadget, VudcServer
    from usbip_vudc.seams import Seams

__all__ = (
    "carried",
    "gadget",
    "host",
    "plan",
    "serial_gadget",
    "storage_gadget",
    "udc",
    "usb_device",
    "vudc_server",
)

_DEFAULT_UDC: Final = "vudc"
_SHOWN: Final = 50
"""Firings at each seam that a failure shows."""

_LARGEST_DRAWN: Final = (1 << 31) - 1
_SECTION: Final = "usbip-vudc plan"
_WORKER_INPUT: Final = "usbip_vudc_seed"
_WORKER_OUTPUT: Final = "usbip_vudc_fired"

_MARKERS: Final = (
    "gadget(source, **options): the gadget of this test: serial, generic, storage or composite "
    'with options such as size="16M", FILE.toml, or a Gadget (usbip-vudc)',
    "kernel: needs Linux's own USB, as a UDC or as a host; of tests with usbip-vudc's fixtures",
    "needs_root: needs root; of tests with usbip-vudc's fixtures",
)


@dataclass(slots=True)
class _Session:
    """What this run of pytest was asked for, and what became of its plan.

    ``plan`` is None without ``--plan``. ``fired`` counts by the number of the rule.
    """

    udc: str
    plan: Plan | None
    is_drawn: bool
    fired: Counter[int] = field(default_factory=Counter)


_SESSION: Final = pytest.StashKey[_Session]()
_SEAMS: Final = pytest.StashKey["Seams"]()


# --- options -----------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the plugin's options."""
    group = parser.getgroup("usbip-vudc", "USB gadgets and their hosts")
    group.addoption(
        "--udc",
        metavar="NAME[:SPEED]",
        help="The UDC of the fixtures' gadgets: vudc, our own in userspace (default), or one of "
        "the kernel's, such as usbip-vudc.0 or dummy_udc.0:high; behind it may follow :pyusb or "
        ":linux, the host, and :stub.",
    )
    group.addoption(
        "--plan",
        metavar="PLAN",
        help="What is to go wrong: FILE.toml, a ready-made plan (usbip-vudc plan list), or rules "
        "such as 'mass_storage.in nth(3) stall'.",
    )
    group.addoption(
        "--plan-seed",
        metavar="N",
        type=int,
        help="The seed of the plan's chances (default: the plan's own, or one that is drawn).",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Read the options, so that a wrong one is told before anything runs."""
    for line in _MARKERS:
        config.addinivalue_line("markers", line)
    udc, word, seed = (config.getoption(name) for name in ("--udc", "--plan", "--plan-seed"))
    if word is None and seed is not None:
        raise pytest.UsageError("--plan-seed says nothing without --plan")
    plan, is_drawn = None, False
    if udc is not None or word is not None:
        plan, is_drawn = _read(udc or _DEFAULT_UDC, word, seed, _drawn(config))
    config.stash[_SESSION] = _Session(udc or _DEFAULT_UDC, plan, is_drawn)


def _read(udc: str, word: str | None, seed: int | None, drawn: int) -> tuple[Plan | None, bool]:
    """The plan, if there is one, and whether its seed is the drawn one."""
    from usbip_vudc.errors import SchemeError
    from usbip_vudc.pytest_support import read_carrier, read_plan
    from usbip_vudc.seams import out_of_reach

    option = "--udc"
    try:
        carrier = read_carrier(udc)
        if word is None:
            return None, False
        option = "--plan"
        plan, is_drawn = read_plan(word, seed, None if seed is not None else drawn)
    except (SchemeError, OSError) as error:
        raise pytest.UsageError(f"{option}: {error}") from None
    why = out_of_reach(plan, carrier)
    if why is not None:
        raise pytest.UsageError(f"--plan on --udc {udc}: {why}")
    return plan, is_drawn


def _drawn(config: pytest.Config) -> int:
    """A seed for a plan without one; the workers of pytest-xdist have that of their controller."""
    workerinput: dict[str, int] = getattr(config, "workerinput", {})
    return workerinput.get(_WORKER_INPUT) or random.SystemRandom().randint(1, _LARGEST_DRAWN)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Give a worker of pytest-xdist the seed that was drawn here."""
    session = node.config.stash[_SESSION]
    if session.plan is not None and session.is_drawn:
        node.workerinput[_WORKER_INPUT] = session.plan.seed


# --- what is told ------------------------------------------------------------------------------


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say what the fixtures will run on, where an option was given."""
    session = config.stash[_SESSION]
    if config.getoption("--udc") is None and session.plan is None:
        return None
    line = f"usbip-vudc: udc {session.udc}"
    if session.plan is not None:
        drawn = " (drawn)" if session.is_drawn else ""
        line += f", plan '{session.plan}', seed {session.plan.seed}{drawn}"
    return line


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that failed under a plan says what the plan did, and how to have it again."""
    report = yield
    seams = item.stash.get(_SEAMS, None)
    if report.failed and seams is not None and seams.plan:
        report.sections.append((_SECTION, _told(item, seams)))
    return report


def _told(item: pytest.Item, seams: Seams) -> str:
    plan = seams.plan
    head = (f"plan: {plan!r}", f"seed: {plan.seed}")
    return "\n".join((*head, *seams.trace(_SHOWN), f"replay: {_replay(item, plan)}"))


def _replay(item: pytest.Item, plan: Plan) -> str:
    """The line that runs this test again, from where pytest was run, with what it was given."""
    session = item.config.stash[_SESSION]
    path, colons, name = item.nodeid.partition("::")
    path = os.path.relpath(item.config.rootpath / path, item.config.invocation_params.dir)
    words = ["pytest", path + colons + name]
    if item.config.getoption("--udc") is not None or plan is session.plan:
        words += ["--udc", session.udc]
    if plan is session.plan:  # else the test has its own
        words += ["--plan", str(plan), "--plan-seed", str(plan.seed)]
    return shlex.join(words)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of pytest-xdist hands its counts over."""
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output[_WORKER_OUTPUT] = dict(session.config.stash[_SESSION].fired)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take a worker's counts; one that crashed has none."""
    fired = getattr(node, "workeroutput", {}).get(_WORKER_OUTPUT, {})
    node.config.stash[_SESSION].fired.update({int(rule): n for rule, n in fired.items()})


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say how often each rule of ``--plan`` acted: a rule that never did has tested nothing."""
    session = config.stash[_SESSION]
    if session.plan is None:
        return
    terminalreporter.section(_SECTION)
    for number, rule in enumerate(session.plan.rules, 1):
        count = session.fired[number]
        fired = f"fired {count} time(s)" if count else "NEVER FIRED"
        terminalreporter.write_line(f"{number}: '{rule}' {fired}")


# --- fixtures ----------------------------------------------------------------------------------


@pytest.fixture
def udc(request: pytest.FixtureRequest, gadget: Gadget) -> Carrier:
    """The way from gadget to host that --udc names, a usbip_vudc.carrier.Carrier.

    Override it, or parametrize it, to run tests on several.
    """
    from usbip_vudc.pytest_support import read_carrier

    carrier = read_carrier(request.config.stash[_SESSION].udc, gadget)
    _obey_markers(request, carrier)
    return carrier


@pytest.fixture
def gadget(request: pytest.FixtureRequest) -> Gadget:
    """The Gadget: override it, or mark a test with pytest.mark.gadget, "storage", size="16M".

    Without either it is what the test asks for: the ready-made serial gadget for serial_gadget,
    storage for storage_gadget, else composite, which is both in one device.
    """
    from usbip_vudc.errors import SchemeError
    from usbip_vudc.pytest_support import make_gadget

    marker = request.node.get_closest_marker("gadget")
    if marker is None:
        asked = {"serial_gadget", "storage_gadget"} & set(request.fixturenames)
        name = asked.pop().removesuffix("_gadget") if len(asked) == 1 else "composite"
        return make_gadget(name, {})
    if len(marker.args) != 1:
        _fail(f"@pytest.mark.gadget{marker.args}: expected one gadget, and options by name")
    try:
        return make_gadget(marker.args[0], marker.kwargs)
    except (SchemeError, OSError) as error:
        raise pytest.fail.Exception(f"@pytest.mark.gadget: {error}", pytrace=False) from None


@pytest.fixture
def plan(request: pytest.FixtureRequest) -> Plan:
    """The Plan of --plan and --plan-seed, empty without; override it to give a test its own."""
    from usbip_vudc.injection import Plan

    session = request.config.stash[_SESSION]
    return Plan() if session.plan is None else session.plan


@pytest.fixture
def carried(
    request: pytest.FixtureRequest, udc: Carrier, gadget: Gadget, plan: Plan
) -> Iterator[Carried]:
    """The gadget on its UDC and its way to a host, a usbip_vudc.carrier.Carried, under the plan.

    Here are portal, sysfs, unplug() and wait_gone(), and device() and node() that plug it in again.
    """
    with _carried(request, udc, gadget, plan) as way:
        yield way


@pytest.fixture
def vudc_server(udc: Carrier, carried: Carried) -> VudcServer:
    """Our USB/IP server with the gadget: host, port and busids, for a client of your own."""
    from usbip_vudc.pytest_support import VudcServer
    from usbip_vudc.server import DEFAULT_HOST

    if carried.port is None:
        _skip(f"it needs our USB/IP server, and there is none on {udc}")
    return VudcServer(DEFAULT_HOST, carried.port, (carried.busid,))


@pytest.fixture
def usb_device(carried: Carried) -> usb.core.Device:
    """The gadget as an open, configured usb.core.Device: over our own backend, or over libusb."""
    return carried.device()


@pytest.fixture
def host(request: pytest.FixtureRequest, udc: Carrier, carried: Carried) -> BlockingHost:
    """The BlockingHost that has the gadget, enumerated and configured: URBs as you submit them.

    It is the one behind usb_device. Where the host is Linux itself there is none: skipped.
    """
    if udc.host != "pyusb":
        _skip(f"it needs a host of ours, and that of {udc} is Linux itself")
    carried.device()
    seams: Seams = request.node.stash[_SEAMS]
    assert seams.host is not None
    return seams.host


@pytest.fixture
def serial_gadget(gadget: Gadget, carried: Carried) -> SerialGadget:
    """A gadget with a serial port: .port, a UsbSerial; and on Linux .node(), its tty."""
    from usbip_vudc.pytest_support import SerialGadget

    return SerialGadget(gadget, carried)


@pytest.fixture
def storage_gadget(gadget: Gadget, carried: Carried) -> StorageGadget:
    """A gadget with a disk: .disk, a UsbStorage; and on Linux .node(), its block device."""
    from usbip_vudc.pytest_support import StorageGadget

    return StorageGadget(gadget, carried)


# --- what they are made of ---------------------------------------------------------------------


@contextmanager
def _carried(
    request: pytest.FixtureRequest, carrier: Carrier, gadget: Gadget, plan: Plan
) -> Iterator[Carried]:
    from usbip_vudc.seams import Seams

    _obey_markers(request, carrier)
    _look_ahead(request, carrier, gadget, plan)
    session = request.config.stash[_SESSION]
    seams = request.node.stash[_SEAMS] = Seams(plan)
    try:
        with seams.carried(gadget, carrier) as way:
            yield way
    finally:
        if plan is session.plan:
            session.fired.update(seams.fired())


def _look_ahead(
    request: pytest.FixtureRequest, carrier: Carrier, gadget: Gadget, plan: Plan
) -> None:
    """Skip what cannot be, and fail what should have been."""
    from usbip_vudc.errors import SchemeError
    from usbip_vudc.injection import check_plan
    from usbip_vudc.pytest_support import impossible, read_carrier
    from usbip_vudc.seams import out_of_reach

    why = out_of_reach(plan, carrier) or impossible(gadget, carrier)
    if why is not None:
        _skip(why)
    session = request.config.stash[_SESSION]
    why = carrier.why_not()
    if why is not None:
        was_asked_for = carrier == read_carrier(session.udc, gadget)
        (_fail if was_asked_for else _skip)(f"{carrier}: {why}")
    if plan is not session.plan:  # that one is for many gadgets; the summary tells what it did
        try:
            check_plan(plan, gadget)
        except SchemeError as error:
            why = f"the plan of this test: {error}"
            raise pytest.fail.Exception(why, pytrace=False) from None


def _obey_markers(request: pytest.FixtureRequest, carrier: Carrier) -> None:
    from usbip_vudc.carrier import OURS

    if request.node.get_closest_marker("needs_root") and os.geteuid():
        _skip("it needs root: run pytest as root")
    if request.node.get_closest_marker("kernel") and (carrier.udc, carrier.host) == (OURS, "pyusb"):
        _skip(
            f"it needs Linux's own USB, and {carrier} does without: run it as root with "
            f"--udc dummy_udc.0, --udc usbip-vudc.0 or --udc vudc:linux"
        )


def _skip(why: str) -> NoReturn:
    pytest.skip(f"DID NOT RUN: {why}")


def _fail(why: str) -> NoReturn:
    pytest.fail(why, pytrace=False)
