"""UsbStorage: a USB mass-storage initiator for tests, bulk-only transport (BOT 1.0) and SCSI.

It is written against ``usb.core.Device``, so it runs over this project's pyusb backend and over
libusb alike. It is strict: what BOT does not allow a device to send is a TransportError, where
an operating system might look away. It is no block layer: nothing is cached or retried.
"""

from __future__ import annotations

import errno
import struct
import time
from collections.abc import Callable
from typing import Final, NoReturn

import usb.core
import usb.util

from usbip_vudc.errors import RemoteProtocolError, UsbipVudcError
from usbip_vudc.host import scsi
from usbip_vudc.host.pipes import BulkPipes
from usbip_vudc.host.scsi import Capacity, Inquiry, Sense, SupportedCommand, command_name
from usbip_vudc.sglist import Buffer, SGList, parse_layout
from usbip_vudc.usb.bot import (
    BULK_ONLY_MASS_STORAGE_RESET,
    CSW_SIZE,
    GET_MAX_LUN,
    Cbw,
    Csw,
    CswStatus,
)
from usbip_vudc.usb.ch9 import Direction

__all__ = (
    "Capacity",
    "CheckCondition",
    "Inquiry",
    "PhaseError",
    "Sense",
    "StorageError",
    "SupportedCommand",
    "TransportError",
    "UsbStorage",
)

_MAX_TRANSFER_SUPER: Final = 1 << 20
_MAX_TRANSFER: Final = 120 << 10
"""Bytes of one command: 2048 sectors at SuperSpeed, else 240 (drivers/usb/storage/scsiglue.c)."""


class StorageError(UsbipVudcError):
    """The root of what a storage device can answer that is not success."""


class TransportError(StorageError):
    """The device broke the bulk-only transport. Reset recovery has been done by now."""


class PhaseError(TransportError):
    """The device reported a phase error (CSW status 2). Reset recovery has been done by now."""


class CheckCondition(StorageError):
    """The command failed (CSW status 1); ``sense`` was fetched with REQUEST SENSE."""

    def __init__(self, cdb: bytes, sense: Sense) -> None:
        super().__init__(f"{command_name(cdb)}: {sense}")
        self.cdb = cdb
        self.sense = sense


class UsbStorage:
    """One logical unit of a storage device. Not for use by several threads at once.

    ``timeout_ms`` is for each stage of a command, ``max_transfer`` is the bytes that one command
    may move (default: as Linux). Raises ValueError where the device has no bulk-only interface.

    All methods raise CheckCondition where the command fails, TransportError and PhaseError
    where the transport does, and usb.core.USBError where USB does (a timeout, babble, a device
    that is gone); after a USBError the transport is as it was: call `reset_recovery`.
    """

    def __init__(
        self,
        device: usb.core.Device,
        *,
        lun: int = 0,
        timeout_ms: int = 30_000,
        max_transfer: int | None = None,
    ) -> None:
        self.device = device
        self.lun = lun
        self.timeout_ms = timeout_ms
        is_super = (device.speed or 0) >= usb.util.SPEED_SUPER
        self.max_transfer = max_transfer or (_MAX_TRANSFER_SUPER if is_super else _MAX_TRANSFER)
        self._pipes = BulkPipes(device)
        self._tag = 0
        self._capacity: Capacity | None = None

    # --- commands ------------------------------------------------------------------------------

    def get_max_lun(self) -> int:
        """The highest LUN. A device that has one only may stall (BOT 3.2): 0."""
        try:
            data = self.device.ctrl_transfer(0xA1, GET_MAX_LUN, 0, self._pipes.interface, 1)
        except usb.core.USBError as error:
            if error.errno != errno.EPIPE:
                raise
            return 0
        return int(data[0]) if len(data) else 0

    def inquiry(self) -> Inquiry:
        """Ask the device what it is."""
        return Inquiry.parse(self.command(scsi.INQUIRY, data_in=scsi.INQUIRY_LENGTH))

    def request_sense(self) -> Sense:
        """Fetch why the last command failed; that also clears it."""
        return Sense.parse(self._execute(scsi.REQUEST_SENSE, data_in=scsi.SENSE_LENGTH))

    def test_unit_ready(self) -> None:
        """Raises CheckCondition where the unit is not ready."""
        self.command(scsi.TEST_UNIT_READY)

    def wait_ready(self, timeout: float = 10.0) -> None:
        """Wait until the unit is ready, over unit attentions, at most ``timeout`` seconds.

        Raises the last CheckCondition where it is not by then, or has no medium.
        """
        deadline = time.monotonic() + timeout
        while True:
            try:
                return self.test_unit_ready()
            except CheckCondition as error:
                sense = error.sense
                may_pass = sense.becoming_ready or sense.unit_attention
                if not may_pass or time.monotonic() > deadline:
                    raise
                if sense.becoming_ready:
                    time.sleep(0.05)

    def read_capacity(self) -> Capacity:
        """Ask for the size of the medium; READ CAPACITY(16) where 32 bits do not hold it."""
        data = self.command(scsi.READ_CAPACITY_10, data_in=8)
        last, block_size = self._unpack(">II", data)
        if last == 0xFFFF_FFFF:
            data = self.command(scsi.READ_CAPACITY_16, data_in=32)
            last, block_size = self._unpack(">QI", data)
        if not block_size:
            raise StorageError("READ CAPACITY: blocks of 0 bytes, at least 1 expected")
        self._capacity = Capacity(last + 1, block_size)
        return self._capacity

    @property
    def block_size(self) -> int:
        """Bytes of a block, as `read_capacity` last said (it is asked once)."""
        return (self._capacity or self.read_capacity()).block_size

    def read(self, lba: int, blocks: int) -> bytes:
        """Read ``blocks`` blocks. `read_into` saves a copy."""
        buffer = bytearray(blocks * self.block_size)
        self.read_into(lba, buffer)
        return bytes(buffer)

    def read_into(self, lba: int, buffer: bytearray | memoryview) -> None:
        """Fill ``buffer``, whole blocks, from ``lba`` on."""
        for cdb, piece in self._pieces(lba, memoryview(buffer).cast("B"), scsi.read_command):
            self._whole(cdb, len(piece), self._transact(cdb, data_in=piece))

    def write(self, lba: int, data: Buffer) -> None:
        """Write ``data``, whole blocks, from ``lba`` on."""
        for cdb, piece in self._pieces(lba, memoryview(data).cast("B"), scsi.write_command):
            self._whole(cdb, len(piece), self._transact(cdb, data_out=piece))

    def read_sg(self, lba: int, layout: str | tuple[int, ...]) -> bytes:
        """Read with one command into an SG list such as ``3584+7x4096``, as a block layer would.

        Over this project's backend the list goes out as the backend's ``scatter_gather`` says;
        over any other each entry is a read of its own, which is what a host without SG does.
        A device that sends whole packets overflows an entry that is no multiple of the
        maxpacket: usb.core.USBError with errno 75, the transport left in mid-command.
        """
        lengths = parse_layout(layout) if isinstance(layout, str) else layout
        buffer = bytearray(sum(lengths))
        sg = SGList.laid_out(buffer, lengths)
        cdb = scsi.read_command(lba, self._blocks(sg))
        self._whole(cdb, len(buffer), self._transact(cdb, data_in=sg))
        return bytes(buffer)

    def write_sg(self, lba: int, data: Buffer, layout: str | tuple[int, ...]) -> None:
        """Write ``data`` with one command out of such an SG list; its lengths add up to all of it.

        Without SG, an entry that is no multiple of the maxpacket makes a URB that ends in a short
        packet: to the device that is the end of the data, and what follows is no CBW.
        """
        lengths = parse_layout(layout) if isinstance(layout, str) else layout
        sg = SGList.laid_out(bytearray(data), lengths)
        cdb = scsi.write_command(lba, self._blocks(sg))
        self._whole(cdb, sg.length, self._transact(cdb, data_out=sg))

    def synchronize_cache(self) -> None:
        """Have the device write what it holds back."""
        self.command(scsi.SYNCHRONIZE_CACHE)

    def verify(self, lba: int, blocks: int) -> None:
        """Have the device check that these blocks can be read."""
        self.command(scsi.verify_command(lba, blocks))

    def compare(self, lba: int, data: Buffer) -> None:
        """Have the device compare ``data``, whole blocks, with what is there from ``lba`` on.

        Raises CheckCondition 0E/1D/00 where it differs.
        """
        blocks = memoryview(data).nbytes // self.block_size
        self.command(scsi.verify_command(lba, blocks, compare=True), data)

    def write_same(
        self, lba: int, blocks: int, block: Buffer | None = None, *, unmap: bool = False
    ) -> None:
        """Write one ``block`` (None: zeroes) to all of these; ``unmap`` gives zeroes back."""
        cdb = scsi.write_same_command(lba, blocks, unmap=unmap, data=block is not None)
        self.command(cdb, block)

    def unmap(self, *ranges: tuple[int, int]) -> None:
        """Give blocks back, each range an LBA and a number of blocks."""
        self.command(*scsi.unmap_command(ranges))

    def supported_commands(self) -> tuple[SupportedCommand, ...]:
        """Ask which commands the unit has (REPORT SUPPORTED OPERATION CODES)."""
        cdb = scsi.REPORT_SUPPORTED_OPERATION_CODES
        return SupportedCommand.parse_all(self.command(cdb, data_in=0x2000))

    def command(self, cdb: Buffer, data_out: Buffer | None = None, data_in: int = 0) -> bytes:
        """Execute any command: the bytes that came in (``data_in`` is how many may), or b"".

        Raises CheckCondition with the sense data, which have been fetched by then.
        """
        cdb = bytes(cdb)
        if not 1 <= len(cdb) <= 16 or (data_out and data_in):
            raise ValueError(f"cdb of {len(cdb)} bytes (1 to 16), and data go one way only")
        return self._execute(cdb, data_out, data_in)

    def reset_recovery(self) -> None:
        """Bulk-only reset, clear the halt of bulk IN, then of bulk OUT (BOT 5.3.4)."""
        self.device.ctrl_transfer(
            0x21, BULK_ONLY_MASS_STORAGE_RESET, 0, self._pipes.interface, None, self.timeout_ms
        )
        self.device.clear_halt(self._pipes.address_in)
        self.device.clear_halt(self._pipes.address_out)

    # --- SCSI ----------------------------------------------------------------------------------

    def _execute(self, cdb: bytes, data_out: Buffer | None = None, data_in: int = 0) -> bytes:
        buffer = bytearray(data_in)
        out = memoryview(data_out).cast("B") if data_out else None
        actual = self._transact(cdb, data_out=out, data_in=memoryview(buffer) if data_in else None)
        return bytes(buffer[:actual]) if data_in else b""

    def _pieces(
        self, lba: int, view: memoryview, command: Callable[[int, int], bytes]
    ) -> list[tuple[bytes, memoryview]]:
        """Cut a transfer into commands of at most ``max_transfer`` bytes and 65535 blocks."""
        size = self.block_size
        if len(view) % size:
            raise ValueError(f"{len(view)} bytes are no multiple of the block size, {size}")
        step = max(min(self.max_transfer // size, 0xFFFF), 1)
        pieces = []
        for start in range(0, len(view) // size, step):
            piece = view[start * size : (start + step) * size]
            pieces.append((command(lba + start, len(piece) // size), piece))
        return pieces

    def _blocks(self, sg: SGList) -> int:
        blocks, rest = divmod(sg.length, self.block_size)
        if rest:
            raise ValueError(f"{sg!r} is {sg.length} bytes, no multiple of {self.block_size}")
        return blocks

    def _whole(self, cdb: bytes, expected: int, actual: int) -> None:
        if actual != expected:
            raise StorageError(
                f"{command_name(cdb)}: {actual} of {expected} bytes moved, yet the CSW says passed"
            )

    def _unpack(self, form: str, data: bytes) -> tuple[int, ...]:
        if len(data) < struct.calcsize(form):
            raise StorageError(
                f"READ CAPACITY: {len(data)} bytes, at least {struct.calcsize(form)} expected"
            )
        return struct.unpack_from(form, data)

    # --- bulk-only transport -------------------------------------------------------------------

    def _transact(
        self,
        cdb: bytes,
        *,
        data_out: memoryview | SGList | None = None,
        data_in: memoryview | SGList | None = None,
    ) -> int:
        """Command, data and status: the bytes that counted, by the CSW's residue and by count."""
        data = data_in if data_in is not None else data_out
        length = len(data) if data is not None else 0
        self._tag = self._tag % 0xFFFF_FFFF + 1
        direction = Direction.IN if data_in is not None else Direction.OUT
        cbw = Cbw(self._tag, length, direction, self.lun, cdb)
        if self._pipes.write(memoryview(cbw.pack()), self.timeout_ms) is None:
            self._fail(cdb, "the CBW was stalled (BOT 6.6.1)")
        moved = None
        if data is not None:
            # A stall here ends the data stage early; the halt is cleared and the CSW tells
            # how much of it counted (BOT 6.7.2 and 6.7.3).
            moved = self._move(data, is_in=data_in is not None)
        csw = self._read_csw(cdb, length)
        if csw.bCSWStatus == CswStatus.FAILED:
            if cdb[0] == scsi.REQUEST_SENSE[0]:
                raise CheckCondition(cdb, Sense(0))
            raise CheckCondition(cdb, self.request_sense())
        # A device may say that it sent more than came: what did not come did not count.
        return min(length - csw.dCSWDataResidue, length if moved is None else moved)

    def _move(self, data: memoryview | SGList, *, is_in: bool) -> int | None:
        """Bytes moved, None where a stall ended it."""
        if isinstance(data, SGList):
            move = self._pipes.read_sg if is_in else self._pipes.write_sg
            return move(data, self.timeout_ms)
        if is_in:
            return self._pipes.read(data, self.timeout_ms)
        return self._pipes.write(data, self.timeout_ms)

    def _read_csw(self, cdb: bytes, length: int) -> Csw:
        """A CSW that is valid and meaningful (BOT 6.3): passed or failed."""
        buffer = memoryview(bytearray(CSW_SIZE))
        count = self._pipes.read(buffer, self.timeout_ms)
        if not count:
            # BOT figure 2: a stall here is cleared once. Some disks send an empty packet first;
            # Linux asks again, too (drivers/usb/storage/transport.c, usb_stor_Bulk_transport).
            count = self._pipes.read(buffer, self.timeout_ms)
        if count is None:
            self._fail(cdb, "the CSW was stalled twice (BOT 5.3.3)")
        try:
            csw = Csw.parse(buffer[:count])
        except RemoteProtocolError as error:
            self._fail(cdb, str(error))
        status, residue = csw.bCSWStatus, csw.dCSWDataResidue
        if csw.dCSWTag != self._tag:
            self._fail(cdb, f"CSW tag {csw.dCSWTag:#x}, expected {self._tag:#x} (BOT 6.3.1)")
        if status == CswStatus.PHASE_ERROR:
            self._fail(cdb, "phase error (BOT 6.3.2)", PhaseError)
        if status > CswStatus.PHASE_ERROR or residue > length:
            self._fail(cdb, f"CSW status {status}, residue {residue} of {length} (BOT 6.3.2)")
        return csw

    def _fail(
        self, cdb: bytes, reason: str, kind: type[TransportError] = TransportError
    ) -> NoReturn:
        """Raise, after reset recovery; where that fails too, from its error."""
        error = kind(f"{command_name(cdb)}: {reason}")
        try:
            self.reset_recovery()
        except usb.core.USBError as failure:
            raise error from failure
        raise error
