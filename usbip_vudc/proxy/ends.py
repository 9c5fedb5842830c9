"""Sans-I/O readers of the two ends of a USB/IP connection after IMPORT, for someone between them.

They take PDUs whole, with all that follows the header, and hand them on with the bytes as they
came. Whoever breaks the protocol is named in the RemoteProtocolError. Nothing is sent from here.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Final, Protocol

from usbip_vudc.errors import RemoteProtocolError
from usbip_vudc.memory import page_aligned
from usbip_vudc.sglist import Buffer
from usbip_vudc.urb import Landing
from usbip_vudc.wire.connection import MAX_ISO_PACKETS, MAX_LENT, MAX_TRANSFER, Connection
from usbip_vudc.wire.pdu import (
    CMD_SUBMIT,
    CMD_UNLINK,
    HEADER_SIZE,
    RET_SUBMIT,
    RET_UNLINK,
    CmdSubmit,
    CmdUnlink,
    IsoPacket,
    RetSubmit,
    RetUnlink,
)

__all__ = ("Between", "DeviceEnd", "End", "HostEnd", "Reply", "Submit", "joined", "numbered")

_COMMAND: Final = slice(0, 4)
_SEQNUM: Final = slice(4, 8)


@dataclass(slots=True)
class Submit:
    """CMD_SUBMIT: ``raw`` is its header, ``payload`` the OUT data, ``iso`` the descriptors."""

    head: CmdSubmit
    raw: bytes
    payload: Buffer = b""
    iso: bytes = b""


@dataclass(slots=True)
class Reply:
    """RET_SUBMIT: ``raw`` is its header, ``payload`` the IN data, ``iso`` the descriptors."""

    head: RetSubmit
    raw: bytes
    payload: Buffer = b""
    iso: bytes = b""


class Between(Protocol):
    """What the ends hand PDUs to."""

    def submit(self, pdu: Submit) -> None:
        """The host sent CMD_SUBMIT."""

    def unlink(self, head: CmdUnlink, raw: bytes) -> None:
        """The host sent CMD_UNLINK."""

    def reply(self, pdu: Reply) -> None:
        """The device sent RET_SUBMIT, for a URB that `expected` knew."""

    def unlinked(self, head: RetUnlink, raw: bytes) -> None:
        """The device sent RET_UNLINK."""

    def holds(self, seqnum: int) -> bool:
        """Whether a URB of the host is pending under this number."""

    def expected(self, seqnum: int) -> CmdSubmit | None:
        """The URB that the device may answer under this number."""


class End(Connection):
    """One end: `get_buffers` and `advance` as with any Connection; ``outgoing`` stays empty.

    ``name`` is "host" or "device".
    """

    name: str

    def __init__(self, between: Between) -> None:
        super().__init__()
        self._between = between
        self._awaiting: tuple[bytes, memoryview, int] | None = None

    @abstractmethod
    def _sizes(self, command: int, raw: bytes) -> tuple[int, int]:
        """Bytes of payload and of iso descriptors behind this header."""

    @abstractmethod
    def _take(self, command: int, raw: bytes, payload: Buffer, iso: bytes) -> None:
        """Hand a PDU on that is whole."""

    def _parse(self) -> None:
        while self._end - self._start >= HEADER_SIZE:
            raw = self._header()
            command = int.from_bytes(raw[_COMMAND], "big")
            payload, iso = self._sizes(command, raw)
            length = payload + iso
            if length > MAX_LENT or length > self._end - self._start:
                buffer = page_aligned(length)
                self._awaiting = raw, buffer, payload
                if not self._receive(Landing([buffer], length)):
                    return
                self._landed()
            else:
                data = bytes(self._view[self._start : self._start + length])
                self._start += length
                self._take(command, raw, data[:payload], data[payload:])

    def _landed(self) -> None:
        if self._awaiting is not None:
            (raw, buffer, payload), self._awaiting = self._awaiting, None
            command = int.from_bytes(raw[_COMMAND], "big")
            self._take(command, raw, buffer[:payload], bytes(buffer[payload:]))

    def _wrong(self, what: str) -> RemoteProtocolError:
        return RemoteProtocolError(f"the {self.name} sent {what}")

    def _iso_size(self, seqnum: int, packets: int) -> int:
        if packets > MAX_ISO_PACKETS:
            raise self._wrong(
                f"seqnum {seqnum} with number_of_packets {packets}, at most {MAX_ISO_PACKETS}"
            )
        return max(packets, 0) * IsoPacket.SIZE


class HostEnd(End):
    """CMD_SUBMIT and CMD_UNLINK."""

    name = "host"

    def _sizes(self, command: int, raw: bytes) -> tuple[int, int]:
        if command == CMD_UNLINK:
            return 0, 0
        if command != CMD_SUBMIT:
            raise self._wrong(f"command {command:#x}, not CMD_SUBMIT (1) or CMD_UNLINK (2)")
        head = CmdSubmit.parse(raw)
        length = 0 if head.direction else head.transfer_buffer_length
        if head.direction > 1 or not 0 <= length <= MAX_TRANSFER:
            raise self._wrong(
                f"CMD_SUBMIT seqnum {head.seqnum} with direction {head.direction} (0 or 1) and "
                f"transfer_buffer_length {head.transfer_buffer_length} (0 to {MAX_TRANSFER})"
            )
        return length, self._iso_size(head.seqnum, head.number_of_packets)

    def _take(self, command: int, raw: bytes, payload: Buffer, iso: bytes) -> None:
        if command == CMD_UNLINK:
            self._between.unlink(CmdUnlink.parse(raw), raw)
            return
        head = CmdSubmit.parse(raw)
        if self._between.holds(head.seqnum):
            raise self._wrong(f"CMD_SUBMIT seqnum {head.seqnum}, which is pending already")
        self._between.submit(Submit(head, raw, payload, iso))


class DeviceEnd(End):
    """RET_SUBMIT and RET_UNLINK."""

    name = "device"

    def _sizes(self, command: int, raw: bytes) -> tuple[int, int]:
        if command == RET_UNLINK:
            return 0, 0
        if command != RET_SUBMIT:
            raise self._wrong(f"command {command:#x}, not RET_SUBMIT (3) or RET_UNLINK (4)")
        head = RetSubmit.parse(raw)
        asked = self._between.expected(head.seqnum)
        if asked is None:
            raise self._wrong(f"RET_SUBMIT for seqnum {head.seqnum}, which is not pending")
        # The payload follows whatever the status; vhci reads none of a negative length
        # (usbip_recv_xbuff in drivers/usb/usbip/usbip_common.c).
        length = max(head.actual_length, 0) if asked.direction else 0
        if length > MAX_TRANSFER:
            raise self._wrong(
                f"RET_SUBMIT seqnum {head.seqnum} with actual_length {length}, at most "
                f"{MAX_TRANSFER}"
            )
        iso = head.number_of_packets if asked.number_of_packets > 0 else 0
        return length, self._iso_size(head.seqnum, iso)

    def _take(self, command: int, raw: bytes, payload: Buffer, iso: bytes) -> None:
        if command == RET_UNLINK:
            self._between.unlinked(RetUnlink.parse(raw), raw)
        else:
            self._between.reply(Reply(RetSubmit.parse(raw), raw, payload, iso))


def joined(pdu: Submit | Reply) -> list[Buffer]:
    """The bytes of a PDU in order, none of them empty."""
    return [part for part in (pdu.raw, pdu.payload, pdu.iso) if len(part)]


def numbered(raw: bytes, seqnum: int) -> bytes:
    """The header under another seqnum, else as it came."""
    return raw[: _SEQNUM.start] + seqnum.to_bytes(4, "big") + raw[_SEQNUM.stop :]
