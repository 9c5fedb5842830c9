"""UsbStorage: a USB mass-storage initiator for tests, bulk-only transport (BOT 1.0) and SCSI.

It is written against ``usb.core.Device``, so it runs over this project's pyusb backend and over
libusb alike. It is strict: what BOT does not allow a device to send is a TransportError, where
an operating system might look away. It is no block layer: nothing is cached or retried.
"""

from __future__ import annotations

import contextlib
import errno
import struct
import time
from array import array
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, NoReturn

import usb.core
import usb.util

from usbip_vudc.errors import UsbipVudcError, errno_name
from usbip_vudc.sglist import Buffer, SGList, parse_layout
from usbip_vudc.usb.ch9 import UsbClass

__all__ = (
    "Capacity",
    "CheckCondition",
    "Inquiry",
    "PhaseError",
    "Sense",
    "StorageError",
    "TransportError",
    "UsbStorage",
)

_BOT: Final = (UsbClass.MASS_STORAGE, 0x06, 0x50)
"""bInterfaceClass, SubClass (SCSI transparent) and Protocol (bulk-only), BOT 4.3."""

_CBW = struct.Struct("<4sIIBBB16s")
_CSW = struct.Struct("<4sIIB")

_MAX_TRANSFER_SUPER: Final = 1 << 20
_MAX_TRANSFER: Final = 120 << 10
"""Bytes of one command: 2048 sectors at SuperSpeed, else 240 (drivers/usb/storage/scsiglue.c)."""

_COMMANDS: Final = {
    0x00: "TEST UNIT READY", 0x03: "REQUEST SENSE", 0x12: "INQUIRY", 0x1A: "MODE SENSE(6)",
    0x1B: "START STOP UNIT", 0x1E: "PREVENT ALLOW MEDIUM REMOVAL", 0x23: "READ FORMAT CAPACITIES",
    0x25: "READ CAPACITY(10)", 0x28: "READ(10)", 0x2A: "WRITE(10)", 0x2F: "VERIFY(10)",
    0x35: "SYNCHRONIZE CACHE(10)", 0x5A: "MODE SENSE(10)", 0x88: "READ(16)", 0x8A: "WRITE(16)",
    0x9E: "READ CAPACITY(16)", 0xA0: "REPORT LUNS",
}  # fmt: skip
_SENSE_KEYS: Final = (
    "NO SENSE", "RECOVERED ERROR", "NOT READY", "MEDIUM ERROR", "HARDWARE ERROR",
    "ILLEGAL REQUEST", "UNIT ATTENTION", "DATA PROTECT", "BLANK CHECK", "VENDOR SPECIFIC",
    "COPY ABORTED", "ABORTED COMMAND", "RESERVED", "VOLUME OVERFLOW", "MISCOMPARE", "COMPLETED",
)  # fmt: skip
_ADDITIONAL: Final = {
    (0x00, 0x00): "no additional sense information",
    (0x04, 0x00): "logical unit not ready, cause not reportable",
    (0x04, 0x01): "logical unit is becoming ready",
    (0x04, 0x02): "logical unit not ready, START UNIT required",
    (0x0C, 0x00): "write error",
    (0x11, 0x00): "unrecovered read error",
    (0x1A, 0x00): "parameter list length error",
    (0x20, 0x00): "invalid command operation code",
    (0x21, 0x00): "logical block address out of range",
    (0x24, 0x00): "invalid field in CDB",
    (0x25, 0x00): "logical unit not supported",
    (0x26, 0x00): "invalid field in parameter list",
    (0x27, 0x00): "write protected",
    (0x28, 0x00): "not ready to ready change, medium may have changed",
    (0x29, 0x00): "power on, reset, or bus device reset occurred",
    (0x39, 0x00): "saving parameters not supported",
    (0x3A, 0x00): "medium not present",
    (0x53, 0x02): "medium removal prevented",
    (0x55, 0x00): "system resource failure",
}
_NOT_READY, _UNIT_ATTENTION = 0x02, 0x06
_BECOMING_READY, _NO_MEDIUM = 0x04, 0x3A


class StorageError(UsbipVudcError):
    """The root of what a storage device can answer that is not success."""


class TransportError(StorageError):
    """The device broke the bulk-only transport. Reset recovery has been done by now."""


class PhaseError(TransportError):
    """The device reported a phase error (CSW status 2). Reset recovery has been done by now."""


@dataclass(frozen=True, slots=True)
class Sense:
    """Why a command failed: sense key, additional sense code and qualifier (SPC-4 4.5)."""

    key: int
    asc: int = 0
    ascq: int = 0

    @classmethod
    def parse(cls, data: bytes) -> Sense:
        """Read fixed (70h, 71h) or descriptor format (72h, 73h); too short reads as zeros."""
        data = data.ljust(18, b"\0")
        if data[0] & 0x7F in (0x72, 0x73):
            return cls(data[1] & 0x0F, data[2], data[3])
        return cls(data[2] & 0x0F, data[12], data[13])

    def __str__(self) -> str:
        text = _ADDITIONAL.get((self.asc, self.ascq), "no name known")
        return f"{_SENSE_KEYS[self.key]}, {text} ({self.key:X}h {self.asc:02X}h {self.ascq:02X}h)"


class CheckCondition(StorageError):
    """The command failed (CSW status 1); ``sense`` was fetched with REQUEST SENSE."""

    def __init__(self, cdb: bytes, sense: Sense) -> None:
        super().__init__(f"{_command_name(cdb)}: {sense}")
        self.cdb = cdb
        self.sense = sense


class Capacity(NamedTuple):
    """The size of a medium: number of blocks, and bytes of one."""

    blocks: int
    block_size: int


@dataclass(frozen=True, slots=True)
class Inquiry:
    """Standard INQUIRY data (SPC-4 6.4.2), texts without their padding."""

    peripheral: int
    removable: bool
    vendor: str
    product: str
    revision: str


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
        self._pipes = _Pipes(device)
        self._tag = 0
        self._capacity: Capacity | None = None

    # --- commands ------------------------------------------------------------------------------

    def get_max_lun(self) -> int:
        """The highest LUN. A device that has one only may stall (BOT 3.2): 0."""
        try:
            data = self.device.ctrl_transfer(0xA1, 0xFE, 0, self._pipes.interface, 1)
        except usb.core.USBError as error:
            if error.errno != errno.EPIPE:
                raise
            return 0
        return int(data[0]) if len(data) else 0

    def inquiry(self) -> Inquiry:
        """Ask the device what it is."""
        raw = self.command(bytes((0x12, 0, 0, 0, 36, 0)), data_in=36).ljust(36, b"\0")
        vendor, product, revision = (
            raw[start:end].decode("ascii", "replace").strip(" \0")
            for start, end in ((8, 16), (16, 32), (32, 36))
        )
        return Inquiry(raw[0], bool(raw[1] & 0x80), vendor, product, revision)

    def request_sense(self) -> Sense:
        """Fetch why the last command failed; that also clears it."""
        return Sense.parse(self._execute(bytes((0x03, 0, 0, 0, 18, 0)), data_in=18))

    def test_unit_ready(self) -> None:
        """Raises CheckCondition where the unit is not ready."""
        self.command(bytes(6))

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
                waits = sense.key == _NOT_READY and sense.asc == _BECOMING_READY
                if not (waits or sense.key == _UNIT_ATTENTION) or time.monotonic() > deadline:
                    raise
                if waits:
                    time.sleep(0.05)

    def read_capacity(self) -> Capacity:
        """Ask for the size of the medium; READ CAPACITY(16) where 32 bits do not hold it."""
        data = self.command(bytes((0x25, *bytes(9))), data_in=8)
        last, block_size = self._unpack(">II", data)
        if last == 0xFFFF_FFFF:
            cdb = struct.pack(">BBQIBB", 0x9E, 0x10, 0, 32, 0, 0)
            last, block_size = self._unpack(">QI", self.command(cdb, data_in=32))
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
        for cdb, piece in self._pieces(lba, memoryview(buffer).cast("B"), 0x28, 0x88):
            self._whole(cdb, len(piece), self._transact(cdb, data_in=piece))

    def write(self, lba: int, data: Buffer) -> None:
        """Write ``data``, whole blocks, from ``lba`` on."""
        for cdb, piece in self._pieces(lba, memoryview(data).cast("B"), 0x2A, 0x8A):
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
        blocks, rest = divmod(len(buffer), self.block_size)
        if rest:
            raise ValueError(f"{sg!r} is {len(buffer)} bytes, no multiple of {self.block_size}")
        cdb = _block_command(0x28, 0x88, lba, blocks)
        self._whole(cdb, len(buffer), self._transact(cdb, data_in=sg))
        return bytes(buffer)

    def synchronize_cache(self) -> None:
        """Have the device write what it holds back."""
        self.command(bytes((0x35, *bytes(9))))

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
        self.device.ctrl_transfer(0x21, 0xFF, 0, self._pipes.interface, None, self.timeout_ms)
        self.device.clear_halt(self._pipes.address_in)
        self.device.clear_halt(self._pipes.address_out)

    # --- SCSI ----------------------------------------------------------------------------------

    def _execute(self, cdb: bytes, data_out: Buffer | None = None, data_in: int = 0) -> bytes:
        buffer = bytearray(data_in)
        out = memoryview(data_out).cast("B") if data_out else None
        actual = self._transact(cdb, data_out=out, data_in=memoryview(buffer) if data_in else None)
        return bytes(buffer[:actual]) if data_in else b""

    def _pieces(
        self, lba: int, view: memoryview, code10: int, code16: int
    ) -> list[tuple[bytes, memoryview]]:
        """Cut a transfer into commands of at most ``max_transfer`` bytes and 65535 blocks."""
        size = self.block_size
        if len(view) % size:
            raise ValueError(f"{len(view)} bytes are no multiple of the block size, {size}")
        step = max(min(self.max_transfer // size, 0xFFFF), 1)
        pieces = []
        for start in range(0, len(view) // size, step):
            piece = view[start * size : (start + step) * size]
            pieces.append((_block_command(code10, code16, lba + start, len(piece) // size), piece))
        return pieces

    def _whole(self, cdb: bytes, expected: int, actual: int) -> None:
        if actual != expected:
            raise StorageError(
                f"{_command_name(cdb)}: {actual} of {expected} bytes moved, yet the CSW says passed"
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
        data_out: memoryview | None = None,
        data_in: memoryview | SGList | None = None,
    ) -> int:
        """Command, data and status: the bytes that counted, by the CSW's residue."""
        data = data_in if data_in is not None else data_out
        length = len(data) if data is not None else 0
        self._tag = self._tag % 0xFFFF_FFFF + 1
        flags = 0x80 if data_in is not None else 0
        cbw = _CBW.pack(b"USBC", self._tag, length, flags, self.lun, len(cdb), cdb)
        if self._pipes.write(memoryview(cbw), self.timeout_ms) is None:
            self._fail(cdb, "the CBW was stalled (BOT 6.6.1)")
        if data is not None:
            # A stall here ends the data stage early; the halt is cleared and the CSW tells
            # how much of it counted (BOT 6.7.2 and 6.7.3).
            self._move(data, is_in=data_in is not None)
        status, residue = self._read_csw(cdb, length)
        if status == 1:
            if cdb[0] == 0x03:
                raise CheckCondition(cdb, Sense(0))
            raise CheckCondition(cdb, self.request_sense())
        return length - residue

    def _move(self, data: memoryview | SGList, *, is_in: bool) -> None:
        if isinstance(data, SGList):
            self._pipes.read_sg(data, self.timeout_ms)
        elif is_in:
            self._pipes.read(data, self.timeout_ms)
        else:
            self._pipes.write(data, self.timeout_ms)

    def _read_csw(self, cdb: bytes, length: int) -> tuple[int, int]:
        """The status (0 or 1) and residue of a CSW that is valid and meaningful (BOT 6.3)."""
        buffer = bytearray(_CSW.size)
        count = self._pipes.read(memoryview(buffer), self.timeout_ms)
        if count is None:  # BOT figure 2: a stall here is cleared once
            count = self._pipes.read(memoryview(buffer), self.timeout_ms)
        if count is None:
            self._fail(cdb, "the CSW was stalled twice (BOT 5.3.3)")
        if count != _CSW.size:
            self._fail(cdb, f"CSW of {count} bytes, expected {_CSW.size} (BOT 6.3.1)")
        signature, tag, residue, status = _CSW.unpack_from(buffer)
        if signature != b"USBS":
            self._fail(cdb, f"CSW signature {signature!r}, expected b'USBS' (BOT 5.2)")
        if tag != self._tag:
            self._fail(cdb, f"CSW tag {tag:#x}, expected {self._tag:#x} (BOT 6.3.1)")
        if status == 2:
            self._fail(cdb, "phase error (BOT 6.3.2)", PhaseError)
        if status > 2 or residue > length:
            self._fail(cdb, f"CSW status {status}, residue {residue} of {length} (BOT 6.3.2)")
        return status, residue

    def _fail(
        self, cdb: bytes, reason: str, kind: type[TransportError] = TransportError
    ) -> NoReturn:
        """Raise, after reset recovery; where that fails too, from its error."""
        error = kind(f"{_command_name(cdb)}: {reason}")
        try:
            self.reset_recovery()
        except usb.core.USBError as failure:
            raise error from failure
        raise error


class _Pipes:
    """The bulk pair of a device's bulk-only interface, and how bytes get there.

    With our own backend they move straight between the device and the caller's memory. With
    another one they go through an array, since that is all that pyusb's public calls take.
    """

    def __init__(self, device: usb.core.Device) -> None:
        self._device = device
        self._array = array("B")
        interface = _find_interface(device)
        self.interface: int = interface.bInterfaceNumber
        for endpoint in interface:
            if usb.util.endpoint_type(endpoint.bmAttributes) == usb.util.ENDPOINT_TYPE_BULK:
                if endpoint.bEndpointAddress & usb.util.ENDPOINT_IN:
                    self.address_in: int = endpoint.bEndpointAddress
                else:
                    self.address_out: int = endpoint.bEndpointAddress
        with contextlib.suppress(NotImplementedError):  # libusb outside Linux
            if device.is_kernel_driver_active(self.interface):
                device.detach_kernel_driver(self.interface)
        if interface.bAlternateSetting:
            device.set_interface_altsetting(self.interface, interface.bAlternateSetting)

    def read(self, view: memoryview, timeout_ms: int) -> int | None:
        """Bytes received, None for a stall; the halt has then been cleared."""
        address = self.address_in
        try:
            if self._is_ours:
                return int(self._direct("bulk_read", address, view, timeout_ms))
            return self._read_array(view, timeout_ms)
        except usb.core.USBError as error:
            self._stalled(address, error)
            return None

    def write(self, view: memoryview, timeout_ms: int) -> int | None:
        """Bytes sent, None for a stall; the halt has then been cleared."""
        address = self.address_out
        try:
            if self._is_ours:
                return int(self._direct("bulk_write", address, view, timeout_ms))
            data = array("B")
            data.frombytes(view)
            return int(self._device.write(address, data, timeout_ms))
        except usb.core.USBError as error:
            self._stalled(address, error)
            return None

    def read_sg(self, sg: SGList, timeout_ms: int) -> None:
        """Receive into an SG list until it is full, or a short packet or a stall ends it."""
        if not self._is_ours:
            for segment in sg.segments:
                if self.read(segment, timeout_ms) != len(segment):
                    return
            return
        status = self._direct("bulk_sg", self.address_in, sg, timeout_ms).status
        if status and status != -errno.EREMOTEIO:
            timed_out = status == -errno.ETIMEDOUT
            kind = usb.core.USBTimeoutError if timed_out else usb.core.USBError
            self._stalled(self.address_in, kind(errno_name(status), None, -status))

    @property
    def _is_ours(self) -> bool:
        return hasattr(self._device.backend, "bulk_sg")

    def _direct(self, call: str, address: int, data: Any, timeout_ms: int) -> Any:
        """Call the backend itself: unlike Device.read it lets any memory be the buffer."""
        usb.util.claim_interface(self._device, self.interface)
        handle = self._device._ctx.handle  # noqa: SLF001 - pyusb has no public name for it
        return getattr(self._device.backend, call)(
            handle, address, self.interface, data, timeout_ms
        )

    def _read_array(self, view: memoryview, timeout_ms: int) -> int:
        if len(self._array) != len(view):
            self._array = usb.util.create_buffer(len(view))
        try:
            count = self._device.read(self.address_in, self._array, timeout_ms)
        except usb.core.USBError:
            view[:] = memoryview(self._array)  # what came before a stall counts too
            raise
        view[:count] = memoryview(self._array)[:count]
        return int(count)

    def _stalled(self, address: int, error: usb.core.USBError) -> None:
        if error.errno != errno.EPIPE:
            raise error
        self._device.clear_halt(address)


def _find_interface(device: usb.core.Device) -> usb.core.Interface:
    for interface in device.get_active_configuration():
        if (
            interface.bInterfaceClass,
            interface.bInterfaceSubClass,
            interface.bInterfaceProtocol,
        ) == _BOT:
            return interface
    raise ValueError("the device has no interface of class 08/06/50, SCSI over bulk-only")


def _command_name(cdb: bytes) -> str:
    return _COMMANDS.get(cdb[0], f"command {cdb[0]:02X}h")


def _block_command(code10: int, code16: int, lba: int, blocks: int) -> bytes:
    """A READ or WRITE CDB: ten bytes where they can say it, else sixteen (SBC-3 5.8, 5.10)."""
    if lba + blocks <= 1 << 32 and blocks <= 0xFFFF:
        return struct.pack(">BBIBHB", code10, 0, lba, 0, blocks, 0)
    return struct.pack(">BBQIBB", code16, 0, lba, blocks, 0, 0)
