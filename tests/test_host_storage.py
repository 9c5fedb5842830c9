"""UsbStorage against this project's disk, and against disks that break the bulk-only transport."""

from __future__ import annotations

import errno
import random
import struct
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import anyio
import pytest
import usb.core
import usb.util

from gadgets.mass_storage import MassStorageFunction, RamLun
from tests.devices import BULK_PAIR
from usbip_vudc.function import (
    AltSetting,
    ControlRequest,
    Endpoint,
    Function,
    InterfaceSpec,
)
from usbip_vudc.gadget import Config, Gadget
from usbip_vudc.host.storage import (
    Capacity,
    CheckCondition,
    PhaseError,
    Sense,
    StorageError,
    TransportError,
    UsbStorage,
)
from usbip_vudc.pyusb_backend import get_backend
from usbip_vudc.serving import serving
from usbip_vudc.usb.ch9 import Speed

MIB = 1 << 20
UNIT_ATTENTION = Sense(0x06, 0x29, 0x00)


class AnotherBackend:
    """What pyusb's libusb backend is to UsbStorage: one that has no bulk_sg."""

    def __init__(self, port: int) -> None:
        self._backend = get_backend(port=port)

    def __getattr__(self, name: str) -> Any:
        if name == "bulk_sg":
            raise AttributeError(name)
        return getattr(self._backend, name)


Backend = Callable[[int], Any]


def ours(port: int) -> Any:
    return get_backend(port=port)


def without_sg(port: int) -> Any:
    return get_backend(port=port, scatter_gather=False)


BACKENDS = pytest.mark.parametrize("backend", [ours, AnotherBackend], ids=("ours", "another"))


@contextmanager
def storage(
    function: Function, backend: Backend = ours, *, speed: Speed = Speed.SUPER, **options: Any
) -> Iterator[UsbStorage]:
    gadget = Gadget(
        name="disk", idVendor=0x1D6B, idProduct=0x0104, configs=(Config(functions=(function,)),)
    )
    with serving(gadget, speed=speed) as port:
        device = usb.core.find(backend=backend(port))
        try:
            yield UsbStorage(device, timeout_ms=5000, **options)
        finally:
            usb.util.dispose_resources(device)


@contextmanager
def ram_disk(
    backend: Backend = ours, *, size: int = 4 * MIB, **options: Any
) -> Iterator[tuple[UsbStorage, RamLun]]:
    lun = RamLun(size)
    with storage(MassStorageFunction([lun]), backend, **options) as disk:
        disk.wait_ready()
        yield disk, lun


# --- a good disk -------------------------------------------------------------------------------


def test_wait_ready_clears_the_unit_attention() -> None:
    with storage(MassStorageFunction([RamLun(MIB)])) as disk:
        with pytest.raises(CheckCondition, match="TEST UNIT READY: UNIT ATTENTION") as caught:
            disk.test_unit_ready()
        assert caught.value.sense == UNIT_ATTENTION
        disk.wait_ready()
        disk.test_unit_ready()


def test_what_the_disk_says_of_itself() -> None:
    with ram_disk() as (disk, _):
        assert disk.read_capacity() == Capacity(8192, 512)
        assert disk.get_max_lun() == 0
        inquiry = disk.inquiry()
        assert (inquiry.peripheral, len(inquiry.vendor) > 0) == (0, True)


def test_luns_are_counted_and_addressed() -> None:
    luns = [RamLun(MIB), RamLun(2 * MIB)]
    with storage(MassStorageFunction(luns)) as disk:
        assert disk.get_max_lun() == 1
        second = UsbStorage(disk.device, lun=1)
        second.wait_ready()
        assert second.read_capacity().blocks == 4096


@BACKENDS
@pytest.mark.parametrize("speed", [Speed.FULL, Speed.HIGH, Speed.SUPER], ids=lambda s: str(s.word))
def test_what_is_written_is_read_again(backend: Backend, speed: Speed) -> None:
    data = random.Random(2019).randbytes(300 * 512)
    with ram_disk(backend, speed=speed) as (disk, _):
        disk.write(17, data)
        disk.synchronize_cache()
        assert disk.read(17, 300) == data
        assert disk.read(18, 2) == data[512:1536]
        buffer = bytearray(len(data))
        disk.read_into(17, buffer)
        assert buffer == data


def test_long_transfers_are_cut_at_max_transfer() -> None:
    data = random.Random(7).randbytes(3 * MIB + 512)
    with ram_disk(max_transfer=MIB) as (disk, _):
        disk.write(0, data)
        assert disk.read(0, len(data) // 512) == data
    with ram_disk(speed=Speed.HIGH) as (disk, _):
        assert disk.max_transfer == 120 * 1024


def test_beyond_the_end_is_a_check_condition_by_name() -> None:
    with ram_disk() as (disk, _):
        with pytest.raises(CheckCondition) as caught:
            disk.read(8190, 4)
        assert str(caught.value) == (
            "READ(10): ILLEGAL REQUEST, logical block address out of range (5h 21h 00h)"
        )
        with pytest.raises(CheckCondition, match="WRITE"):
            disk.write(8192, bytes(512))
        assert len(disk.read(8190, 2)) == 1024


def test_an_unknown_command_is_refused_and_the_disk_goes_on() -> None:
    with ram_disk() as (disk, _):
        for data_in in (0, 512):
            with pytest.raises(CheckCondition, match="command FFh: ILLEGAL REQUEST, invalid comm"):
                disk.command(b"\xff" + bytes(9), data_in=data_in)
        with pytest.raises(CheckCondition, match="command FFh"):
            disk.command(b"\xff" + bytes(9), bytes(512))
        assert disk.read(0, 1) == bytes(512)


def test_a_short_answer_to_a_raw_command_is_cut_to_its_length() -> None:
    with ram_disk() as (disk, _):
        answer = disk.command(bytes((0x12, 0, 0, 0, 5, 0)), data_in=36)
        assert len(answer) == 5


def test_misuse_is_a_value_error() -> None:
    with ram_disk() as (disk, _):
        with pytest.raises(ValueError, match="no multiple of the block size, 512"):
            disk.write(0, bytes(100))
        with pytest.raises(ValueError, match="cdb of 0 bytes"):
            disk.command(b"")
        with pytest.raises(ValueError, match="1000 bytes, no multiple of 512"):
            disk.read_sg(0, "1000")


def test_a_device_without_the_interface_is_named() -> None:
    with pytest.raises(ValueError, match="no interface of class 08/06/50"), storage(Vendor()):
        pass


class Vendor(Function):
    name = "vendor"
    interfaces = (
        InterfaceSpec(
            role="x", bInterfaceClass=0xFF, alternates=(AltSetting(endpoints=BULK_PAIR),)
        ),
    )

    async def run(self, endpoints: Mapping[str, Endpoint]) -> None:
        assert endpoints
        await anyio.sleep_forever()


# --- the case of 2019: 3584 + 7 x 4096 bytes at a maxpacket of 1024 ----------------------------

LAYOUT_2019 = "3584+7x4096"


def test_an_sg_list_is_read_where_the_host_has_sg() -> None:
    data = random.Random(2019).randbytes(63 * 512)
    with ram_disk() as (disk, _):
        disk.write(5, data)
        assert disk.read_sg(5, LAYOUT_2019) == data
        assert disk.read_sg(5, (512, 31744)) == data


@pytest.mark.parametrize("backend", [without_sg, AnotherBackend], ids=("without", "another"))
def test_an_sg_list_babbles_without_sg_and_reset_recovery_helps(backend: Backend) -> None:
    data = random.Random(2019).randbytes(63 * 512)
    with ram_disk(backend) as (disk, _):
        disk.write(5, data)
        with pytest.raises(usb.core.USBError) as caught:
            disk.read_sg(5, LAYOUT_2019)
        assert caught.value.errno == errno.EOVERFLOW
        disk.reset_recovery()
        disk.wait_ready()
        assert disk.read(5, 63) == data


@pytest.mark.parametrize("backend", [without_sg, AnotherBackend], ids=("without", "another"))
def test_entries_of_whole_packets_need_no_sg(backend: Backend) -> None:
    data = random.Random(2019).randbytes(64 * 512)
    with ram_disk(backend) as (disk, _):
        disk.write(5, data)
        assert disk.read_sg(5, "3072+5120+6x4096") == data


# --- disks that break the transport ------------------------------------------------------------

Script = Callable[["Bus", bytes], Awaitable[None]]


class Bus:
    """The bulk pair with what a script needs of the last CBW."""

    def __init__(self, endpoints: Mapping[str, Endpoint]) -> None:
        self.bulk_in = endpoints["in"]
        self.bulk_out = endpoints["out"]
        self.tag = 0
        self.length = 0

    async def send(self, data: bytes) -> None:
        await self.bulk_in.submit(data)

    async def csw(self, status: int = 0, residue: int = 0, **wrong: Any) -> None:
        tag = wrong.get("tag", self.tag)
        await self.send(
            struct.pack("<4sIIB", wrong.get("signature", b"USBS"), tag, residue, status)
        )


class BadDisk(Function):
    """Answers REQUEST SENSE and TEST UNIT READY well, and all else as its script says."""

    name = "bad disk"
    interfaces = (
        InterfaceSpec(
            role="msc",
            bInterfaceClass=8,
            bInterfaceSubClass=6,
            bInterfaceProtocol=0x50,
            alternates=(AltSetting(endpoints=BULK_PAIR),),
        ),
    )

    def __init__(self, script: Script, sense: bytes = bytes(18)) -> None:
        self.script = script
        self.sense = sense
        self.resets = 0
        self.scope: anyio.CancelScope | None = None

    async def run(self, endpoints: Mapping[str, Endpoint]) -> None:
        await self._serve(Bus(endpoints))

    async def _serve(self, bus: Bus) -> None:
        buffer = bytearray(1024)
        while True:
            assert await bus.bulk_out.submit(buffer) == 31
            _, bus.tag, bus.length, _, _, _, cdb = struct.unpack("<4sIIBBB16s", buffer[:31])
            if cdb[0] == 0x03:
                await bus.send(self.sense[: bus.length])
                await bus.csw()
            elif cdb[0] == 0x00:
                await bus.csw()
            else:
                with anyio.CancelScope() as self.scope:
                    await self.script(bus, cdb)

    def setup(self, request: ControlRequest) -> bytes | None:
        if request.setup.bRequest == 0xFF:
            self.resets += 1
            if self.scope is not None:
                self.scope.cancel()  # only a script that waits for ever is still in it
            return b""
        return None  # stalls GET MAX LUN


READ_512 = bytes((0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0))


def test_a_stalled_get_max_lun_is_0() -> None:
    with storage(BadDisk(lambda bus, _: bus.csw())) as disk:
        assert disk.get_max_lun() == 0


async def data_then_halt(bus: Bus, _: bytes) -> None:
    await bus.send(b"x" * 100)
    bus.bulk_in.halt()
    await bus.csw(residue=bus.length - 100)


async def halt_without_data(bus: Bus, _: bytes) -> None:
    bus.bulk_in.halt()
    await bus.csw(residue=bus.length)


async def padded(bus: Bus, _: bytes) -> None:
    await bus.send(b"x" * 100 + bytes(bus.length - 100))
    await bus.csw(residue=bus.length - 100)


@BACKENDS
@pytest.mark.parametrize(
    ("script", "answer"),
    [(data_then_halt, b"x" * 100), (halt_without_data, b""), (padded, b"x" * 100)],
    ids=("short and halt", "halt", "padded"),
)
def test_a_stall_in_the_data_stage_is_cleared_and_the_residue_tells(
    backend: Backend, script: Script, answer: bytes
) -> None:
    function = BadDisk(script)
    with storage(function, backend) as disk:
        assert disk.command(READ_512, data_in=512) == answer
        disk.test_unit_ready()
    assert function.resets == 0


async def halt_out(bus: Bus, _: bytes) -> None:
    bus.bulk_out.halt()
    await bus.csw(status=1, residue=bus.length)


def test_a_stall_of_the_data_out_stage_is_cleared() -> None:
    sense = bytes((0x70, 0, 7, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x27, 0, 0, 0, 0, 0))
    function = BadDisk(halt_out, sense)
    with storage(function) as disk:
        with pytest.raises(CheckCondition, match=r"WRITE\(10\): DATA PROTECT, write protected"):
            disk.command(b"\x2a" + bytes(9), bytes(4096))
        disk.test_unit_ready()
    assert function.resets == 0


def test_sense_in_descriptor_format() -> None:
    sense = bytes((0x72, 2, 0x3A, 0, 0, 0, 0, 0))
    with (
        storage(BadDisk(lambda bus, _: bus.csw(status=1), sense)) as disk,
        pytest.raises(CheckCondition, match="NOT READY, medium not present") as caught,
    ):
        disk.command(b"\x1b" + bytes(5))
    assert caught.value.sense == Sense(2, 0x3A, 0)


def halted_for_good(bus: Bus, _: bytes) -> Awaitable[None]:
    bus.bulk_in.halt()
    return anyio.sleep_forever()


async def wrong_tag(bus: Bus, _: bytes) -> None:
    await bus.csw(tag=bus.tag ^ 0xFF)


async def wrong_signature(bus: Bus, _: bytes) -> None:
    await bus.csw(signature=b"USBX")


async def short_csw(bus: Bus, _: bytes) -> None:
    await bus.send(b"USBS")


async def zlps_for_csw(bus: Bus, _: bytes) -> None:
    await bus.send(b"")
    await bus.send(b"")


async def zlp_then_csw(bus: Bus, _: bytes) -> None:
    await bus.send(b"")
    await bus.csw()


async def phase_error(bus: Bus, _: bytes) -> None:
    await bus.csw(status=2)


async def reserved_status(bus: Bus, _: bytes) -> None:
    await bus.csw(status=3)


async def too_much_residue(bus: Bus, _: bytes) -> None:
    await bus.csw(residue=bus.length + 1)


def test_an_empty_packet_before_the_csw_is_read_over() -> None:
    with storage(BadDisk(zlp_then_csw)) as disk:
        assert disk.command(b"\x1b" + bytes(5)) == b""


@pytest.mark.parametrize(
    ("script", "kind", "message"),
    [
        (wrong_tag, TransportError, r"CSW tag 0xfe, expected 0x1 \(BOT 6.3.1\)"),
        (wrong_signature, TransportError, "dCSWSignature 0x58425355, expected 0x53425355"),
        (short_csw, TransportError, "CSW length 4, expected 13"),
        (zlps_for_csw, TransportError, "CSW length 0, expected 13"),
        (phase_error, PhaseError, r"phase error \(BOT 6.3.2\)"),
        (reserved_status, TransportError, "CSW status 3, residue 0 of 0"),
        (too_much_residue, TransportError, "CSW status 0, residue 1 of 0"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_bad_csw_is_named_and_recovered_from(
    script: Script, kind: type[TransportError], message: str
) -> None:
    function = BadDisk(script)
    with storage(function) as disk:
        with pytest.raises(kind, match=r"START STOP UNIT: " + message) as caught:
            disk.command(b"\x1b" + bytes(5))
        assert type(caught.value) is kind
        assert function.resets == 1
        disk.test_unit_ready()


def test_a_csw_that_stalls_twice_ends_in_reset_recovery(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stubborn(BadDisk):
        """Halts bulk IN again as soon as the host has cleared it, until it is reset."""

        async def run(self, endpoints: Mapping[str, Endpoint]) -> None:
            pipe = endpoints["in"]._pipe  # type: ignore[attr-defined]
            clear = pipe.clear_halt

            def clear_and_halt() -> None:
                clear()
                if not self.resets:
                    pipe.set_halt()

            monkeypatch.setattr(
                type(pipe), "clear_halt", lambda p: clear_and_halt() if p is pipe else None
            )
            await super().run(endpoints)

    function = Stubborn(halted_for_good)
    with storage(function) as disk:
        with pytest.raises(TransportError, match="the CSW was stalled twice"):
            disk.command(b"\x1b" + bytes(5))
        assert function.resets == 1


def test_a_stalled_cbw_ends_in_reset_recovery() -> None:
    async def halt_both(bus: Bus, _: bytes) -> None:
        await bus.csw()
        bus.bulk_out.halt()
        await anyio.sleep_forever()

    function = BadDisk(halt_both)
    with storage(function) as disk:
        disk.command(b"\x1b" + bytes(5))
        with pytest.raises(TransportError, match="TEST UNIT READY: the CBW was stalled"):
            disk.test_unit_ready()
        assert function.resets == 1
        disk.test_unit_ready()


def test_passed_with_a_residue_is_no_read() -> None:
    async def half(bus: Bus, cdb: bytes) -> None:
        if cdb[0] == 0x25:
            await bus.send(struct.pack(">II", 99, 512))
            await bus.csw()
        else:
            await bus.send(bytes(256))
            await bus.csw(residue=256)

    with (
        storage(BadDisk(half)) as disk,
        pytest.raises(StorageError, match=r"READ\(10\): 256 of 512 bytes moved"),
    ):
        disk.read(0, 1)


def test_blocks_of_no_bytes_are_named() -> None:
    async def none(bus: Bus, _cdb: bytes) -> None:
        await bus.send(struct.pack(">II", 99, 0))
        await bus.csw()

    with (
        storage(BadDisk(none)) as disk,
        pytest.raises(StorageError, match="READ CAPACITY: blocks of 0 bytes"),
    ):
        disk.read(0, 1)


def test_large_disks_take_16_byte_commands() -> None:
    seen: list[bytes] = []

    async def huge(bus: Bus, cdb: bytes) -> None:
        seen.append(cdb)
        answers = {
            0x25: struct.pack(">II", 0xFFFF_FFFF, 4096),
            0x9E: struct.pack(">QI20x", (1 << 33) - 1, 4096),
        }
        await bus.send(answers.get(cdb[0], b"y" * bus.length))
        await bus.csw()

    with storage(BadDisk(huge)) as disk:
        assert disk.read_capacity() == Capacity(1 << 33, 4096)
        assert disk.read((1 << 32) - 1, 1) == b"y" * 4096
        assert disk.read((1 << 32) - 1, 2) == b"y" * 8192
    assert [cdb[0] for cdb in seen] == [0x25, 0x9E, 0x28, 0x88]
    assert seen[3] == bytes.fromhex("88 00 00000000ffffffff 00000002 0000")


def test_wait_ready_waits_for_becoming_ready_but_not_for_a_medium() -> None:
    sense = bytearray(bytes.fromhex("70 00 02 00 00 00 00 0a 00 00 00 00 04 01 00 00 00 00"))
    polls = 0

    class Slow(BadDisk):
        async def _serve(self, bus: Bus) -> None:
            nonlocal polls
            buffer = bytearray(1024)
            while True:
                await bus.bulk_out.submit(buffer)
                _, bus.tag, bus.length, _, _, _, cdb = struct.unpack("<4sIIBBB16s", buffer[:31])
                if cdb[0] == 0x03:
                    await bus.send(bytes(sense))
                    await bus.csw()
                else:
                    polls += 1
                    await bus.csw(status=int(polls < 3 or sense[12] == 0x3A))

    with storage(Slow(halted_for_good)) as disk:
        disk.wait_ready()
        assert polls == 3
        sense[12], sense[13] = 0x3A, 0
        with pytest.raises(CheckCondition, match="medium not present"):
            disk.wait_ready(60)
        assert polls == 4


def test_a_timeout_leaves_the_transport_for_reset_recovery() -> None:
    function = BadDisk(lambda *_: anyio.sleep_forever())
    with storage(function) as disk:
        disk.timeout_ms = 100
        with pytest.raises(usb.core.USBTimeoutError):
            disk.command(READ_512, data_in=512)
        assert function.resets == 0
        disk.reset_recovery()
        disk.test_unit_ready()
