"""The tester of USB disks: right devices pass every check, and each check is failed by one."""

# ruff: noqa: ARG002 - each wrong device overrides a method whose arguments it does not care for

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
import usb.core
from click.testing import CliRunner

from gadgets.mass_storage import MassStorageFunction, RamLun
from tests.bot_page import filled
from tests.little_disk import BLOCK, LittleDisk, gadget_of
from usbip_vudc.bot_check import target
from usbip_vudc.bot_check.cases import ROWS
from usbip_vudc.bot_check.check import Check
from usbip_vudc.bot_check.checks import CHECKS, choose
from usbip_vudc.bot_check.exchange import Seen
from usbip_vudc.bot_check.findings import Violation
from usbip_vudc.bot_check.initiator import IN, OUT, Initiator
from usbip_vudc.bot_check.judging import faults
from usbip_vudc.bot_check.known import KNOWN
from usbip_vudc.bot_check.running import examine
from usbip_vudc.bot_check.subject import Subject
from usbip_vudc.cli import main
from usbip_vudc.errors import SchemeError
from usbip_vudc.function import Function
from usbip_vudc.serving import serving
from usbip_vudc.sysfs import SysfsError
from usbip_vudc.usb.bot import Cbw, Csw
from usbip_vudc.usb.bot_cases import BOT_CASES, bot_case
from usbip_vudc.usb.ch9 import Direction, Speed
from usbip_vudc.verdicts import FAIL, PASS, SKIP, Verdict

HOST = "127.0.0.1"
QUICK = 0.15
"""Seconds: so long a silent device is waited for, here where both ends are in one process."""

MIB = 1 << 20


@contextmanager
def host_of(
    function: Function, *, speed: Speed = Speed.HIGH, timeout: float = 10.0
) -> Iterator[Initiator]:
    with (
        serving(gadget_of(function), speed=speed) as port,
        target.remote(HOST, port, "1-1") as device,
    ):
        yield Initiator(device, timeout=timeout)


@contextmanager
def subject_of(
    function: Function,
    *,
    speed: Speed = Speed.HIGH,
    timeout: float = 10.0,
    lba: int | None = None,
    may_write: bool = True,
) -> Iterator[Subject]:
    with host_of(function, speed=speed, timeout=timeout) as host:
        subject = Subject(host, lba=lba, may_write=may_write)
        subject.prepare()
        yield subject


def verdicts_of(subject: Subject, *words: str) -> dict[str, Verdict]:
    return {verdict.name: verdict for verdict in examine(subject, choose(words))}


def results(verdicts: dict[str, Verdict]) -> dict[str, str]:
    return {name: verdict.result for name, verdict in verdicts.items()}


ALL_PASS = {check.name: PASS for check in CHECKS}
WRITING = {row.name for row in ROWS if "WRITE" in row.what}
READING = {row.name for row in ROWS if row.what.startswith("READ")} | {"reset-data"}


# --- devices that are right --------------------------------------------------------------------


@pytest.mark.parametrize("speed", [Speed.FULL, Speed.HIGH, Speed.SUPER], ids=lambda s: str(s.word))
@pytest.mark.parametrize("block_size", [512, 4096])
def test_our_disk_passes(speed: Speed, block_size: int) -> None:
    lun = RamLun(MIB, block_size=block_size)
    lun.memory[:] = bytes(range(256)) * (MIB // 256)
    before = bytes(lun.memory)
    with subject_of(MassStorageFunction([lun]), speed=speed) as subject:
        verdicts = verdicts_of(subject)
    assert results(verdicts) == ALL_PASS
    assert lun.memory == before


@pytest.mark.parametrize("speed", [Speed.FULL, Speed.HIGH, Speed.SUPER], ids=lambda s: str(s.word))
def test_another_disk_that_is_right_passes(speed: Speed) -> None:
    disk = LittleDisk()
    before = bytes(disk.medium)
    with subject_of(disk, speed=speed) as subject:
        assert results(verdicts_of(subject)) == ALL_PASS
    assert disk.medium == before


def test_the_second_unit_is_tested_where_it_is_named() -> None:
    luns = [RamLun(MIB), RamLun(2 * MIB)]
    with host_of(MassStorageFunction(luns)) as host:
        subject = Subject(host, lun=1, lba=4088)
        subject.prepare()
        assert (subject.max_lun, subject.medium.lba) == (1, 4088)
        assert results(verdicts_of(subject, "cases")) == {row.name: PASS for row in ROWS}
        with pytest.raises(SchemeError, match="LUN 2: expected 0 to 1"):
            Subject(host, lun=2).prepare()
        with pytest.raises(SchemeError, match="LBA 4093 of 4096 blocks"):
            Subject(host, lun=1, lba=4093).prepare()


def test_what_would_write_is_left_out_on_request() -> None:
    with subject_of(MassStorageFunction([RamLun(MIB)]), may_write=False) as subject:
        verdicts = verdicts_of(subject)
    assert results(verdicts) == ALL_PASS | dict.fromkeys(WRITING, SKIP)
    assert verdicts["case-12"].why == "it would write to the medium (--no-write)"


def test_what_would_write_is_left_out_on_a_protected_medium() -> None:
    with subject_of(MassStorageFunction([RamLun(MIB, read_only=True)])) as subject:
        verdicts = verdicts_of(subject)
    assert results(verdicts) == ALL_PASS | dict.fromkeys(WRITING, SKIP)
    assert verdicts["case-12"].why == "the medium is write-protected"


def test_without_a_medium_what_needs_none_is_tried() -> None:
    lun = RamLun(MIB, removable=True)
    lun.eject()
    with subject_of(MassStorageFunction([lun])) as subject:
        verdicts = verdicts_of(subject)
    need_ready = {"cbw-beyond", "cbw-direction", "cbw-tag"}
    skipped = WRITING | READING | need_ready
    assert {name for name, verdict in verdicts.items() if verdict.result == SKIP} == skipped
    assert {verdict.result for verdict in verdicts.values()} == {PASS, SKIP}
    assert "medium not present" in verdicts["case-6"].why


def test_remarks_tell_which_way_the_device_took() -> None:
    with subject_of(MassStorageFunction([RamLun(MIB)])) as subject:
        told = {name: verdict.why for name, verdict in verdicts_of(subject).items()}
    assert told["case-5"] == "512 of 1024 bytes, then STALL"
    assert told["case-5-short"] == "36 of 255 bytes, then STALL"
    assert told["case-7"] == "512 of 512 bytes"
    assert told["case-9"] == "0 of 512 bytes, then STALL"
    assert (told["case-6"], told["case-12"]) == ("", "")
    assert told["cbw-short"] == "bulk OUT STALLs, too"
    assert told["cbw-flags"] == "bulk IN STALLs"
    assert told["max-lun"] == "0"


# --- devices that are wrong --------------------------------------------------------------------

WRONG: dict[str, Callable[[], LittleDisk]] = {}


def wrong(*checks: str) -> Callable[[type[LittleDisk]], type[LittleDisk]]:
    """Say which checks a device fails."""

    def note(device: type[LittleDisk]) -> type[LittleDisk]:
        for check in checks:
            assert check not in WRONG
            WRONG[check] = device
        return device

    return note


@wrong("case-1", "case-6", "case-6-short", "case-12")
class AlwaysAPhaseError(LittleDisk):
    def verdict(self, cbw: bytes, *, phase: bool) -> int:
        return 2 if self.armed else super().verdict(cbw, phase=phase)


@wrong(
    "case-2", "case-2-read", "case-3", "case-7", "case-7-short", "case-8-less", "case-10",
    "case-10-more", "case-10-less", "case-13",
)  # fmt: skip
class NeverAPhaseError(LittleDisk):
    def verdict(self, cbw: bytes, *, phase: bool) -> int:
        return 0


@wrong("case-4", "case-5", "case-5-short")
class EndsWithShortPackets(LittleDisk):
    async def end_in(self, moved: int) -> None:
        if not moved % self.bulk_in.max_packet_size:
            await self.move(self.bulk_in, b"")


@wrong("case-8")
class WritesWhatItWasNotGiven(LittleDisk):
    async def give(self, cbw: bytes, length: int, intended: int) -> int:
        if cbw[15] == 0x2A:
            at = int.from_bytes(cbw[17:21], "big") * BLOCK
            self.medium[at : at + BLOCK] = bytes(BLOCK)
        return await super().give(cbw, length, intended)


@wrong("case-8-more")
class StatusTooEarly(LittleDisk):
    async def end_in(self, moved: int) -> None:
        """The CSW follows at once."""


@wrong("case-9", "case-11")
class NoResidue(LittleDisk):
    def residue(self, residue: int) -> int:
        return 0


@wrong("cbw-short", "cbw-long", "cbw-signature", "cbw-packet")
class TakesAnything(LittleDisk):
    def is_valid(self, cbw: bytes) -> bool:
        return True

    def is_meaningful(self, cbw: bytes) -> bool:
        return True

    async def carry_out(self, cbw: bytes) -> None:
        await super().carry_out(cbw.ljust(31, b"\0")[:31])


@wrong("cbw-wedge")
class BelievesInClearFeature(LittleDisk):
    async def refuse(self) -> None:
        self.bulk_in.halt()
        self.bulk_out.halt()


@wrong(
    "cbw-flags", "cbw-lun-reserved", "cbw-lun-absent", "cbw-length-0", "cbw-length-17",
    "cbw-length-reserved",
)  # fmt: skip
class DiesOfNonsense(LittleDisk):
    dead = False

    async def refuse_nonsense(self) -> None:
        self.dead = True
        await self.refuse()

    def reset(self) -> None:
        if not self.dead:
            super().reset()


@wrong("cbw-beyond")
class ReadsAllSixteen(LittleDisk):
    def verdict(self, cbw: bytes, *, phase: bool) -> int:
        return 1 if any(cbw[15 + cbw[14] :]) else super().verdict(cbw, phase=phase)


@wrong("cbw-direction")
class ReadsTheDirection(LittleDisk):
    def verdict(self, cbw: bytes, *, phase: bool) -> int:
        unexpected = cbw[12] and cbw[8:12] == bytes(4)
        return 2 if unexpected else super().verdict(cbw, phase=phase)


@wrong("cbw-tag")
class TagsFromOne(LittleDisk):
    async def status(self, tag: int, residue: int, status: int) -> None:
        await super().status(tag or 1, residue, status)


@wrong("max-lun")
class SixteenIsNoLun(LittleDisk):
    def max_lun(self) -> bytes:
        return b"\x10" if self.armed else b"\0"


@wrong("reset-data", "reset-status")
class ResetsNothing(LittleDisk):
    def reset(self) -> None:
        if not self.armed:
            super().reset()


@pytest.mark.parametrize("check", WRONG)
def test_each_check_is_failed_by_a_device_that_is_wrong(check: str) -> None:
    device = WRONG[check]()
    with subject_of(device, timeout=QUICK) as subject:
        device.armed = True
        verdict = verdicts_of(subject, check)[check]
    assert verdict.result == FAIL, verdict
    assert verdict.why


class ResetClearsHalts(Initiator):
    """A host that sees what a device would show which clears its halts at the reset."""

    def reset(self) -> None:
        super().reset()
        self.clear_halt(IN)


class HaltLosesStatus(Initiator):
    """The same for a device that forgets what it had queued when its endpoint is halted."""

    def halt(self, direction: Direction) -> None:
        super().halt(direction)
        super().reset()


AT_THE_HOST = {"reset-stalls": ResetClearsHalts, "status-halt": HaltLosesStatus}


@pytest.mark.parametrize("check", AT_THE_HOST)
def test_each_other_check_is_failed_too(check: str) -> None:
    with host_of(LittleDisk()) as host:
        subject = Subject(AT_THE_HOST[check](host.device, timeout=QUICK))
        subject.prepare()
        assert verdicts_of(subject, check)[check].result == FAIL


def test_no_check_is_forgotten() -> None:
    assert set(WRONG) | set(AT_THE_HOST) == {check.name for check in CHECKS}
    assert len(CHECKS) == len({check.name for check in CHECKS})
    assert {row.case for row in ROWS} == set(range(1, 14))


class ResidueTooLarge(LittleDisk):
    def residue(self, residue: int) -> int:
        return residue + 513 if self.armed else residue


class OtherTags(LittleDisk):
    async def status(self, tag: int, residue: int, status: int) -> None:
        await super().status(tag + 1 if self.armed else tag, residue, status)


class StallsTwice(LittleDisk):
    async def status(self, tag: int, residue: int, status: int) -> None:
        if self.armed:
            self.bulk_in.wedge()
        await super().status(tag, residue, status)


class ShortStatus(LittleDisk):
    async def status(self, tag: int, residue: int, status: int) -> None:
        if self.armed:
            await self.move(self.bulk_in, b"USBS")
        else:
            await super().status(tag, residue, status)


class SaysNothing(LittleDisk):
    async def carry_out(self, cbw: bytes) -> None:
        if not self.armed:
            await super().carry_out(cbw)


class Babbles(LittleDisk):
    async def give(self, cbw: bytes, length: int, intended: int) -> int:
        if not self.armed:
            return await super().give(cbw, length, intended)
        await self.move(self.bulk_in, bytes(length + 1))
        return length


class RefusesCommands(LittleDisk):
    async def serve(self) -> None:
        if self.armed:
            self.bulk_out.halt()
            await anyio.sleep_forever()
        await super().serve()


class ReadsTheNextBlock(LittleDisk):
    async def give(self, cbw: bytes, length: int, intended: int) -> int:
        if self.armed and cbw[15] == 0x28:
            cbw = cbw[:20] + bytes((cbw[20] + 1,)) + cbw[21:]
        return await super().give(cbw, length, intended)


class ShiftsItsInquiry(LittleDisk):
    async def give(self, cbw: bytes, length: int, intended: int) -> int:
        if not self.armed or cbw[15] != 0x12:
            return await super().give(cbw, length, intended)
        data = bytes(min(length, intended))
        await self.move(self.bulk_in, data)
        return len(data)


@pytest.mark.parametrize(
    ("device", "check", "why"),
    [
        (ReadsTheNextBlock, "case-6", "byte 0 of the data is 0x3b, expected 0x31"),
        (ReadsTheNextBlock, "case-5", "byte 0 of the data is 0x3b, expected 0x31"),
        (ShiftsItsInquiry, "case-6-short", "byte 1 of the data is 0x00, expected 0x80"),
        (ShiftsItsInquiry, "case-5-short", "byte 1 of the data is 0x00, expected 0x80"),
        (NeverAPhaseError, "case-2", "bCSWStatus 0 (passed), expected 2 (phase error) (BOT 6.7.1)"),
        (
            AlwaysAPhaseError, "case-6",
            "bCSWStatus 2 (phase error), expected 0 (passed) or 1 (failed) (BOT 6.7.2)",
        ),
        (
            EndsWithShortPackets, "case-5",
            "512 of 1024 bytes came, and no STALL on bulk IN (BOT 6.7.2)",
        ),
        (WritesWhatItWasNotGiven, "case-8", "it has changed blocks 30 to 33"),
        (
            StatusTooEarly, "case-4",
            "the CSW came in the data stage, after 0 of 512 bytes and no STALL (BOT 6.7.2)",
        ),
        (
            NoResidue, "case-11",
            "the residue says that 1024 bytes count, but 512 moved (BOT 6.7.3)",
        ),
        (
            ResidueTooLarge, "case-12",
            "dCSWDataResidue 513 of 1024 bytes, expected 0 (BOT 6.7.3)",
        ),
        (
            ResidueTooLarge, "case-9",
            "dCSWDataResidue 1025 of 512 bytes: more than there were to move (BOT 6.3.2)",
        ),
        (OtherTags, "case-1", "expected 0xb07c"),
        (StallsTwice, "case-1", "bulk IN was STALLed twice where the CSW should come"),
        (ShortStatus, "case-1", "CSW length 4, expected 13 (BOT 6.3.1)"),
        (SaysNothing, "case-1", "bulk IN: neither an answer nor STALL for 0.15 s"),
        (Babbles, "case-6-short", "bulk IN: -EOVERFLOW"),
        (TakesAnything, "cbw-long", "after the CBW bulk IN brought 13 bytes, expected STALL"),
        (
            BelievesInClearFeature, "cbw-wedge",
            "after CLEAR_FEATURE(ENDPOINT_HALT) of both endpoints bulk IN brought 13 bytes",
        ),
        (DiesOfNonsense, "cbw-flags", "after reset recovery: bulk OUT was STALLed"),
        (SixteenIsNoLun, "max-lun", "it brings 10, expected one byte, 0 to 15"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(device: type[LittleDisk], check: str, why: str) -> None:
    spoiled = device()
    with subject_of(spoiled, timeout=QUICK) as subject:
        spoiled.armed = True
        verdict = verdicts_of(subject, check)[check]
    assert verdict.result == FAIL
    assert why in verdict.why


def test_what_was_changed_is_written_again() -> None:
    device = WritesWhatItWasNotGiven()
    before = bytes(device.medium)
    with subject_of(device) as subject:
        verdicts_of(subject, "8")
    assert device.medium == before


class DiesOnce(LittleDisk):
    """A CBW that is not valid kills it until the bus is reset."""

    async def refuse(self) -> None:
        self.bulk_in.wedge()
        await anyio.sleep_forever()

    def reset(self) -> None:
        """Too late."""


def test_a_device_that_a_reset_of_the_port_brings_back_is_tested_further() -> None:
    with subject_of(DiesOnce(), timeout=QUICK) as subject:
        verdicts = verdicts_of(subject, "cbw-short", "cbw-tag")
    assert results(verdicts) == {"cbw-short": FAIL, "cbw-tag": PASS}


def test_behind_a_device_that_is_lost_nothing_is_tried() -> None:
    device = SaysNothing()
    with subject_of(device, timeout=QUICK) as subject:
        device.armed = True
        verdicts = verdicts_of(subject, "1", "6", "cbw-tag")
    assert results(verdicts) == {
        "case-1": FAIL, "case-6": SKIP, "case-6-short": SKIP, "cbw-tag": SKIP,
    }  # fmt: skip
    assert verdicts["case-6"].why == "the device was lost after case-1"
    assert "neither reset recovery nor a reset of the port" in verdicts["case-1"].why


def test_a_device_that_answers_nothing_is_no_subject() -> None:
    device = SaysNothing()
    device.armed = True
    with (
        pytest.raises(Violation, match="neither an answer nor STALL"),
        subject_of(device, timeout=QUICK),
    ):
        pass


# --- judging -----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", BOT_CASES)
@pytest.mark.parametrize("status", [0, 1, 2, 3])
def test_each_case_has_its_statuses(number: int, status: int) -> None:
    case = BOT_CASES[number]
    flags = Direction.IN if case.host is Direction.IN else Direction.OUT
    cbw = Cbw(1, 512 if case.host is not None else 0, flags, 0, b"\0")
    counts = {6: 512, 12: 512}.get(number, 0)
    residue = cbw.dCBWDataTransferLength - counts
    seen = Seen(csw=Csw(1, residue, status), moved=counts, data=bytes(counts), stalls=1)
    allowed = (2,) if number in (2, 3, 7, 8, 10, 13) else (0, 1)
    assert (not faults(case, cbw, seen, counts)) == (status in allowed)


def test_padding_is_no_fault_and_does_not_count() -> None:
    cbw = Cbw(1, 512, Direction.IN, 0, b"\0")
    padded = Seen(csw=Csw(1, 512 - 36, 0), moved=512, data=bytes(512))
    assert not faults(BOT_CASES[5], cbw, padded, 36)
    assert faults(BOT_CASES[5], cbw, replace(padded, csw=Csw(1, 0, 0)), 36)
    assert faults(BOT_CASES[5], cbw, replace(padded, moved=400, data=bytes(400)), 36)


def test_dropping_what_comes_is_no_fault() -> None:
    cbw = Cbw(1, 1024, Direction.OUT, 0, b"\0")
    for moved, stalls in ((1024, 0), (512, 1)):
        seen = Seen(csw=Csw(1, 512, 0), moved=moved, stalls=stalls)
        assert not faults(BOT_CASES[11], cbw, seen, 512)


@pytest.mark.parametrize(
    ("host", "device", "number"),
    [
        ((None, 0), (None, 0), 1), ((OUT, 0), (IN, 0), 1), ((None, 0), (IN, 36), 2),
        ((None, 0), (OUT, 36), 3), ((IN, 1), (None, 0), 4), ((IN, 2), (IN, 1), 5),
        ((IN, 2), (IN, 2), 6), ((IN, 1), (IN, 2), 7), ((IN, 1), (OUT, 1), 8),
        ((IN, 2), (OUT, 1), 8), ((IN, 1), (OUT, 2), 8), ((OUT, 1), (None, 0), 9),
        ((OUT, 1), (IN, 1), 10), ((OUT, 2), (OUT, 1), 11), ((OUT, 1), (OUT, 1), 12),
        ((OUT, 1), (OUT, 2), 13),
    ],
)  # fmt: skip
def test_lengths_make_the_case(
    host: tuple[Direction | None, int], device: tuple[Direction | None, int], number: int
) -> None:
    assert bot_case(*host, *device).number == number


# --- choosing ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (("6",), ["case-6", "case-6-short"]),
        (("case-6",), ["case-6"]),
        (("11-13",), ["case-11", "case-12", "case-13"]),
        (("cbw-tag", "1"), ["case-1", "cbw-tag"]),
        (("class",), ["max-lun", "reset-data", "reset-status", "reset-stalls", "status-halt"]),
        ((), [check.name for check in CHECKS]),
    ],
)
def test_words_choose_checks(words: tuple[str, ...], names: list[str]) -> None:
    assert [check.name for check in choose(words)] == names


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("14", "check '14' is unknown; --list"), ("0", "is unknown"), ("7-", "is unknown"),
        ("cbw-shrt", "do you mean cbw-short"),
    ],
)  # fmt: skip
def test_other_words_are_refused(word: str, message: str) -> None:
    with pytest.raises(SchemeError, match=message):
        choose((word,))


# --- the device and the command ----------------------------------------------------------------


def test_a_disk_that_is_in_use_is_left_alone(tmp_path: Path) -> None:
    mounts, swaps = tmp_path / "mounts", tmp_path / "swaps"
    mounts.write_text("/dev/sdb1 /mnt ext4 rw 0 0\n/dev/sdaa /x ext4 rw 0 0\n")
    swaps.write_text("Filename Type Size\n/dev/sdc2 partition 4096\n")
    others = {"mounts": mounts, "swaps": swaps}
    for nodes in ((), ("/dev/bus/usb/001/002", "/dev/sda", "/dev/sda1", "/dev/sg1")):
        target.check_unused(nodes, **others)
    with pytest.raises(target.DeviceInUse, match=r"/dev/sdb1 is in use \(/mnt\)"):
        target.check_unused(("/dev/sdb", "/dev/sdb1"), **others)
    with pytest.raises(target.DeviceInUse, match=r"/dev/sdc2 is in use \(swap\)"):
        target.check_unused(("/dev/sdc", "/dev/sdc2"), **others)


def test_a_disk_that_device_mapper_holds_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def claim(path: str, flags: int) -> int:
        assert (path, bool(flags & os.O_EXCL)) == ("/dev/sdd", True)
        raise OSError(errno.EBUSY, "busy", path)

    monkeypatch.setattr("os.open", claim)
    nothing = {"mounts": tmp_path / "mounts", "swaps": tmp_path / "swaps"}
    with pytest.raises(target.DeviceInUse, match="/dev/sdd is in use: see `lsblk /dev/sdd`"):
        target.check_unused(("/dev/sdd", "/dev/sg3"), **nothing)


def test_a_device_without_the_interface_is_named() -> None:
    with pytest.raises(SchemeError, match="busid '1-2'"), host_of(LittleDisk()) as host:
        port = host.device.backend.port
        with target.remote(HOST, port, "1-2"):
            pass


@pytest.fixture
def port() -> Iterator[int]:
    gadget = gadget_of(MassStorageFunction([RamLun(MIB)]))
    with serving(gadget, speed=Speed.HIGH) as listening:
        yield listening


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["bot-check", *arguments])
    return result.exit_code, result.output


def test_the_command_prints_a_table_and_ends_with_0(port: int) -> None:
    status, output = run(HOST, "1-1", "-t", str(port), "--checks", "4-5,max-lun")
    assert status == 0
    assert f"usbip-vudc bot-check {HOST} 1-1" in output
    assert "BOT 6.7.2 case 5" in output
    assert "4 pass, 0 fail, 0 skip" in output


def test_the_command_prints_json(port: int) -> None:
    status, output = run(HOST, "1-1", "-t", str(port), "--json", "--no-write")
    said = json.loads(output[: output.rindex("}") + 1])
    assert (status, said["ok"], said["lun"]) == (0, True, 0)
    assert said["summary"] == {"pass": len(CHECKS) - len(WRITING), "fail": 0, "skip": len(WRITING)}


def test_a_device_that_fails_makes_the_status_1() -> None:
    with serving(gadget_of(NoResidue()), speed=Speed.HIGH) as port:
        status, output = run(HOST, "1-1", "-t", str(port), "--checks", "9", "--ktap")
    assert status == 1
    assert "not ok 1 case-9" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name one device"),
        ((HOST,), "name one device"),
        ((HOST, "1-1", "--device", "1-1"), "name one device"),
        ((HOST, "1-1", "--checks", "nothing"), "check 'nothing' is unknown"),
        (("--device", "1-1", "--vhci"), "--vhci is for a device of a USB/IP server"),
    ],
)
def test_wrong_usage_is_said(arguments: tuple[str, ...], message: str) -> None:
    status, output = run(*arguments)
    assert status == 2
    assert message in output


def test_a_device_that_is_not_there_is_named(port: int) -> None:
    status, output = run(HOST, "1-9", "-t", str(port))
    assert status == 1
    assert "busid '1-9'" in output
    status, output = run(HOST, "1-1", "-t", "1")
    assert status == 1
    assert "is a USB/IP server running there?" in output


def test_the_list_shows_every_check_and_needs_no_device() -> None:
    status, output = run("--list")
    assert status == 0
    for check in CHECKS:
        assert check.name in output


def test_trouble_in_giving_the_device_back_hides_no_verdict(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = target.remote

    @contextmanager
    def lost(*where: Any) -> Iterator[usb.core.Device]:
        with opened(*where) as device:
            yield device
        raise SysfsError(errno.EINVAL, Path("detach"), "8")

    monkeypatch.setattr("usbip_vudc.cli.bot_check.remote", lost)
    status, output = run(HOST, "1-1", "-t", str(port), "--checks", "1,6")
    assert status == 0
    assert "3 pass, 0 fail, 0 skip" in output
    assert "afterwards: detach: writing '8': Invalid argument" in output


def test_what_is_known_before_an_interrupt_is_told(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(subject: Subject, chosen: Sequence[Check]) -> Iterator[Verdict]:
        yield from examine(subject, chosen[:1])
        raise KeyboardInterrupt

    monkeypatch.setattr("usbip_vudc.cli.bot_check.examine", interrupt)
    status, output = run(HOST, "1-1", "-t", str(port))
    assert status == 130
    assert "1 pass, 0 fail, 0 skip" in output
    assert "interrupted; the rest was not tried" in output


# --- the page ----------------------------------------------------------------------------------


def test_the_page_has_every_case_and_every_check() -> None:
    page = (Path(__file__).parent.parent / "docs/bot.md").read_text()
    assert filled(page) == page, "run: python -m tests.bot_page docs/bot.md"


def test_what_is_known_of_others_is_about_checks() -> None:
    names = {check.name for check in CHECKS}
    for known in KNOWN.values():
        assert set(known) <= names
