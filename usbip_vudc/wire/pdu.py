"""Every PDU of USB/IP 1.1.1 as a value with pack and parse (usbip_protocol.rst).

Fields keep the kernel's names (drivers/usb/usbip/usbip_common.h, tools/usb/usbip). All numbers
are big endian except the setup packet. Parsers take exactly the PDU's bytes and hold no socket.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from usbip_vudc.errors import RemoteProtocolError
from usbip_vudc.urb import IsoPacket
from usbip_vudc.usb.ch9 import Speed

__all__ = (
    "CMD_SUBMIT",
    "CMD_UNLINK",
    "HEADER_SIZE",
    "OP_HEADER_SIZE",
    "RET_SUBMIT",
    "RET_UNLINK",
    "USBIP_VERSION",
    "CmdSubmit",
    "CmdUnlink",
    "IsoPacket",
    "OpCode",
    "OpHeader",
    "OpRepDevlist",
    "OpRepImport",
    "OpReqImport",
    "OpStatus",
    "RetSubmit",
    "RetUnlink",
    "UsbDevice",
    "UsbInterface",
)

USBIP_VERSION: Final = 0x0111
OP_HEADER_SIZE: Final = 8
HEADER_SIZE: Final = 48

CMD_SUBMIT: Final = 1
CMD_UNLINK: Final = 2
RET_SUBMIT: Final = 3
RET_UNLINK: Final = 4

BUSID_SIZE: Final = 32


class OpCode(IntEnum):
    """Operation codes; a reply is the request without the high bit."""

    REQ_DEVLIST = 0x8005
    REP_DEVLIST = 0x0005
    REQ_IMPORT = 0x8003
    REP_IMPORT = 0x0003


class OpStatus(IntEnum):
    """ST_* of tools/usb/usbip/libsrc/usbip_common.h."""

    OK = 0
    NA = 1
    DEV_BUSY = 2
    DEV_ERR = 3
    NODEV = 4
    ERROR = 5

    @property
    def meaning(self) -> str:
        """The status in English."""
        return {
            0: "ok",
            1: "not available",
            2: "the device is already imported by someone",
            3: "the device is in an error state",
            4: "there is no such busid",
            5: "the server failed",
        }[self]


# --- operations: before a device is imported ----------------------------------------------------

_OP_HEADER = struct.Struct(">HHI")
_DEVICE = struct.Struct(">256s32sIIIHHHBBBBBB")
_INTERFACE = struct.Struct(">BBBx")
_COUNT = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class OpHeader:
    """The eight bytes that open every operation: version, code, status."""

    code: int
    status: int = 0
    version: int = USBIP_VERSION

    def pack(self) -> bytes:
        """Eight bytes."""
        return _OP_HEADER.pack(self.version, self.code, self.status)

    @classmethod
    def parse(cls, data: bytes) -> OpHeader:
        """Read eight bytes. Raises RemoteProtocolError for another USB/IP version."""
        version, code, status = _OP_HEADER.unpack(data)
        if version != USBIP_VERSION:
            raise RemoteProtocolError(
                f"USB/IP version {version:#06x} of the peer, expected {USBIP_VERSION:#06x} (1.1.1)"
            )
        return cls(code, status, version)


@dataclass(frozen=True, slots=True)
class UsbInterface:
    """An interface as DEVLIST shows it."""

    bInterfaceClass: int
    bInterfaceSubClass: int
    bInterfaceProtocol: int

    SIZE = 4

    def pack(self) -> bytes:
        """Four bytes, the last one padding."""
        return _INTERFACE.pack(
            self.bInterfaceClass, self.bInterfaceSubClass, self.bInterfaceProtocol
        )

    @classmethod
    def parse(cls, data: bytes) -> UsbInterface:
        """Read four bytes."""
        return cls(*_INTERFACE.unpack(data))


@dataclass(frozen=True, slots=True, kw_only=True)
class UsbDevice:
    """``struct usbip_usb_device``: 312 bytes in DEVLIST and in a successful IMPORT."""

    path: str
    busid: str
    busnum: int
    devnum: int
    speed: Speed
    idVendor: int
    idProduct: int
    bcdDevice: int
    bDeviceClass: int
    bDeviceSubClass: int
    bDeviceProtocol: int
    bConfigurationValue: int
    bNumConfigurations: int
    bNumInterfaces: int

    SIZE = _DEVICE.size

    @property
    def devid(self) -> int:
        """``busnum << 16 | devnum``, which every command for the device carries."""
        return self.busnum << 16 | self.devnum

    def pack(self) -> bytes:
        """312 bytes."""
        return _DEVICE.pack(
            self.path.encode(),
            self.busid.encode(),
            self.busnum,
            self.devnum,
            self.speed,
            self.idVendor,
            self.idProduct,
            self.bcdDevice,
            self.bDeviceClass,
            self.bDeviceSubClass,
            self.bDeviceProtocol,
            self.bConfigurationValue,
            self.bNumConfigurations,
            self.bNumInterfaces,
        )

    @classmethod
    def parse(cls, data: bytes) -> UsbDevice:
        """Read 312 bytes. Raises RemoteProtocolError for a speed that does not exist."""
        path, busid, busnum, devnum, speed, *rest = _DEVICE.unpack(data)
        try:
            known_speed = Speed(speed)
        except ValueError:
            raise RemoteProtocolError(
                f"device {_text(busid)!r}: speed {speed}, not 0 to 6"
            ) from None
        names = (
            "idVendor",
            "idProduct",
            "bcdDevice",
            "bDeviceClass",
            "bDeviceSubClass",
            "bDeviceProtocol",
            "bConfigurationValue",
            "bNumConfigurations",
            "bNumInterfaces",
        )
        return cls(
            path=_text(path),
            busid=_text(busid),
            busnum=busnum,
            devnum=devnum,
            speed=known_speed,
            **dict(zip(names, rest, strict=True)),
        )


@dataclass(frozen=True, slots=True)
class OpRepDevlist:
    """The reply to DEVLIST: each device with its interfaces."""

    devices: tuple[tuple[UsbDevice, tuple[UsbInterface, ...]], ...]

    COUNT_SIZE = _COUNT.size

    def pack(self) -> bytes:
        """Header, count, and 312 + 4 x bNumInterfaces bytes a device."""
        parts = [OpHeader(OpCode.REP_DEVLIST).pack(), _COUNT.pack(len(self.devices))]
        for device, interfaces in self.devices:
            parts.append(device.pack())
            parts.extend(interface.pack() for interface in interfaces)
        return b"".join(parts)

    @staticmethod
    def parse_count(data: bytes) -> int:
        """Read the number of devices. Raises RemoteProtocolError above 65535, which is no list."""
        count: int = _COUNT.unpack(data)[0]
        if count > 0xFFFF:
            raise RemoteProtocolError(f"DEVLIST announces {count} devices, at most 65535 expected")
        return count


@dataclass(frozen=True, slots=True)
class OpReqImport:
    """The request to import one device."""

    busid: str

    BODY_SIZE = BUSID_SIZE

    def pack(self) -> bytes:
        """Header and 32 bytes of busid. Raises ValueError when it is too long."""
        encoded = self.busid.encode()
        if len(encoded) >= BUSID_SIZE:
            raise ValueError(f"busid {self.busid!r}: at most {BUSID_SIZE - 1} bytes")
        return OpHeader(OpCode.REQ_IMPORT).pack() + encoded.ljust(BUSID_SIZE, b"\0")

    @classmethod
    def parse_body(cls, data: bytes) -> OpReqImport:
        """Read the 32 bytes after the header."""
        return cls(_text(data))


@dataclass(frozen=True, slots=True)
class OpRepImport:
    """The reply to IMPORT: a device when the status is OK, else nothing after the header."""

    status: OpStatus
    device: UsbDevice | None = None

    def pack(self) -> bytes:
        """Eight bytes, or 320."""
        header = OpHeader(OpCode.REP_IMPORT, self.status).pack()
        return header + self.device.pack() if self.device is not None else header


def _text(data: bytes) -> str:
    """A NUL-terminated field; bytes that are no UTF-8 are shown, not refused."""
    return data.split(b"\0", 1)[0].decode("utf-8", errors="backslashreplace")


# --- commands: after a device is imported -------------------------------------------------------

SUBMIT_STRUCT: Final = struct.Struct(">IIIIIIiiii8s")
RET_SUBMIT_STRUCT: Final = struct.Struct(">IIIIIiiiii8x")
_UNLINK = struct.Struct(">IIIIII24x")
_RET_UNLINK = struct.Struct(">IIIIIi24x")


@dataclass(frozen=True, slots=True, kw_only=True)
class CmdSubmit:
    """USBIP_CMD_SUBMIT without its payload. ``direction`` is 0 for OUT, 1 for IN."""

    seqnum: int
    devid: int
    direction: int
    ep: int
    transfer_flags: int = 0
    transfer_buffer_length: int = 0
    start_frame: int = 0
    number_of_packets: int = 0
    interval: int = 0
    setup: bytes = bytes(8)

    def pack(self) -> bytes:
        """48 bytes."""
        return SUBMIT_STRUCT.pack(
            CMD_SUBMIT,
            self.seqnum,
            self.devid,
            self.direction,
            self.ep,
            self.transfer_flags,
            self.transfer_buffer_length,
            self.start_frame,
            self.number_of_packets,
            self.interval,
            self.setup,
        )

    @classmethod
    def parse(cls, data: bytes) -> CmdSubmit:
        """Read 48 bytes whose command is CMD_SUBMIT."""
        _command, seqnum, devid, direction, ep, flags, length, frame, packets, interval, setup = (
            SUBMIT_STRUCT.unpack(data)
        )
        return cls(
            seqnum=seqnum,
            devid=devid,
            direction=direction,
            ep=ep,
            transfer_flags=flags,
            transfer_buffer_length=length,
            start_frame=frame,
            number_of_packets=packets,
            interval=interval,
            setup=setup,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RetSubmit:
    """USBIP_RET_SUBMIT without its payload. ``status`` is 0 or a negative errno."""

    seqnum: int
    status: int = 0
    actual_length: int = 0
    start_frame: int = 0
    number_of_packets: int = 0
    error_count: int = 0
    devid: int = 0
    direction: int = 0
    ep: int = 0

    def pack(self) -> bytes:
        """48 bytes; the last eight are padding."""
        return RET_SUBMIT_STRUCT.pack(
            RET_SUBMIT,
            self.seqnum,
            self.devid,
            self.direction,
            self.ep,
            self.status,
            self.actual_length,
            self.start_frame,
            self.number_of_packets,
            self.error_count,
        )

    @classmethod
    def parse(cls, data: bytes) -> RetSubmit:
        """Read 48 bytes whose command is RET_SUBMIT."""
        _command, seqnum, devid, direction, ep, status, actual, frame, packets, errors = (
            RET_SUBMIT_STRUCT.unpack(data)
        )
        return cls(
            seqnum=seqnum,
            status=status,
            actual_length=actual,
            start_frame=frame,
            number_of_packets=packets,
            error_count=errors,
            devid=devid,
            direction=direction,
            ep=ep,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CmdUnlink:
    """USBIP_CMD_UNLINK: ``unlink_seqnum`` is the URB to take back."""

    seqnum: int
    devid: int
    unlink_seqnum: int
    direction: int = 0
    ep: int = 0

    def pack(self) -> bytes:
        """48 bytes."""
        return _UNLINK.pack(
            CMD_UNLINK, self.seqnum, self.devid, self.direction, self.ep, self.unlink_seqnum
        )

    @classmethod
    def parse(cls, data: bytes) -> CmdUnlink:
        """Read 48 bytes whose command is CMD_UNLINK."""
        _command, seqnum, devid, direction, ep, unlink_seqnum = _UNLINK.unpack(data)
        return cls(
            seqnum=seqnum, devid=devid, direction=direction, ep=ep, unlink_seqnum=unlink_seqnum
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RetUnlink:
    """USBIP_RET_UNLINK: -ECONNRESET where the URB was still pending, 0 where it had completed."""

    seqnum: int
    status: int
    devid: int = 0
    direction: int = 0
    ep: int = 0

    def pack(self) -> bytes:
        """48 bytes."""
        return _RET_UNLINK.pack(
            RET_UNLINK, self.seqnum, self.devid, self.direction, self.ep, self.status
        )

    @classmethod
    def parse(cls, data: bytes) -> RetUnlink:
        """Read 48 bytes whose command is RET_UNLINK."""
        _command, seqnum, devid, direction, ep, status = _RET_UNLINK.unpack(data)
        return cls(seqnum=seqnum, devid=devid, direction=direction, ep=ep, status=status)
