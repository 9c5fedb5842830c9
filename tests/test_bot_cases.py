"""Our host in each of the thirteen cases, against our disk and against one that is not ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest
import usb.core
import usb.util

from gadgets.mass_storage import MassStorageFunction, RamLun
from tests.little_disk import BLOCK, BLOCKS, LittleDisk, gadget_of
from usbip_vudc.bot_check.cases import ROWS, Row, Trial
from usbip_vudc.bot_check.subject import Medium, Subject
from usbip_vudc.function import ControlRequest, Function
from usbip_vudc.host.storage import CheckCondition, PhaseError, UsbStorage
from usbip_vudc.pyusb_backend import get_backend
from usbip_vudc.serving import serving
from usbip_vudc.sglist import Buffer
from usbip_vudc.usb.bot import BULK_ONLY_MASS_STORAGE_RESET
from usbip_vudc.usb.bot_cases import BOT_CASES
from usbip_vudc.usb.ch9 import Direction, Speed

CONTENT = bytes(n % 251 for n in range(BLOCK * BLOCKS))

MEDIUM = Medium(lba=8, block_size=BLOCK, unit=BLOCK, original=CONTENT[8 * BLOCK :][: 4 * BLOCK],
                writable=True)  # fmt: skip
KNOWN_TO_A_TRIAL = cast(
    "Subject",
    SimpleNamespace(
        medium=MEDIUM, writable=MEDIUM, inquiry=bytes(36), host=SimpleNamespace(packet=BLOCK)
    ),
)


class Ours(MassStorageFunction):
    """Counts the resets."""

    def __init__(self) -> None:
        lun = RamLun(BLOCK * BLOCKS)
        lun.memory[:] = CONTENT
        super().__init__([lun])
        self.resets = 0

    def setup(self, request: ControlRequest) -> Buffer | None:
        self.resets += request.setup.bRequest == BULK_ONLY_MASS_STORAGE_RESET
        return super().setup(request)

    @property
    def content(self) -> bytes:
        return bytes(cast("RamLun", self.luns[0]).memory)


class Others(LittleDisk):
    """Counts the resets."""

    resets = 0

    def setup(self, request: ControlRequest) -> Buffer | None:
        self.resets += request.setup.bRequest == BULK_ONLY_MASS_STORAGE_RESET
        return super().setup(request)

    @property
    def content(self) -> bytes:
        return bytes(self.medium)


@contextmanager
def ready(function: Function) -> Iterator[UsbStorage]:
    with serving(gadget_of(function), speed=Speed.HIGH) as port:
        device = usb.core.find(backend=get_backend(port=port))
        try:
            disk = UsbStorage(device, timeout_ms=10_000)
            disk.wait_ready()
            yield disk
        finally:
            usb.util.dispose_resources(device)


def carry_out(disk: UsbStorage, trial: Trial, host: Direction | None) -> bytes:
    if host is Direction.IN:
        return disk.command(trial.cdb, data_in=trial.announced)
    return disk.command(trial.cdb, MEDIUM.original[: trial.announced])


@pytest.mark.parametrize("kind", [Ours, Others])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_host_does_what_the_case_wants(row: Row, kind: Any) -> None:
    function = kind()
    case, trial = BOT_CASES[row.case], row.trial(KNOWN_TO_A_TRIAL)
    with ready(function) as disk:
        if case.is_phase_error:
            with pytest.raises(PhaseError):
                carry_out(disk, trial, case.host)
        else:
            came = carry_out(disk, trial, case.host)
            assert len(came) == (trial.intended if case.host is Direction.IN else 0)
        # BOT 5.3.3.1: reset recovery after a phase error, and after nothing else.
        assert function.resets == case.is_phase_error
        disk.wait_ready()
        assert disk.read(8, 4) == MEDIUM.original
    assert function.content == CONTENT


class Fails(Others):
    """Fails one command, and moves none of its data."""

    def intends(self, block: bytes) -> tuple[str, int]:
        return ("", 0) if block[0] in (0x28, 0x2A) else super().intends(block)

    def verdict(self, cbw: bytes, *, phase: bool) -> int:
        return int(cbw[15] in (0x28, 0x2A)) or super().verdict(cbw, phase=phase)


def test_a_command_that_fails_amid_its_data_is_no_phase_error() -> None:
    function = Fails()
    with ready(function) as disk:
        with pytest.raises(CheckCondition):
            disk.read(0, 2)
        with pytest.raises(CheckCondition):
            disk.write(0, bytes(2 * BLOCK))
        disk.test_unit_ready()
    assert function.resets == 0
