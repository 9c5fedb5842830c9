"""vhci_hcd's files are played by a fake that does what drivers/usb/usbip/vhci_sysfs.c does."""

from __future__ import annotations

import errno
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gadgets.presets import serial
from tests.fake_sysfs import files
from usbip_vudc import vhci
from usbip_vudc.host.handshake import ImportRefused
from usbip_vudc.registry import GadgetOptions
from usbip_vudc.serving import serving
from usbip_vudc.sysfs import SysfsError
from usbip_vudc.usb.ch9 import Speed
from usbip_vudc.vhci import (
    Attached,
    Hub,
    NotReady,
    Port,
    PortState,
    Remote,
    VhciError,
    attach,
    attach_remote,
    detach,
    detach_all,
    device_directory,
    dropped,
    ports,
    remote_of,
    wait_device,
    wait_dropped,
)

FREE = "{hub}  {number:04d} 004 000 00000000 000000 0-0"
HEADER = "hub port sta spd dev      sockfd local_busid"
PORTS = 2
"""On each hub: CONFIG_USBIP_VHCI_HC_PORTS. A distribution has 8 or 15."""


class FakeVhci:
    """Two controllers, as files. Writing to them does what the kernel does."""

    def __init__(self, root: Path) -> None:
        self.sysfs = root / "sys"
        self.records = root / "records"
        self.directory = files(self.sysfs / "devices/platform/vhci_hcd.0", attach="", detach="")
        self.rows: dict[int, str] = {}
        self.busy: set[int] = set()
        self.closes_at_once = False
        for controller in range(2):
            for hub, speed in enumerate(("480", "5000")):
                bus = 2 * controller + hub + 1
                files(self.root_hub(controller, bus), speed=speed)
        (self.directory / "usbip_debug").touch()
        for number in range(4 * PORTS):
            self.rows[number] = FREE.format(hub=self.hub(number), number=number)
        self.show()

    def root_hub(self, controller: int, bus: int) -> Path:
        return self.sysfs / f"devices/platform/vhci_hcd.{controller}/usb{bus}"

    @staticmethod
    def hub(number: int) -> str:
        return "hs" if number % (2 * PORTS) < PORTS else "ss"

    def set(self, number: int, row: str) -> None:
        self.rows[number] = f"{self.hub(number)}  {number:04d} {row}"
        self.show()

    def free(self, number: int) -> None:
        self.rows[number] = FREE.format(hub=self.hub(number), number=number)
        self.show()

    def show(self) -> None:
        per = 2 * PORTS
        for controller, name in enumerate(("status", "status.1")):
            rows = [self.rows[n] for n in range(controller * per, (controller + 1) * per)]
            (self.directory / name).write_text("\n".join((HEADER, *rows, "")))

    def write(self, path: Path, value: str | bytes) -> None:
        assert isinstance(value, str)
        assert path.parent == self.directory
        if path.name == "detach":
            number = int(value)
            if self.rows[number].split()[2] == "004":
                raise SysfsError(errno.EINVAL, path, value)
            return self.free(number)
        port, sockfd, devid, speed = map(int, value.split())
        # The speed picks the hub, the number only the place on it.
        number = port - port % (2 * PORTS) + port % PORTS + (PORTS if speed == 5 else 0)
        if number in self.busy:
            self.set(number, "006 003 00010002 000009 1-1")
            raise SysfsError(errno.EBUSY, path, value)
        if not self.closes_at_once:
            self.set(number, f"006 {speed:03d} {devid:08x} {sockfd:06d} 1-1")
        return None


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeVhci:
    made = FakeVhci(tmp_path)
    monkeypatch.setattr(vhci, "write_attribute", made.write)
    return made


@pytest.fixture
def cable() -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours


def plug_in(fake: FakeVhci, number: int) -> Path:
    """A configured device on a port."""
    device = device_directory(ports(sysfs=fake.sysfs)[number], sysfs=fake.sysfs)
    files(device, bNumInterfaces=" 1")
    files(device / f"{device.name}:1.0", bInterfaceNumber="00")
    return device


# --- reading ------------------------------------------------------------------------------------


def test_a_row_is_read_as_linux_writes_it(fake: FakeVhci) -> None:
    fake.set(5, "006 003 00010002 000004 3-2")
    assert ports(sysfs=fake.sysfs)[5] == Port(
        5, Hub.HS, PortState.USED, Speed.HIGH, 0x00010002, 4, "3-2", controller=1, rhport=1
    )


def test_all_controllers_ports_are_told(fake: FakeVhci) -> None:
    every = ports(sysfs=fake.sysfs)
    assert [p.number for p in every] == list(range(8))
    assert [p.hub.value for p in every] == ["hs", "hs", "ss", "ss"] * 2
    assert {p.state for p in every} == {PortState.FREE}


def test_a_device_is_found_by_its_place_whatever_its_row_says(fake: FakeVhci) -> None:
    found = [device_directory(p, sysfs=fake.sysfs) for p in ports(sysfs=fake.sysfs)]
    assert ["/".join(path.parts[-3:]) for path in found] == [
        "vhci_hcd.0/usb1/1-1", "vhci_hcd.0/usb1/1-2", "vhci_hcd.0/usb2/2-1",
        "vhci_hcd.0/usb2/2-2", "vhci_hcd.1/usb3/3-1", "vhci_hcd.1/usb3/3-2",
        "vhci_hcd.1/usb4/4-1", "vhci_hcd.1/usb4/4-2",
    ]  # fmt: skip


def test_a_missing_module_is_named_with_its_command(tmp_path: Path) -> None:
    with pytest.raises(VhciError, match="run: modprobe vhci-hcd"):
        ports(sysfs=tmp_path)


def test_a_status_without_hubs_is_refused(fake: FakeVhci) -> None:
    fake.rows[0] = "0000 004 000 00000000 0000000000000000 0-0"
    fake.show()
    with pytest.raises(VhciError, match=r"says '0000 004 .*expected hub, port"):
        ports(sysfs=fake.sysfs)


# --- attach -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("speed", "number"),
    [(Speed.LOW, 0), (Speed.FULL, 0), (Speed.HIGH, 0), (Speed.SUPER, 2)],
    ids=lambda value: getattr(value, "word", None),
)
def test_the_speed_picks_the_hub(
    fake: FakeVhci, cable: socket.socket, speed: Speed, number: int
) -> None:
    assert attach(cable, devid=0x00010002, speed=speed, sysfs=fake.sysfs) == number
    row = ports(sysfs=fake.sysfs)[number]
    assert (row.state, row.devid, row.sockfd) == (PortState.USED, 0x00010002, cable.fileno())


def test_ports_of_the_second_controller_come_when_the_first_is_full(
    fake: FakeVhci, cable: socket.socket
) -> None:
    taken = [attach(cable, devid=n, speed=Speed.SUPER, sysfs=fake.sysfs) for n in range(4)]
    assert taken == [2, 3, 6, 7]
    with pytest.raises(VhciError, match="every ss port of vhci_hcd is in use"):
        attach(cable, devid=9, speed=Speed.SUPER, sysfs=fake.sysfs)


def test_a_port_that_another_took_meanwhile_is_passed_over(
    fake: FakeVhci, cable: socket.socket
) -> None:
    fake.busy = {0, 1}
    assert attach(cable, devid=1, speed=Speed.HIGH, sysfs=fake.sysfs) == 4


def test_a_port_whose_last_device_is_still_leaving_comes_last(
    fake: FakeVhci, cable: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    plug_in(fake, 0)
    monkeypatch.setattr(vhci, "_LEAVING", 0.0)
    taken = [attach(cable, devid=n, speed=Speed.HIGH, sysfs=fake.sysfs) for n in range(4)]
    assert taken == [1, 4, 5, 0]


def test_a_port_is_not_taken_before_its_last_device_has_gone(
    fake: FakeVhci, cable: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = [plug_in(fake, number) for number in (0, 1, 4, 5)]
    write = fake.write

    def attached(path: Path, value: str | bytes) -> None:
        assert not old[0].exists(), "who waits for the new one would have been given the old one"
        write(path, value)

    monkeypatch.setattr(vhci, "write_attribute", attached)
    hub = threading.Timer(0.1, shutil.rmtree, (old[0],))
    hub.start()
    assert attach(cable, devid=1, speed=Speed.HIGH, sysfs=fake.sysfs) == 0
    hub.join()


def test_a_connection_that_is_lost_at_once_is_not_ready(
    fake: FakeVhci, cable: socket.socket
) -> None:
    fake.closes_at_once = True
    with pytest.raises(NotReady, match="port 0: the server closed the connection"):
        attach(cable, devid=1, speed=Speed.HIGH, sysfs=fake.sysfs)


@pytest.mark.parametrize("speed", [Speed.UNKNOWN, Speed.SUPER_PLUS])
def test_speeds_that_vhci_has_not_are_refused(
    fake: FakeVhci, cable: socket.socket, speed: Speed
) -> None:
    with pytest.raises(VhciError, match=f"no {speed.word}-speed device: low, full, high or super"):
        attach(cable, devid=1, speed=speed, sysfs=fake.sysfs)


# --- attach_remote and records ------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[int]:
    with serving(serial(GadgetOptions())) as port:
        yield port


def test_a_remote_device_is_noted_as_usbip_notes_it(fake: FakeVhci, server: int) -> None:
    attached = attach_remote("127.0.0.1", server, "1-1", sysfs=fake.sysfs, records=fake.records)
    assert attached == Attached(2, Remote("127.0.0.1", server, "1-1"), attached.device)
    assert (fake.records / "port2").read_text() == f"127.0.0.1 {server} 1-1\n"
    assert fake.records.stat().st_mode & 0o777 == 0o700
    assert remote_of(2, records=fake.records) == attached.remote
    assert detach(2, sysfs=fake.sysfs, records=fake.records)
    assert not fake.records.exists()


def test_a_refused_import_takes_no_port(fake: FakeVhci, server: int) -> None:
    with pytest.raises(ImportRefused, match="no such busid"):
        attach_remote("127.0.0.1", server, "9-9", sysfs=fake.sysfs, records=fake.records)
    assert {p.state for p in ports(sysfs=fake.sysfs)} == {PortState.FREE}
    assert not fake.records.exists()


def test_a_record_that_cannot_be_written_is_only_worth_a_warning(
    fake: FakeVhci, server: int, caplog: pytest.LogCaptureFixture
) -> None:
    fake.records.touch()  # a file where a directory should be
    assert attach_remote(
        "127.0.0.1", server, "1-1", sysfs=fake.sysfs, records=fake.records
    ).port == 2  # fmt: skip
    assert "port 2 works, but cannot be noted" in caplog.text


def test_who_is_not_root_hears_it_before_the_server_does(
    fake: FakeVhci, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(VhciError, match="run as root"):
        attach_remote("192.0.2.1", 3240, "1-1", sysfs=fake.sysfs)


@pytest.mark.parametrize("text", ["", "host 3240\n", "host port busid\n", "a 1 b c\n"])
def test_a_record_that_makes_no_sense_leads_nowhere(tmp_path: Path, text: str) -> None:
    (tmp_path / "port0").write_text(text)
    assert remote_of(0, records=tmp_path) is None
    assert remote_of(1, records=tmp_path) is None


# --- waiting ------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["006 003 00010002 000004 1-1", "005 000 00000000 000000 0-0"])
def test_a_configured_device_is_ready_in_state_5_too(fake: FakeVhci, state: str) -> None:
    fake.set(0, state)
    device = plug_in(fake, 0)
    assert wait_device(0, 5, sysfs=fake.sysfs) == device


def test_a_port_that_falls_free_is_not_waited_for(fake: FakeVhci) -> None:
    with pytest.raises(NotReady, match="port 0: the connection was lost"):
        wait_device(0, 60, sysfs=fake.sysfs)


def test_a_device_that_stays_unconfigured_is_told_from_one_that_never_came(fake: FakeVhci) -> None:
    fake.set(0, "006 003 00010002 000004 1-1")
    with pytest.raises(NotReady, match="was not enumerated after 0 s"):
        wait_device(0, 0, sysfs=fake.sysfs)
    files(device_directory(ports(sysfs=fake.sysfs)[0], sysfs=fake.sysfs), bNumInterfaces="")
    with pytest.raises(NotReady, match="has no configuration after 0 s"):
        wait_device(0, 0, sysfs=fake.sysfs)


def test_a_drop_is_told_from_a_detach_by_the_record(fake: FakeVhci, server: int) -> None:
    for drops in (True, False):
        attached = attach_remote(
            "127.0.0.1", server, "1-1", sysfs=fake.sysfs, records=fake.records
        )  # fmt: skip
        if drops:
            fake.free(attached.port)
        else:
            detach(attached.port, sysfs=fake.sysfs, records=fake.records)
        assert wait_dropped(attached, sysfs=fake.sysfs, records=fake.records) is drops


def test_a_port_that_another_took_between_two_looks_is_lost(fake: FakeVhci, server: int) -> None:
    where = {"sysfs": fake.sysfs, "records": fake.records}
    ours = attach_remote("127.0.0.1", server, "1-1", **where)
    assert not dropped(ours, **where)
    fake.free(ours.port)
    fake.set(ours.port, "006 005 00020003 000007 2-1")
    (fake.records / f"port{ours.port}").write_text("elsewhere 3240 2-1\n")
    assert dropped(ours, **where)
    assert wait_dropped(ours, **where)


# --- detach -------------------------------------------------------------------------------------


def test_a_free_port_need_not_be_detached(fake: FakeVhci) -> None:
    assert detach(0, sysfs=fake.sysfs, records=fake.records) is False


def test_a_port_that_does_not_exist_is_named_with_those_that_do(fake: FakeVhci) -> None:
    with pytest.raises(VhciError, match="port 8 does not exist: vhci_hcd has 0 to 7"):
        detach(8, sysfs=fake.sysfs)


def test_detach_waits_for_the_device_to_go(fake: FakeVhci) -> None:
    fake.set(0, "006 003 00010002 000004 1-1")
    plug_in(fake, 0)
    with pytest.raises(VhciError, match="port 0 is not free 0 s after it was detached"):
        detach(0, 0, sysfs=fake.sysfs, records=fake.records)


def test_detach_does_not_wait_for_whoever_came_since(
    fake: FakeVhci, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.set(0, "006 003 00010002 000004 1-1")
    old = plug_in(fake, 0)

    def detached(path: Path, value: str | bytes) -> None:
        fake.write(path, value)
        old.rename(old.with_name("gone"))  # so that its number is not given out again
        fake.set(0, "006 003 00010002 000004 1-1")
        fake.records.mkdir()
        (fake.records / "port0").write_text("elsewhere 3240 1-1\n")
        plug_in(fake, 0)

    monkeypatch.setattr(vhci, "write_attribute", detached)
    assert detach(0, 0, sysfs=fake.sysfs, records=fake.records)


def test_detach_all_takes_those_in_use_and_leaves_other_records(fake: FakeVhci) -> None:
    fake.set(1, "005 000 00000000 000000 0-0")
    fake.set(6, "006 005 00010002 000004 4-1")
    fake.records.mkdir()
    for number in (1, 6, 99):
        (fake.records / f"port{number}").write_text("127.0.0.1 3240 1-1\n")
    assert detach_all(sysfs=fake.sysfs, records=fake.records) == (1, 6)
    assert [path.name for path in fake.records.iterdir()] == ["port99"]
