"""A SCSI target without USB, for tests: runs a command block to its end, data and all."""

from __future__ import annotations

from gadgets.mass_storage.scsi import Answer, Target
from gadgets.mass_storage.sense import Sense
from gadgets.mass_storage.unit import Lun
from usbip_vudc.usb.ch9 import Direction

__all__ = ("failure", "finished", "given", "reply", "sent")

PIECE = 1024
"""Bytes of one piece of data at least: whole blocks."""


def given(lun: Lun, cdb: str | bytes) -> Answer:
    """What the device intends."""
    block = bytes.fromhex(cdb) if isinstance(cdb, str) else cdb
    return Target([lun]).execute(lun, block)


def reply(lun: Lun, cdb: str) -> str:
    """The parameter data of a command that succeeds, in hexadecimal."""
    answer = given(lun, cdb)
    assert not answer.failed, str(lun.sense)
    assert answer.direction is Direction.IN and answer.data is not None
    assert answer.length == len(answer.data)
    return memoryview(answer.data).hex(" ")


def failure(lun: Lun, cdb: str | bytes) -> str:
    """The sense of a command that is refused before any data moves."""
    answer = given(lun, cdb)
    assert answer.failed and not answer.length and answer.direction is None
    return str(lun.sense)


def finished(answer: Answer) -> Sense | None:
    """Do the work of an answer: how it failed."""
    return answer.work() if answer.work is not None else None


def sent(lun: Lun, cdb: str | bytes, data: bytes) -> Sense | None:
    """Run a command with all of its data from the host, in pieces: how it failed."""
    answer = given(lun, cdb)
    assert not answer.failed, str(lun.sense)
    assert answer.direction is Direction.OUT and answer.length == len(data)
    size = max(PIECE, lun.block_size)
    for start in range(0, len(data), size):
        piece = bytearray(data[start : start + size])
        if answer.take is not None:
            failed = answer.take(start, memoryview(piece))
            if failed is not None:
                return failed
            piece[:] = b"\xee" * len(piece)  # the transport uses its buffer again
        else:
            assert lun.write(answer.offset + start, memoryview(piece)) == len(piece)
    return finished(answer)
