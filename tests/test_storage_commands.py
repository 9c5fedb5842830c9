"""The commands beyond READ and WRITE from end to end: UsbStorage, the transport, the target."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from gadgets.mass_storage import FileLun, MassStorageFunction, RamLun
from gadgets.mass_storage.scsi import commands_of
from tests.test_host_storage import storage
from usbip_vudc.host.storage import CheckCondition, PhaseError, Sense, UsbStorage
from usbip_vudc.usb.ch9 import Speed

MIB = 1 << 20
DATA = os.urandom(3 * MIB)


@pytest.fixture(params=[Speed.HIGH, Speed.SUPER], ids=lambda speed: speed.name)
def disk(request: pytest.FixtureRequest) -> Iterator[tuple[UsbStorage, RamLun]]:
    lun = RamLun(4 * MIB, thin=True)
    with storage(MassStorageFunction([lun]), speed=request.param, max_transfer=4 * MIB) as usb:
        usb.wait_ready()
        yield usb, lun


def why(error: pytest.ExceptionInfo[CheckCondition]) -> tuple[int, int, int, int | None]:
    sense = error.value.sense
    return sense.key, sense.asc, sense.ascq, sense.information


@pytest.mark.parametrize("blocks", [1, 7, 2048, 6144])
def test_comparison_of_data_in_pieces(disk: tuple[UsbStorage, RamLun], blocks: int) -> None:
    usb, lun = disk
    lun.memory[512 : 512 + len(DATA)] = DATA
    data = bytearray(DATA[: blocks * 512])
    usb.compare(1, data)
    data[-1] ^= 0xFF
    with pytest.raises(CheckCondition, match="miscompare") as caught:
        usb.compare(1, data)
    assert why(caught) == (0xE, 0x1D, 0, blocks)
    usb.test_unit_ready()
    usb.compare(1, DATA[:512])
    assert not lun.bytes_written


def test_comparison_that_fails_early_ends_the_data(disk: tuple[UsbStorage, RamLun]) -> None:
    usb, _ = disk
    with pytest.raises(CheckCondition) as caught:
        usb.compare(0, DATA)
    assert why(caught) == (0xE, 0x1D, 0, 0)
    usb.test_unit_ready()


@pytest.mark.parametrize("flags", [0x00, 0x02])
def test_write_and_verify(disk: tuple[UsbStorage, RamLun], flags: int) -> None:
    usb, lun = disk
    usb.command(struct.pack(">BBQIxx", 0x8E, flags, 3, len(DATA) // 512), DATA)
    assert bytes(lun.memory) == bytes(1536) + DATA + bytes(MIB - 1536)
    assert (lun.bytes_written, lun.bytes_read) == (len(DATA), 0)


def test_write_same_and_unmap(disk: tuple[UsbStorage, RamLun]) -> None:
    usb, lun = disk
    usb.write_same(0, 8192, b"\x5a" * 512)
    assert bytes(lun.memory) == b"\x5a" * (4 * MIB)
    usb.unmap((8, 4096), (8000, 1))
    usb.write_same(8100, 50)
    usb.write_same(8190, 2, bytes(512), unmap=True)
    expected = bytearray(b"\x5a" * (4 * MIB))
    for lba, blocks in ((8, 4096), (8000, 1), (8100, 50), (8190, 2)):
        expected[lba * 512 : (lba + blocks) * 512] = bytes(blocks * 512)
    assert lun.memory == expected


def test_unmap_of_many_ranges_in_one_list(disk: tuple[UsbStorage, RamLun]) -> None:
    usb, lun = disk
    lun.memory[:] = b"\x5a" * len(lun.memory)
    usb.unmap(*((lba, 1) for lba in range(0, 8190, 2)))
    assert lun.memory[: 8190 * 512] == (bytes(512) + b"\x5a" * 512) * 4095


def test_a_list_that_is_refused_changes_nothing(disk: tuple[UsbStorage, RamLun]) -> None:
    usb, lun = disk
    lun.memory[:4] = b"here"
    with pytest.raises(CheckCondition) as caught:
        usb.unmap((0, 1), (8192, 1))
    assert why(caught) == (0x5, 0x21, 0, None)
    assert bytes(lun.memory[:4]) == b"here"
    usb.test_unit_ready()


@pytest.mark.parametrize("length", [0, 8, 25])
def test_a_list_of_another_length_than_announced(
    disk: tuple[UsbStorage, RamLun], length: int
) -> None:
    usb, lun = disk
    lun.memory[:4] = b"here"
    cdb = struct.pack(">B6xHx", 0x42, 24)
    parameters = struct.pack(">HH4xQI4x", 22, 16, 0, 1).ljust(length, b"\0")[:length]
    if length > 24:  # BOT 6.7.3 case 11: what is over does not count
        assert usb.command(cdb, parameters) == b""
        assert bytes(lun.memory[:4]) == bytes(4)
    else:  # cases 3 and 13
        with pytest.raises(PhaseError, match="phase error"):
            usb.command(cdb, parameters or None)
        assert bytes(lun.memory[:4]) == b"here"
    usb.wait_ready()  # over the unit attention of reset recovery


def test_mode_select_turns_the_cache_off(tmp_path: Path) -> None:
    with FileLun(tmp_path / "disk.img", create_size=MIB) as lun:
        with storage(MassStorageFunction([lun])) as usb:
            usb.wait_ready()
            modes = usb.command(bytes.fromhex("1a0008001800"), data_in=24)
            usb.command(bytes.fromhex("151000001800"), bytes(4) + modes[4:6] + bytes(18))
            assert usb.command(bytes.fromhex("1a0008001800"), data_in=24)[6] == 0
            usb.write(0, DATA[: MIB // 2])
            assert usb.read(0, 1024) == DATA[: MIB // 2]
        assert lun.write_through


def test_supported_commands_are_those_of_the_table(disk: tuple[UsbStorage, RamLun]) -> None:
    usb, lun = disk
    found = usb.supported_commands()
    assert {(one.opcode, one.service_action, one.size) for one in found} == {
        (one.opcode, one.service_action, one.size) for one in commands_of(lun)
    }
    assert [one.name for one in found] == [one.name for one in commands_of(lun)]


def test_cdrom_drive_of_an_image(tmp_path: Path) -> None:
    image = tmp_path / "disc.iso"
    image.write_bytes(DATA[: 100 * 2048])
    image.chmod(0o444)
    with (
        FileLun(image, cdrom=True) as drive,
        storage(MassStorageFunction([drive, RamLun(512)])) as usb,
    ):
        usb.wait_ready()
        assert usb.inquiry().peripheral == 5
        assert usb.read_capacity() == (100, 2048)
        assert usb.read(0, 100) == DATA[: 100 * 2048]
        with pytest.raises(CheckCondition) as caught:
            usb.write(0, bytes(2048))
        assert caught.value.sense == Sense(5, 0x20)
        assert usb.command(bytes.fromhex("43020000000000ffff00"), data_in=20)[-4:] == (
            bytes.fromhex("00000319")
        )


class Slow(RamLun):
    """A cache whose write-back fails."""

    has_write_cache = True
    flushes = 0

    def flush(self) -> None:
        self.flushes += 1
        raise OSError(5, "broken")


def test_immed_answers_first_and_the_error_is_deferred() -> None:
    lun = Slow(MIB)
    with storage(MassStorageFunction([lun])) as usb:
        usb.wait_ready()
        usb.command(bytes.fromhex("3502") + bytes(8))
        with pytest.raises(CheckCondition, match="earlier command") as caught:
            usb.read(0, 1)
        assert caught.value.sense == Sense(3, 0x0C) and caught.value.sense.deferred
        usb.read(0, 1)
        assert lun.flushes == 1


def test_blocks_far_beyond_2_tib(tmp_path: Path) -> None:
    with (
        FileLun(tmp_path / "huge.img", create_size=3 << 40, thin=True) as lun,
        storage(MassStorageFunction([lun])) as usb,
    ):
        usb.wait_ready()
        blocks = usb.read_capacity().blocks
        assert blocks * 512 == 3 << 40
        usb.write(blocks - 1000, DATA[: 1000 * 512])
        usb.compare(blocks - 1000, DATA[: 1000 * 512])
        usb.unmap((blocks - 500, 500))
        assert usb.read(blocks - 1000, 1000) == DATA[: 500 * 512] + bytes(500 * 512)
        with pytest.raises(CheckCondition) as caught:
            usb.compare(blocks - 1, DATA[:512])
        assert why(caught) == (0xE, 0x1D, 0, None)  # no room for it in the fixed format
