"""A function that takes its gadget off the kernel's bus for a while, from either kind of process.

That its run and its requests end with that is a claim of the conformance suite.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import anyio
import anyio.abc
import pytest
from anyio.from_thread import start_blocking_portal

from configfs.records import records
from configfs.transaction import GADGETS, ConfigfsError, ConfigfsGadget
from configfs.udc import KernelUDC
from tests.devices import Scripted, gadget
from tests.kernel.carriers import DUMMY_HIGH, MODULES, VUDC, wait_for
from tests.kernel.conftest import left_behind
from tests.kernel.usbfs import usbfs
from usbip_vudc.carrier import PATIENCE, OwnBus, carried
from usbip_vudc.errors import SoftDisconnect
from usbip_vudc.function import Endpoint
from usbip_vudc.gadget import Config, Gadget, KernelFunction
from usbip_vudc.sysfs import read_attribute

pytestmark = pytest.mark.kernel

AN_HOUR: Final = 3600.0

TREE: Final = ConfigfsGadget(GADGETS / "test")
BUS: Final = OwnBus(DUMMY_HIGH.udc, DUMMY_HIGH.speed, (0x1D6B, 0x0104))


@pytest.fixture(scope="module", autouse=True)
def modules(need_modules: Callable[..., None]) -> None:
    need_modules(*MODULES)


async def obey(endpoints: Mapping[str, Endpoint]) -> None:
    """Echo, but leave the bus for as many seconds as ``leave N`` says."""
    buffer = bytearray(512)
    while True:
        said = bytes(buffer[: await endpoints["out"].submit(buffer)])
        if said.startswith(b"leave "):
            raise SoftDisconnect(float(said.split()[1]))
        await endpoints["in"].submit(said)


@contextmanager
def bound(user: str | None = None) -> Iterator[dict[str, Callable[[], None]]]:
    """The gadget on dummy_hcd; yields what ends it: unplug, and cancel, as Ctrl-C does."""
    description = gadget(Scripted(obey, alternates=1), max_speed=DUMMY_HIGH.speed)
    udc = KernelUDC(description, DUMMY_HIGH.udc, user=user)
    with start_blocking_portal() as portal:
        scope = portal.call(anyio.CancelScope)

        async def run(*, task_status: anyio.abc.TaskStatus[None]) -> None:
            with scope:
                await udc.run(task_status=task_status)

        future, _ = portal.start_task(run)
        try:
            yield {
                "cancel": lambda: portal.call(scope.cancel),
                "unplug": lambda: portal.call(udc.unplug),
            }
        finally:
            portal.call(scope.cancel)
            future.result(PATIENCE)


def say(device: Path, data: bytes) -> None:
    with usbfs(device) as host:
        host.claim()
        assert host.write(data) == len(data)
        if not data.startswith(b"leave "):
            assert host.read(512) == data


def leave_and_return(device: Path, seconds: bytes) -> None:
    before = number(device)
    say(device, b"leave " + seconds)
    wait_for(lambda: number(device) not in ("", before), "a new device")


def number(device: Path) -> str:
    """What each enumeration gives anew; empty while there is no device."""
    with suppress(OSError):
        return read_attribute(device / "devnum")
    return ""


def state() -> tuple[list[str], int, set[str]]:
    """What could leak each time that a gadget leaves."""
    files = []
    for path in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # of the directory itself
            files.append(str(path.readlink()))
    return sorted(files), threading.active_count(), left_behind()


@pytest.mark.parametrize("user", [None, "nobody"])
def test_it_comes_back_each_time_and_nothing_leaks(user: str | None) -> None:
    with bound(user):
        device = BUS.wait()
        states = []
        for pause in (b"0", b"0.05", b"0", b"0.2"):
            say(device, b"here")
            states.append(state())
            leave_and_return(device, pause)
            device = BUS.wait()
        say(device, b"here")
        assert states.count(states[0]) == len(states)
    assert records() == ()


@pytest.mark.parametrize(
    ("user", "end"), [(None, "cancel"), (None, "unplug"), ("nobody", "cancel")]
)
def test_an_end_during_the_pause_leaves_nothing(user: str | None, end: str) -> None:
    before = state()
    with bound(user) as ends:
        say(BUS.wait(), b"leave %g" % AN_HOUR)
        wait_for(lambda: not TREE.udc, "unbound")
        BUS.wait_gone()
        assert TREE.exists
        ends[end]()
        wait_for(lambda: not TREE.exists, "removed")
    assert records() == ()
    assert state() == before


def test_a_controller_that_somebody_took_during_the_pause_is_the_end() -> None:
    port = Config(functions=(KernelFunction(driver="acm"),))
    description = Gadget(name="other", idVendor=0x1D6B, idProduct=0x0104, configs=(port,))
    other = ConfigfsGadget.create(description)
    taken = rf"{DUMMY_HIGH.udc} is taken: usbip-vudc down other"
    try:
        with pytest.raises(ConfigfsError, match=taken), bound():
            say(BUS.wait(), b"leave 2")
            wait_for(lambda: not TREE.udc, "unbound")
            other.bind(DUMMY_HIGH.udc)
            wait_for(lambda: not TREE.exists, "removed")
    finally:
        other.remove()
    assert records() == ()


def test_a_gadget_that_somebody_else_binds_anew_begins_anew() -> None:
    function = Scripted(alternates=1)

    def rebind() -> None:
        TREE.unbind()
        TREE.bind(VUDC.udc)

    with carried(gadget(function), VUDC) as device:
        # In the thread of its functions: they see neither before both have happened.
        device.portal.call(rebind)
        wait_for(lambda: function.ended == 1, "the end of its life, though no host has come")
        assert function.lives == 1
