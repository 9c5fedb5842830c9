"""A gadget carried to a host: the value, what a machine lacks, and the way there and back."""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import anyio
import anyio.abc
import pytest
import usb.core

from tests.devices import Scripted, echo, gadget
from tests.fake_sysfs import add_device, add_interface, files
from usbip_vudc import registry, vhci
from usbip_vudc.carrier import (
    OURS,
    Carrier,
    CarrierError,
    OwnBus,
    carried,
    device_end,
    host_end,
)
from usbip_vudc.errors import SchemeError, SoftDisconnect
from usbip_vudc.exportable import Export, Exportable
from usbip_vudc.function import Endpoint
from usbip_vudc.gadget import Gadget
from usbip_vudc.host.blocking import BlockingHost
from usbip_vudc.settle import NotReady
from usbip_vudc.usb.ch9 import Speed

IN, OUT = 0x81, 0x01

HIGH, SUPER = Speed.HIGH, Speed.SUPER

VUDC = Carrier("usbip-vudc.0", HIGH)
DUMMY = Carrier("dummy_udc.0", SUPER, "linux")


# --- the value ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "carrier"),
    [
        ("vudc", Carrier(OURS, SUPER, "pyusb")),
        ("vudc,low", Carrier(OURS, Speed.LOW, "pyusb")),
        ("vudc,linux,high", Carrier(OURS, HIGH, "linux")),
        ("usbip-vudc.0", Carrier("usbip-vudc.0", HIGH, "pyusb")),
        ("usbip-vudc.3, linux", Carrier("usbip-vudc.3", HIGH, "linux")),
        ("dummy_udc.0", Carrier("dummy_udc.0", SUPER, "linux")),
        ("dummy_udc.0,high,stub", Carrier("dummy_udc.0", HIGH, "linux", stub=True)),
        ("dummy_udc.0,stub,pyusb", Carrier("dummy_udc.0", SUPER, "pyusb", stub=True)),
        ("fe980000.usb", Carrier("fe980000.usb", SUPER, "linux")),
    ],
)
def test_the_text_form_says_what_is_left_out(text: str, carrier: Carrier, tmp_path: Path) -> None:
    assert Carrier.parse(text, sysfs=tmp_path) == carrier
    assert Carrier.parse(str(carrier)) == carrier


@pytest.mark.parametrize(
    ("word", "speed"), [("high-speed", HIGH), ("super-speed", SUPER), ("super-speed-plus", SUPER)]
)
def test_a_udc_is_taken_at_its_maximum_speed(word: str, speed: Speed, tmp_path: Path) -> None:
    files(tmp_path / "class/udc/fe980000.usb", maximum_speed=word)
    assert Carrier.parse("fe980000.usb", sysfs=tmp_path).speed == speed


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("vudc,fast", "'fast' is unknown; expected low, full, high, super, pyusb, linux, stub"),
        ("vudc,high,low", "'low': its speed is given already"),
        ("", "udc '': expected vudc, or a UDC's name"),
        ("a/b", "udc 'a/b'"),
    ],
)
def test_a_text_that_is_no_carrier_is_refused_by_its_word(text: str, why: str) -> None:
    with pytest.raises(SchemeError, match=why):
        Carrier.parse(text)


def test_a_carrier_has_a_speed_and_a_host_that_there_are() -> None:
    with pytest.raises(SchemeError, match=r"speed 'super-plus': expected one of low, .*super"):
        Carrier(speed=Speed.SUPER_PLUS)
    with pytest.raises(SchemeError, match="host 'windows': expected one of pyusb, linux"):
        Carrier(host="windows")


# --- what a machine lacks -----------------------------------------------------------------------


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Root of a machine with every module."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(registry, "KERNEL_UDC", f"{__name__}:FakeUDC")
    files(tmp_path / "class/udc/usbip-vudc.0", maximum_speed="high-speed", function="")
    files(tmp_path / "class/udc/dummy_udc.0", maximum_speed="super-speed", function="")
    for directory in (
        "kernel/config/usb_gadget", "devices/platform/vhci_hcd.0", "bus/usb/drivers/usbip-host",
    ):  # fmt: skip
        files(tmp_path / directory)
    return tmp_path


@pytest.mark.parametrize(
    "text",
    [
        "vudc", "vudc,low", "vudc,linux", "usbip-vudc.0", "usbip-vudc.0,linux", "dummy_udc.0,high",
        "dummy_udc.0", "dummy_udc.0,stub", "dummy_udc.0,stub,pyusb",
    ],
)  # fmt: skip
def test_a_machine_with_everything_lacks_nothing(text: str, machine: Path) -> None:
    assert Carrier.parse(text, sysfs=machine).why_not(sysfs=machine) is None


def test_our_own_udc_and_host_need_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert Carrier().why_not(sysfs=tmp_path) is None


@pytest.mark.parametrize(
    ("gone", "text", "why"),
    [
        ("class/udc/usbip-vudc.0", "usbip-vudc.0", "run: modprobe usbip-vudc num=1$"),
        ("", "dummy_udc.1", "no UDC dummy_udc.1; run: modprobe dummy_hcd is_super_speed=1 num=2$"),
        ("", "fe980000.usb", "no UDC fe980000.usb; there are dummy_udc.0, usbip-vudc.0$"),
        ("class/udc", "fe980000.usb", "this machine has none; run: modprobe usbip-vudc$"),
        ("devices/platform/vhci_hcd.0", "vudc,linux", "run: modprobe vhci-hcd$"),
        ("devices/platform/vhci_hcd.0", "dummy_udc.0,stub", "run: modprobe vhci-hcd$"),
        ("bus/usb/drivers/usbip-host", "dummy_udc.0,stub,pyusb", "run: modprobe usbip-host$"),
        ("kernel/config/usb_gadget", "dummy_udc.0", "mount -t configfs none .*modprobe libcompos"),
    ],
)
def test_what_is_not_loaded_is_named_with_its_command(
    gone: str, text: str, why: str, machine: Path
) -> None:
    if gone:
        (machine / gone).rename(machine / "gone")
    assert re.search(why, str(Carrier.parse(text, sysfs=machine).why_not(sysfs=machine)))


@pytest.mark.parametrize(
    ("carrier", "why"),
    [
        (Carrier("usbip-vudc.0", SUPER), "goes up to high speed, not super: write usbip-vudc.0,hi"),
        (Carrier("dummy_udc.0", Speed.LOW, "linux"), "low speed forbids: take --udc vudc"),
        (Carrier("dummy_udc.0"), "write dummy_udc.0,linux or dummy_udc.0,stub,pyusb"),
        (Carrier("usbip-vudc.0", HIGH, stub=True), "is on none: leave `stub` out"),
        (Carrier(stub=True), "is on none: leave `stub` out"),
    ],
)
def test_what_no_machine_can_do_says_why(carrier: Carrier, why: str, machine: Path) -> None:
    assert why in str(carrier.why_not(sysfs=machine))


def test_dummy_hcd_may_have_been_loaded_without_superspeed(machine: Path) -> None:
    files(machine / "class/udc/dummy_udc.0", maximum_speed="high-speed")
    assert "modprobe dummy_hcd is_super_speed=1" in str(DUMMY.why_not(sysfs=machine))


def test_a_udc_that_has_a_gadget_is_taken(machine: Path) -> None:
    files(machine / "class/udc/dummy_udc.0", function="printer")
    assert "taken by gadget printer: usbip-vudc down printer" in str(DUMMY.why_not(sysfs=machine))


@pytest.mark.parametrize("carrier", [VUDC, DUMMY, Carrier(host="linux")], ids=str)
def test_the_kernels_side_is_roots(
    carrier: Carrier, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "run as root" in str(carrier.why_not(sysfs=machine))
    with pytest.raises(CarrierError, match=f"^{carrier}: .*run as root"), carried(ours(), carrier):
        pass


def test_a_package_that_is_missing_is_named(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "KERNEL_UDC", "no_such_package.udc:KernelUDC")
    said = DUMMY.why_not(sysfs=machine)
    assert said == "no_such_package is not installed; run: pip install 'usbip-vudc[kernel]'"


# --- there and back -----------------------------------------------------------------------------


def ours() -> Gadget:
    return gadget(Scripted(echo))


def exchange(device: usb.core.Device, data: bytes) -> None:
    assert device.write(OUT, data) == len(data)
    assert device.read(IN, 512).tobytes() == data


def test_what_is_carried_is_a_pyusb_device() -> None:
    with carried(ours(), Carrier(speed=HIGH)) as way:
        device = way.device()
        assert device.speed == usb.util.SPEED_HIGH
        exchange(device, b"there and back")
        assert way.device() is device
        assert way.busid == "1-1"


def test_a_device_is_enumerated_once_by_its_host() -> None:
    function = Scripted(echo)
    with carried(gadget(function), Carrier()) as way:
        exchange(way.device(), b"first")
        exchange(way.device(), b"second")
    assert (function.lives, function.ended) == (1, 1)


def test_the_functions_run_in_the_thread_of_the_portal() -> None:
    threads: list[int] = []

    async def script(endpoints: Mapping[str, Endpoint]) -> None:
        threads.append(threading.get_ident())
        await echo(endpoints)

    with carried(gadget(Scripted(script)), Carrier()) as way:
        exchange(way.device(), b"hello")
        assert threads == [way.portal.call(threading.get_ident)]


def test_a_device_that_was_unplugged_is_plugged_in_again() -> None:
    with carried(ours(), Carrier()) as way:
        first = way.device()
        exchange(first, b"before")
        way.unplug()
        way.wait_gone()
        second = way.device()
        assert second is not first
        exchange(second, b"after")


def leaving(seconds: float) -> Scripted:
    """A function that leaves the bus when it is first sent something."""

    async def leave(endpoints: Mapping[str, Endpoint]) -> None:
        await endpoints["out"].submit(bytearray(512))
        made.script = echo
        raise SoftDisconnect(seconds)

    made = Scripted(leave)
    return made


def test_a_device_that_leaves_the_bus_by_itself_comes_back() -> None:
    with carried(gadget(leaving(0.05)), Carrier()) as way:
        way.device().write(OUT, b"leave")
        way.wait_gone()
        exchange(way.device(), b"back")


def test_a_device_that_stays_away_is_not_waited_for_for_ever() -> None:
    with carried(gadget(leaving(3600)), Carrier()) as way:
        way.device().write(OUT, b"leave")
        way.wait_gone()
        with pytest.raises(NotReady, match=r"1-1 after 0\.01 s"):
            way.device(0.01)


def test_a_device_that_its_user_disposed_of_is_opened_anew() -> None:
    with carried(ours(), Carrier()) as way:
        first = way.device()
        usb.util.dispose_resources(first)
        assert way.device() is not first
        exchange(way.device(), b"again")


def test_export_wraps_what_the_server_has() -> None:
    given: list[Exportable] = []

    def wrapped(export: Exportable) -> Exportable:
        assert isinstance(export, Export)
        given.append(export)
        return Export(7, export.udc)

    with carried(ours(), Carrier(), export=wrapped) as way:
        assert [export.busid for export in given] == ["1-1"]
        assert way.busid == "1-7"
        exchange(way.device(), b"wrapped")


def test_connect_makes_the_host_of_each_import() -> None:
    calls: list[tuple[str, int, str]] = []

    def connect(host: str, port: int, busid: str) -> BlockingHost:
        calls.append((host, port, busid))
        return BlockingHost(host, port, busid)

    with carried(ours(), Carrier(), connect=connect) as way:
        exchange(way.device(), b"one")
        assert calls == [("127.0.0.1", way.port, "1-1")]
        way.unplug()
        exchange(way.device(), b"two")
        assert len(calls) == 2


def test_our_own_host_has_no_nodes() -> None:
    with carried(ours(), Carrier()) as way:
        with pytest.raises(CarrierError, match="carry it to host linux"):
            way.node("ttyACM")
        with pytest.raises(CarrierError, match="carry it to host linux"):
            assert way.sysfs


# --- whatever happens, nothing is left ------------------------------------------------------------


@pytest.fixture
def nothing_left() -> Iterator[None]:
    before = held()
    yield
    assert held() == before


def held() -> tuple[int, int]:
    """Threads and open files of this process."""
    return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_all_is_undone_after_an_error(error: type[BaseException]) -> None:
    function = Scripted(echo)
    with pytest.raises(error), carried(gadget(function), Carrier()) as way:
        exchange(way.device(), b"busy")
        raise error
    assert function.lives == function.ended
    assert way.port is not None
    with socket.socket() as sock:
        assert sock.connect_ex(("127.0.0.1", way.port))


@pytest.mark.usefixtures("nothing_left")
def test_a_gadget_that_cannot_exist_so_leaves_nothing() -> None:
    slow = gadget(Scripted(echo), max_speed=HIGH)
    with pytest.raises(SchemeError, match="super is not available"), carried(slow, Carrier()):
        pass


@pytest.mark.usefixtures("nothing_left")
def test_what_a_carrier_has_no_place_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Carrier, "why_not", lambda _: None)
    linux = carried(ours(), Carrier(host="linux"), connect=BlockingHost)
    with pytest.raises(SchemeError, match=r"connect: .* expected host pyusb"), linux:
        pass
    direct = carried(ours(), DUMMY, export=lambda export: export)
    with (
        pytest.raises(SchemeError, match=r"export: dummy_udc\.0,super,linux has no server"),
        direct,
    ):
        pass


# --- a UDC of the kernel, without a kernel --------------------------------------------------------


class FakeUDC:
    """What KernelUDC is to the room. ``log`` is all that was done to any of them."""

    log: ClassVar[list[str]] = []

    def __init__(self, gadget: Gadget, controller: str) -> None:
        self.name = controller
        self._what = f"{gadget.name} at {gadget.max_speed.word} on {controller}"
        self.stop = anyio.Event()
        self.failure: Exception | None = None

    async def run(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        self.log.append(f"bind {self._what}")
        task_status.started()
        await self.stop.wait()
        self.log.append("unbind")
        if self.failure is not None:
            raise self.failure

    def unplug(self) -> None:
        self.stop.set()

    async def fail(self, error: Exception) -> None:
        self.failure = error
        self.stop.set()


BOARD = Carrier("fe980000.usb", HIGH, "linux")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    FakeUDC.log.clear()
    monkeypatch.setattr(Carrier, "why_not", lambda _: None)
    monkeypatch.setattr(registry, "KERNEL_UDC", f"{__name__}:FakeUDC")
    monkeypatch.setattr(OwnBus, "find", lambda _: None)
    return FakeUDC.log


@pytest.mark.usefixtures("nothing_left")
def test_a_kernels_udc_has_the_carriers_speed_and_is_bound_anew_after_an_unplug(
    fake: list[str],
) -> None:
    bound = "bind test at high on fe980000.usb"
    with device_end(ours(), BOARD) as end:
        end.plug()
        assert fake == [bound]
        end.unplug()
        end.unplug()
        assert fake == [bound, "unbind"]
        end.plug()
        assert fake == [bound, "unbind", bound]
    assert fake == [bound, "unbind"] * 2


@pytest.mark.usefixtures("nothing_left")
def test_what_ended_a_kernels_udc_is_raised(fake: list[str]) -> None:
    with device_end(ours(), BOARD) as end:
        assert isinstance(end.udc, FakeUDC)
        end.portal.call(end.udc.fail, OSError("the kernel took it away"))
        with pytest.raises(OSError, match="took it away"):
            end.unplug()
        end.plug()
    assert fake.count("unbind") == 2
    with pytest.raises(OSError, match="took it away"), device_end(ours(), BOARD) as end:
        assert isinstance(end.udc, FakeUDC)
        end.portal.call(end.udc.fail, OSError("the kernel took it away"))


@pytest.mark.usefixtures("fake", "nothing_left")
def test_a_gadget_is_not_carried_faster_than_it_is() -> None:
    slow = gadget(Scripted(echo), max_speed=Speed.FULL)
    with (
        pytest.raises(SchemeError, match="speed high is not available; expected full at most"),
        device_end(slow, BOARD),
    ):
        pass


# --- a bus of this machine ------------------------------------------------------------------------

IDS = (0x1D6B, 0x0104)


def on_bus(sysfs: Path, path: str, *, ids: tuple[int, int] = IDS, configured: bool = True) -> Path:
    device = add_device(
        sysfs, path, idVendor=f"{ids[0]:04x}", idProduct=f"{ids[1]:04x}",
        bNumInterfaces=" 1" if configured else "",
    )  # fmt: skip
    if configured:
        add_interface(device, 0)
    return device


def test_dummy_hcds_device_is_found_on_the_root_hub_of_its_speed(tmp_path: Path) -> None:
    for number, mbit in ((17, "480"), (18, "5000")):
        files(tmp_path / f"devices/platform/dummy_hcd.0/usb{number}", speed=mbit)
    high = OwnBus("dummy_udc.0", HIGH, IDS, sysfs=tmp_path)
    both = (high, OwnBus("dummy_udc.0", SUPER, IDS, sysfs=tmp_path))
    assert [bus.find() for bus in both] == [None, None]
    device = on_bus(tmp_path, "platform/dummy_hcd.0/usb17/17-1")
    assert [bus.find() for bus in both] == [device, None]
    assert high.wait(0) == device


def test_a_boards_device_is_found_by_its_ids_where_it_is_not_vhcis(tmp_path: Path) -> None:
    bus = OwnBus("fe980000.usb", HIGH, IDS, sysfs=tmp_path)
    on_bus(tmp_path, "platform/vhci_hcd.0/usb1/1-1")
    on_bus(tmp_path, "pci0/usb3/3-1", ids=(0x1D6B, 0x0002))
    with pytest.raises(NotReady, match=r"high-speed device of fe980000\.usb has not .* a cable"):
        bus.wait(0)
    device = on_bus(tmp_path, "pci0/usb3/3-2", configured=False)
    with pytest.raises(NotReady, match="is not configured"):
        bus.wait(0)
    with pytest.raises(NotReady, match="3-2 is still there"):
        bus.wait_gone(0)
    (device / "driver").symlink_to("/sys/bus/usb/drivers/usbip-host")
    assert bus.wait(0) == device, "it has no configuration until its host has selected one"


# --- Linux as the host: vhci_hcd's part is played by what it says --------------------------------


def test_a_device_that_leaves_between_two_looks_is_attached_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    lost = iter((False, True))

    def attach_remote(host: str, tcp_port: int, busid: str) -> vhci.Attached:
        said.append("attach")
        assert end.exported is not None
        remote = vhci.Remote(host, tcp_port, busid)
        return vhci.Attached(said.count("attach"), remote, end.exported.device())

    def wait_device(port: int, _timeout: float) -> Path:
        said.append(f"wait {port}")
        if said.count(f"wait {port}") == 2:
            raise NotReady("the connection was lost before the device was ready")
        return Path(f"/sys/devices/{port}")

    monkeypatch.setattr(vhci, "attach_remote", attach_remote)
    monkeypatch.setattr(vhci, "wait_device", wait_device)
    monkeypatch.setattr(vhci, "dropped", lambda _: next(lost))
    monkeypatch.setattr(vhci, "remote_of", lambda _: None)
    monkeypatch.setattr(vhci, "detach", lambda port: said.append(f"detach {port}"))
    monkeypatch.setattr(Carrier, "why_not", lambda _: None)
    carrier = Carrier(OURS, HIGH, "linux")
    with (
        device_end(gadget(Scripted(echo, alternates=1)), carrier) as end,
        host_end(carrier, end) as host,
    ):
        host.plug()
        host.plug()  # it was there, and goes while it is looked at
        assert host.sysfs == Path("/sys/devices/2")
    assert said == ["attach", "wait 1", "wait 1", "detach 1", "attach", "wait 2", "detach 2"]
