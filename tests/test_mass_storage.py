"""The mass-storage function end to end: CBWs by hand, over the userspace UDC and its cable."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio.from_thread
import pytest

from gadgets.mass_storage import FileLun, Lun, MassStorageFunction, MediumEvent, RamLun
from gadgets.mass_storage.stores import PatternLun
from usbip_vudc.errors import SchemeError, UrbError
from usbip_vudc.gadget import Config, Gadget
from usbip_vudc.host.blocking import BlockingHost
from usbip_vudc.server import Server
from usbip_vudc.urb import HostUrb
from usbip_vudc.usb.bot import Cbw, Csw
from usbip_vudc.usb.ch9 import SetupPacket, Speed
from usbip_vudc.vudc import UserspaceUDC

IN, OUT = 0x81, 0x01
DEADLINE = 10.0
MIB = 1 << 20


class Disk:
    """The host's side of one Bulk-Only interface, with nothing done for you."""

    def __init__(self, host: BlockingHost) -> None:
        self.host = host
        self.tag = 0
        host.control(SetupPacket(0x00, 9, 1))  # SET_CONFIGURATION

    def send(self, data: bytes) -> int:
        return self.host.transfer(HostUrb(OUT, data), DEADLINE)

    def receive(self, length: int, timeout: float = DEADLINE) -> bytes:
        buffer = bytearray(length)
        actual = self.host.transfer(HostUrb(IN, buffer), timeout)
        return bytes(buffer[:actual])

    def cbw(self, cdb: bytes, length: int = 0, *, is_in: bool = True, lun: int = 0) -> None:
        self.tag += 1
        self.send(Cbw(self.tag, length, 0x80 if is_in and length else 0, lun, cdb).pack())

    def csw(self) -> tuple[int, int]:
        """(residue, status) of a CSW that belongs to the last CBW."""
        csw = Csw.parse(self.receive(13))
        assert csw.dCSWTag == self.tag
        return csw.dCSWDataResidue, csw.bCSWStatus

    def none(self, cdb: bytes, *, lun: int = 0) -> int:
        self.cbw(cdb, lun=lun)
        residue, status = self.csw()
        assert residue == 0
        return status

    def read(self, cdb: bytes, length: int, *, lun: int = 0) -> tuple[bytes, int, int]:
        """(data, residue, status) of a command with an IN data stage."""
        self.cbw(cdb, length, lun=lun)
        data = b""
        try:
            data = self.receive(length)
        except UrbError as error:
            assert error.errno == errno.EPIPE
            self.clear_halt(IN)
        try:
            residue, status = self.csw()
        except UrbError as error:
            assert error.errno == errno.EPIPE
            self.clear_halt(IN)
            residue, status = self.csw()
        return data, residue, status

    def write(self, cdb: bytes, data: bytes, *, lun: int = 0) -> tuple[int, int]:
        self.cbw(cdb, len(data), is_in=False, lun=lun)
        try:
            self.send(data)
        except UrbError as error:
            assert error.errno == errno.EPIPE
            self.clear_halt(OUT)
        return self.csw()

    def sense(self, *, lun: int = 0) -> tuple[int, int, int]:
        data, residue, status = self.read(bytes.fromhex("030000001200"), 18, lun=lun)
        assert (residue, status) == (0, 0)
        return data[2], data[12], data[13]

    def attend(self, *, lun: int = 0) -> None:
        """Hear the UNIT ATTENTION of power on."""
        assert self.none(bytes(6), lun=lun) == 1
        assert self.sense(lun=lun) == (6, 0x29, 0)

    def clear_halt(self, endpoint: int) -> None:
        self.host.control(SetupPacket(0x02, 1, 0, endpoint, 0))

    def halted(self, endpoint: int) -> bool:
        return self.host.control(SetupPacket(0x82, 0, 0, endpoint, 2)) != b"\0\0"

    def reset(self) -> None:
        """Bulk-Only Mass Storage Reset alone (BOT 3.1)."""
        self.host.control(SetupPacket(0x21, 0xFF))

    def recover(self) -> None:
        """Reset recovery (BOT 5.3.4)."""
        self.reset()
        self.clear_halt(IN)
        self.clear_halt(OUT)

    def max_lun(self) -> int:
        return self.host.control(SetupPacket(0xA1, 0xFE, 0, 0, 1))[0]


@contextlib.contextmanager
def plugged(
    *luns: Lun, speed: Speed = Speed.HIGH, function: MassStorageFunction | None = None
) -> Iterator[Disk]:
    """A disk of these units, served from another thread."""
    function = function or MassStorageFunction(luns)
    gadget = Gadget(
        name="disk", idVendor=0x0525, idProduct=0xA4A5, configs=(Config(functions=(function,)),)
    )
    udc = UserspaceUDC(gadget, speed=speed)
    device = Server([udc]).exports[0].device()
    near, far = socket.socketpair()
    far.setblocking(False)
    with anyio.from_thread.start_blocking_portal() as portal:
        served = portal.start_task_soon(udc.plug, far)
        with BlockingHost.on_socket(near, device) as host:
            yield Disk(host)
        served.result(DEADLINE)


def read10(lba: int, blocks: int) -> bytes:
    return struct.pack(">BBIBHB", 0x28, 0, lba, 0, blocks, 0)


def write10(lba: int, blocks: int, flags: int = 0) -> bytes:
    return struct.pack(">BBIBHB", 0x2A, flags, lba, 0, blocks, 0)


def pattern(length: int) -> bytes:
    return b"".join(n.to_bytes(4, "big") for n in range(length // 4))


@pytest.fixture
def lun() -> RamLun:
    return RamLun(4 * MIB)


@pytest.fixture
def disk(lun: RamLun) -> Iterator[Disk]:
    with plugged(lun) as disk:
        disk.attend()
        yield disk


# --- a host attaches ---------------------------------------------------------------------------


@pytest.mark.parametrize("speed", [Speed.FULL, Speed.HIGH, Speed.SUPER])
def test_linux_attaches(tmp_path: Path, speed: Speed) -> None:
    lun = FileLun(tmp_path / "disk.img", create_size=MIB, removable=True)
    with lun, plugged(lun, speed=speed) as disk:
        assert disk.max_lun() == 0
        data, residue, status = disk.read(bytes.fromhex("120000002400"), 36)
        assert (data[:5].hex(), len(data), residue, status) == ("008006021f", 36, 0, 0)
        disk.attend()
        assert disk.none(bytes(6)) == 0
        assert disk.read(bytes.fromhex("25") + bytes(9), 8) == (
            bytes.fromhex("000007ff00000200"), 0, 0,
        )  # fmt: skip
        assert disk.read(read10(0, 8), 4096) == (bytes(4096), 0, 0)
        data, residue, status = disk.read(bytes.fromhex("1a003f00c000"), 192)
        assert (len(data), residue, status) == (60, 192 - 60, 0)
        assert disk.read(bytes.fromhex("1a0008000400"), 4) == (bytes.fromhex("17001000"), 0, 0)
        assert disk.none(bytes.fromhex("1e0000000100")) == 0
        assert disk.none(bytes.fromhex("35") + bytes(9)) == 0
        assert disk.none(bytes.fromhex("1e0000000000")) == 0
        assert disk.none(bytes.fromhex("1b0000000200")) == 0
        assert disk.none(bytes(6)) == 1
        assert disk.sense() == (2, 0x3A, 0)
    assert not lun.medium_present


def test_descriptors_say_08_06_50(disk: Disk) -> None:
    configuration = disk.host.control(SetupPacket(0x80, 6, 0x0200, 0, 255))
    assert configuration[9:18].hex() == "090400000208065000"


@pytest.mark.parametrize(
    "setup",
    [
        SetupPacket(0xA1, 0xFE, 1, 0, 1),
        SetupPacket(0xA1, 0xFE, 0, 0, 2),
        SetupPacket(0x21, 0xFF, 1, 0, 0),
        SetupPacket(0xA1, 0xFD, 0, 0, 1),
        SetupPacket(0xA1, 0xFF, 0, 0, 1),
    ],
)
def test_other_class_requests_stall(disk: Disk, setup: SetupPacket) -> None:
    with pytest.raises(UrbError) as caught:
        disk.host.control(setup)
    assert caught.value.errno == errno.EPIPE


def test_units_are_apart() -> None:
    luns = [RamLun(MIB), RamLun(2 * MIB, block_size=4096), RamLun(MIB, read_only=True)]
    with plugged(*luns) as disk:
        assert disk.max_lun() == 2
        for number in range(3):
            disk.attend(lun=number)
        assert disk.write(write10(0, 1), b"0" * 512, lun=0) == (0, 0)
        assert disk.write(write10(0, 1), b"1" * 4096, lun=1) == (0, 0)
        assert disk.write(write10(0, 1), b"2" * 512, lun=2) == (512, 1)
        assert disk.sense(lun=0) == (0, 0, 0)
        assert disk.sense(lun=2) == (7, 0x27, 0)
        assert disk.read(read10(0, 1), 512, lun=0)[0] == b"0" * 512
        assert disk.read(read10(0, 1), 4096, lun=1)[0] == b"1" * 4096
        assert disk.read(read10(0, 1), 512, lun=2)[0] == bytes(512)


@pytest.mark.parametrize("count", [0, 17])
def test_one_to_sixteen_units(count: int) -> None:
    with pytest.raises(SchemeError, match="expected 1 to 16"):
        MassStorageFunction([RamLun(512)] * count)


def test_configuration_restarts_with_power_on(disk: Disk) -> None:
    disk.host.control(SetupPacket(0x00, 9, 0))
    disk.host.control(SetupPacket(0x00, 9, 1))
    disk.attend()
    assert disk.none(bytes(6)) == 0


# --- data --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ram", "file"])
@pytest.mark.parametrize("speed", [Speed.FULL, Speed.HIGH, Speed.SUPER])
@pytest.mark.parametrize(
    ("write", "read", "blocks"),
    [
        (">BxHBx", 6, 1),
        (">BxHBx", 6, 7),
        (">BxIxHx", 10, 1),
        (">BxIxHx", 10, 256),
        (">BxIIxx", 12, 33),
        (">BxQIxx", 16, 2048),
        (">BxQIxx", 16, 4097),
    ],
)
def test_written_blocks_are_read_back(
    tmp_path: Path, kind: str, speed: Speed, write: str, read: int, blocks: int
) -> None:
    opcodes = {6: (0x0A, 0x08), 10: (0x2A, 0x28), 12: (0xAA, 0xA8), 16: (0x8A, 0x88)}
    write_code, read_code = opcodes[read]
    lun: Lun = RamLun(4 * MIB)
    if kind == "file":
        lun = FileLun(tmp_path / "disk.img", create_size=4 * MIB)
    data = pattern(blocks * 512)
    with plugged(lun, speed=speed) as disk:
        disk.attend()
        assert disk.write(struct.pack(write, write_code, 5, blocks), data) == (0, 0)
        assert disk.read(struct.pack(write, read_code, 5, blocks), len(data)) == (data, 0, 0)
    assert (lun.bytes_written, lun.bytes_read) == (len(data), len(data))
    lun.close()
    if kind == "file":
        assert (tmp_path / "disk.img").read_bytes()[5 * 512 :][: len(data)] == data


@pytest.mark.parametrize("cuts", [512, 1024, 4096, 130 * 512])
def test_host_may_cut_a_transfer_into_urbs(disk: Disk, lun: RamLun, cuts: int) -> None:
    data = pattern(1024 * 512)
    disk.cbw(write10(7, 1024), len(data), is_in=False)
    for start in range(0, len(data), cuts):
        disk.send(data[start : start + cuts])
    assert disk.csw() == (0, 0)
    disk.cbw(read10(7, 1024), len(data))
    pieces = [disk.receive(min(cuts, len(data) - n)) for n in range(0, len(data), cuts)]
    assert b"".join(pieces) == data == bytes(lun.memory[7 * 512 :][: len(data)])
    assert disk.csw() == (0, 0)


def test_acknowledged_data_is_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    with FileLun(path, create_size=MIB) as lun, plugged(lun) as disk:
        disk.attend()
        assert disk.write(write10(1, 1), b"x" * 512) == (0, 0)
        assert path.read_bytes()[512:1024] == b"x" * 512


def test_host_that_sends_all_at_once_is_served_in_order(disk: Disk, lun: RamLun) -> None:
    lun.memory[:] = pattern(len(lun.memory))
    urbs: list[tuple[HostUrb, bytearray, bytearray]] = []
    for number in range(20):
        cbw = Cbw(number, MIB // 2, 0x80, 0, read10(number, 1024)).pack()
        data, csw = bytearray(MIB // 2), bytearray(13)
        disk.host.submit(HostUrb(OUT, cbw))
        disk.host.submit(HostUrb(IN, data))
        last = HostUrb(IN, csw)
        disk.host.submit(last)
        urbs.append((last, data, csw))
    for number, (urb, data, csw) in enumerate(urbs):
        assert disk.host.wait(urb, DEADLINE)
        assert Csw.parse(csw) == Csw(number, 0, 0)
        assert data == lun.memory[number * 512 :][: len(data)]


# --- commands that fail ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cdb", "length", "sense"),
    [
        (b"\xff" * 10, 0, (5, 0x20, 0)),
        (b"\xff" * 10, 512, (5, 0x20, 0)),
        (read10(8192, 1), 512, (5, 0x21, 0)),
        (bytes.fromhex("1201c000ff00"), 255, (5, 0x24, 0)),
        (bytes.fromhex("a1080e00000000000000ec0000000000"), 512, (5, 0x20, 0)),  # smartctl
    ],
)
def test_check_condition(disk: Disk, cdb: bytes, length: int, sense: tuple[int, int, int]) -> None:
    if length:
        assert disk.read(cdb, length) == (b"", length, 1)
    else:
        assert disk.none(cdb) == 1
    assert disk.sense() == sense
    assert disk.none(bytes(6)) == 0


def test_refused_write_halts_out(disk: Disk) -> None:
    disk.cbw(write10(8192, 1), 512, is_in=False)
    with pytest.raises(UrbError) as caught:
        disk.send(bytes(512))
    assert caught.value.errno == errno.EPIPE
    assert disk.csw() == (512, 1)  # IN is not halted
    disk.clear_halt(OUT)
    assert disk.sense() == (5, 0x21, 0)


def test_csw_waits_for_clear_halt(disk: Disk) -> None:
    disk.cbw(read10(8192, 1), 512)
    for _ in range(3):
        with pytest.raises(UrbError) as caught:
            disk.receive(512)
        assert caught.value.errno == errno.EPIPE
    disk.clear_halt(IN)
    assert disk.csw() == (512, 1)


def test_short_packet_and_stall_end_a_short_reply(disk: Disk) -> None:
    disk.cbw(bytes.fromhex("12000000ff00"), 255)
    assert len(disk.receive(255)) == 36
    with pytest.raises(UrbError) as caught:
        disk.csw()
    assert caught.value.errno == errno.EPIPE
    disk.clear_halt(IN)
    assert disk.csw() == (255 - 36, 0)


def test_reply_of_whole_packets_ends_with_stall(disk: Disk) -> None:
    disk.cbw(read10(0, 2), 4096)
    with pytest.raises(UrbError) as caught:
        disk.receive(4096)
    assert (caught.value.errno, caught.value.actual_length) == (errno.EPIPE, 1024)
    disk.clear_halt(IN)
    assert disk.csw() == (3072, 0)


@pytest.mark.parametrize(
    ("case", "cdb", "length", "is_in", "residue"),
    [
        (2, read10(0, 1), 0, True, 0),
        (3, write10(0, 1), 0, True, 0),
        (7, read10(0, 2), 512, True, 0),
        (8, write10(0, 1), 512, True, 512),
        (10, read10(0, 1), 512, False, 512),
        (13, write10(0, 2), 512, False, 512),
    ],
)
def test_phase_error(
    disk: Disk, lun: RamLun, case: int, cdb: bytes, length: int, is_in: bool, residue: int
) -> None:
    lun.memory[:1024] = b"k" * 1024
    if not is_in:
        assert disk.write(cdb, b"x" * length) == (residue, 2)
    elif length:
        assert disk.read(cdb, length) == (b"k" * 512 if case == 7 else b"", residue, 2)
    else:
        assert disk.none(cdb) == 2
    assert lun.memory[:1024] == b"k" * 1024
    disk.recover()
    disk.attend()
    assert disk.none(bytes(6)) == 0


@pytest.mark.parametrize("speed", [Speed.HIGH, Speed.SUPER])
@pytest.mark.parametrize("in_one_urb", [True, False])
def test_host_that_announces_more_than_it_writes(speed: Speed, in_one_urb: bool) -> None:
    """Case 11: the command takes what it means, then OUT halts."""
    lun = RamLun(MIB)
    with plugged(lun, speed=speed) as disk:
        disk.attend()
        disk.cbw(write10(0, 2), 4096, is_in=False)
        if not in_one_urb:
            disk.send(b"a" * 1024)
        with pytest.raises(UrbError) as caught:
            disk.send(b"a" * (4096 if in_one_urb else 3072))
        assert caught.value.errno == errno.EPIPE
        disk.clear_halt(OUT)
        assert disk.csw() == (3072, 0)
    assert lun.memory[:2048] == b"a" * 1024 + bytes(1024)


@pytest.mark.parametrize("length", [100, 700])
def test_host_that_wants_part_of_a_block_gets_that(length: int) -> None:
    lun = PatternLun(MIB, seed=5)
    with plugged(lun) as disk:
        disk.attend()
        assert disk.read(read10(3, 2), length) == (lun.pattern.bytes(1536, 1024)[:length], 0, 2)
        disk.recover()
        disk.attend()
        assert disk.read(read10(3, 1), 512) == (lun.pattern.bytes(1536, 512), 0, 0)


def test_host_that_sends_less_than_it_announced(disk: Disk) -> None:
    disk.cbw(write10(0, 8), 4096, is_in=False)
    disk.send(b"a" * 700)
    assert disk.csw() == (4096 - 512, 1)
    assert disk.sense() == (0xB, 0x4B, 0)
    assert disk.none(bytes(6)) == 0


def test_bad_block_is_named_and_what_came_before_it_is_sent(tmp_path: Path) -> None:
    class Bad(FileLun):
        def _preadv(self, buffer: bytearray | memoryview, offset: int) -> int:
            if offset <= 3 * 512 < offset + len(buffer):
                raise OSError(errno.EIO, "bad")
            return super()._preadv(buffer, offset)

    (tmp_path / "disk.img").write_bytes(bytes(MIB))  # no holes, which VERIFY would not read
    with Bad(tmp_path / "disk.img") as lun, plugged(lun) as disk:
        disk.attend()
        disk.cbw(read10(1, 8), 4096)
        with pytest.raises(UrbError) as caught:
            disk.receive(4096)
        assert caught.value.actual_length == 1024
        disk.clear_halt(IN)
        assert disk.csw() == (3072, 1)
        data, _, _ = disk.read(bytes.fromhex("030000001200"), 18)
        assert data.hex() == "f00003000000030a00000000110000000000"
        assert disk.read(read10(3, 1), 512) == (b"", 512, 1)
        assert disk.none(struct.pack(">BxIxHx", 0x2F, 0, 8)) == 1
        assert disk.sense() == (3, 0x11, 0)


def test_full_disk_is_a_write_error(tmp_path: Path) -> None:
    class Full(FileLun):
        def _pwrite(self, _data: memoryview, _offset: int) -> int:
            raise OSError(errno.ENOSPC, "full")

    with Full(tmp_path / "disk.img", create_size=MIB) as lun, plugged(lun) as disk:
        disk.attend()
        assert disk.write(write10(4, 1), bytes(512)) == (512, 1)
        data, _, _ = disk.read(bytes.fromhex("030000001200"), 18)
        assert data.hex() == "f00003000000040a000000000c0000000000"


@pytest.mark.parametrize("flags", [0, 8])
def test_fua_fails_where_the_flush_does(tmp_path: Path, flags: int) -> None:
    class Volatile(FileLun):
        def flush(self) -> None:
            raise OSError(errno.EIO, "gone")

    with Volatile(tmp_path / "disk.img", create_size=MIB) as lun, plugged(lun) as disk:
        disk.attend()
        assert disk.write(write10(0, 1, flags), bytes(512)) == (0, int(bool(flags)))
        assert disk.sense() == ((3, 0x0C, 0) if flags else (0, 0, 0))
        assert disk.none(bytes.fromhex("35") + bytes(9)) == 1
        assert disk.sense() == (3, 0x0C, 0)


def test_truncated_image_is_a_medium_error(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    with FileLun(path, create_size=MIB) as lun, plugged(lun) as disk:
        disk.attend()
        os.truncate(path, 64 * 1024)
        assert disk.read(read10(0, 256), 128 * 1024)[2] == 1
        assert disk.sense() == (3, 0x11, 0)
        assert disk.none(bytes(6)) == 0


def test_application_swaps_the_medium() -> None:
    events: list[MediumEvent] = []
    lun = RamLun(MIB, removable=True)
    function = MassStorageFunction([lun], on_event=lambda _lun, event: events.append(event))
    with plugged(function=function) as disk:
        disk.attend()
        lun.eject()
        assert disk.none(bytes(6)) == 1
        assert disk.sense() == (2, 0x3A, 0)
        lun.insert()
        assert disk.none(bytes(6)) == 1
        assert disk.sense() == (6, 0x28, 0)
        assert disk.none(bytes.fromhex("1b0000000200")) == 0  # the host ejects it
        assert events == [MediumEvent.EJECTED, MediumEvent.INSERTED, MediumEvent.EJECTED]


# --- bad CBWs and reset ------------------------------------------------------------------------

GOOD_CBW = Cbw(1, 0, 0, 0, bytes(6)).pack()


@pytest.mark.parametrize("speed", [Speed.FULL, Speed.HIGH])
@pytest.mark.parametrize(
    "bad",
    [
        GOOD_CBW[:30],
        GOOD_CBW + b"\0",
        b"",
        bytes(31),
        bytes(512),
        bytes(1000),
        Cbw(1, 0, 0, 1, bytes(6)).pack(),
        Cbw(1, 0, 0x40, 0, bytes(6)).pack(),
    ],
    ids=["short", "long", "zlp", "signature", "packet", "overlong", "lun", "flags"],
)
def test_bad_cbw_halts_both_endpoints_until_reset(bad: bytes, speed: Speed) -> None:
    function = MassStorageFunction([RamLun(MIB)])
    with plugged(function=function, speed=speed) as disk:
        disk.attend()
        with contextlib.suppress(UrbError):  # -EPIPE where part of it was still to come
            disk.send(bad)
        for _ in range(3):
            assert disk.halted(IN) and disk.halted(OUT)
            with pytest.raises(UrbError):
                disk.receive(13)
            with pytest.raises(UrbError):
                disk.send(GOOD_CBW)
        assert function.refused == 1
        disk.reset()
        assert disk.halted(IN) and disk.halted(OUT)  # BOT 3.1: reset keeps them
        disk.clear_halt(IN)
        disk.clear_halt(OUT)
        disk.attend()
        assert disk.none(bytes(6)) == 0


def test_clearing_the_halts_without_reset_does_not_help(disk: Disk) -> None:
    disk.send(bytes(31))
    for _ in range(3):
        disk.clear_halt(IN)
        disk.clear_halt(OUT)
        assert disk.halted(IN) and disk.halted(OUT)
        with pytest.raises(UrbError):
            disk.receive(13)
        with pytest.raises(UrbError):
            disk.send(GOOD_CBW)
    disk.recover()
    assert not disk.halted(IN) and not disk.halted(OUT)
    disk.attend()


def _idle(_disk: Disk) -> None:
    pass


def _before_data_in(disk: Disk) -> None:
    disk.cbw(read10(0, 8), 4096)


def _in_the_middle_of_data_in(disk: Disk) -> None:
    disk.cbw(read10(0, 8000), 8000 * 512)
    assert len(disk.receive(2 * MIB)) == 2 * MIB


def _before_status(disk: Disk) -> None:
    disk.cbw(read10(0, 8), 4096)
    disk.receive(4096)


def _before_data_out(disk: Disk) -> None:
    disk.cbw(write10(0, 8), 4096, is_in=False)


def _in_the_middle_of_data_out(disk: Disk) -> None:
    disk.cbw(write10(0, 8000), 8000 * 512, is_in=False)
    disk.send(bytes(MIB + 512))


def _after_data_out(disk: Disk) -> None:
    disk.cbw(write10(0, 8), 4096, is_in=False)
    disk.send(bytes(4096))


def _in_status_behind_a_halt(disk: Disk) -> None:
    disk.cbw(read10(8192, 8), 4096)


def _after_a_bad_cbw(disk: Disk) -> None:
    disk.send(bytes(31))


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize(
    "before",
    [
        _idle,
        _before_data_in,
        _in_the_middle_of_data_in,
        _before_status,
        _before_data_out,
        _in_the_middle_of_data_out,
        _after_data_out,
        _in_status_behind_a_halt,
        _after_a_bad_cbw,
    ],
)
def test_reset_recovery_at_any_instant(
    disk: Disk, before: Callable[[Disk], None], times: int
) -> None:
    before(disk)
    for _ in range(times):
        disk.recover()
    disk.attend()
    assert disk.write(write10(9, 2), b"ok" * 512) == (0, 0)
    assert disk.read(read10(9, 2), 1024) == (b"ok" * 512, 0, 0)


def test_reset_during_a_flush(tmp_path: Path) -> None:
    started, go_on = threading.Event(), threading.Event()

    class Slow(FileLun):
        def flush(self) -> None:
            started.set()
            assert go_on.wait(DEADLINE)

    with Slow(tmp_path / "disk.img", create_size=MIB) as lun, plugged(lun) as disk:
        disk.attend()
        disk.cbw(bytes.fromhex("35") + bytes(9))
        assert started.wait(DEADLINE)
        disk.recover()
        go_on.set()
        disk.attend()
        assert disk.none(bytes(6)) == 0


@pytest.mark.parametrize("before", [_before_data_in, _in_the_middle_of_data_out, _after_a_bad_cbw])
def test_host_may_leave_at_any_instant(lun: RamLun, before: Callable[[Disk], None]) -> None:
    function = MassStorageFunction([lun])
    for _ in range(2):
        with plugged(function=function) as disk:
            disk.attend()
            before(disk)


# --- memory ------------------------------------------------------------------------------------


def _resident() -> int:
    """Bytes of this process in memory."""
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("holes", [True, False])
def test_reading_a_gigabyte_stays_small(tmp_path: Path, holes: bool) -> None:
    path = tmp_path / "disk.img"
    size = 1024 if holes else 256
    with FileLun(path, create_size=size * MIB) as lun, plugged(lun, speed=Speed.SUPER) as disk:
        disk.attend()
        if not holes:
            block = memoryview(pattern(MIB))
            for start in range(size):
                assert lun.write(start * MIB, block) == MIB
        before = highest = _resident()
        buffer = bytearray(MIB)
        for start in range(size):
            disk.cbw(read10(start * 2048, 2048), MIB)
            assert disk.host.transfer(HostUrb(IN, buffer), DEADLINE) == MIB
            assert disk.csw() == (0, 0)
            highest = max(highest, _resident())
        assert highest - before < 40 * MIB
        assert bytes(buffer) == (bytes(MIB) if holes else pattern(MIB))
        if holes:
            assert path.stat().st_blocks == 0
