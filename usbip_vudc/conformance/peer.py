"""One raw connection to a server: it sends what a check says, however wrong, and reads replies.

It keeps nothing but what must be known to read on: of each seqnum how much was asked for. What
the server does against the protocol raises Violation.
"""

from __future__ import annotations

import errno
import socket
import time
from dataclasses import dataclass
from typing import Self

from usbip_vudc.errors import UsbipVudcError
from usbip_vudc.urb import URB_DIR_IN, IsoPacket
from usbip_vudc.usb.ch9 import Direction, SetupPacket
from usbip_vudc.wire.pdu import (
    HEADER_SIZE,
    RET_SUBMIT,
    RET_UNLINK,
    CmdSubmit,
    CmdUnlink,
    RetSubmit,
    RetUnlink,
)

__all__ = ("Ended", "NotApplicable", "Peer", "Reply", "Silent", "Unlinked", "Violation")


class Violation(UsbipVudcError):
    """The server did what the rule forbids, or not what it demands."""


class Silent(Violation):
    """Nothing more came within the deadline."""


class Ended(Violation):
    """The server has closed the connection, between two PDUs."""


class NotApplicable(UsbipVudcError):
    """The rule cannot be tried on this device; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A RET_SUBMIT with the payload that followed it."""

    pdu: RetSubmit
    payload: bytes = b""

    @property
    def seqnum(self) -> int:
        """The URB that it answers."""
        return self.pdu.seqnum

    @property
    def status(self) -> int:
        """0 or a negative errno."""
        return self.pdu.status


@dataclass(frozen=True, slots=True)
class Unlinked:
    """A RET_UNLINK."""

    pdu: RetUnlink

    @property
    def seqnum(self) -> int:
        """The unlink that it answers."""
        return self.pdu.seqnum

    @property
    def status(self) -> int:
        """-ECONNRESET where the URB was still pending, else 0."""
        return self.pdu.status


class Peer:
    """The host's end of one connection. ``timeout`` in seconds is for each thing waited for.

    ``devid`` goes into every command. Leaving the context closes the connection.
    """

    def __init__(self, sock: socket.socket, timeout: float, devid: int = 0) -> None:
        sock.settimeout(timeout)
        self.timeout = timeout
        self.devid = devid
        self._sock = sock
        self._seqnum = 0
        self._asked: dict[int, int | None] = {}  # seqnum -> bytes asked for; None: an unlink

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self, *, abruptly: bool = False) -> None:
        """Close with a FIN, or with a RST where ``abruptly``."""
        if abruptly:
            linger = (1).to_bytes(4, "little") + bytes(4)
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._sock.close()

    # --- bytes ---------------------------------------------------------------------------------

    def send(self, *pieces: bytes) -> None:
        """Send each piece by a call of its own. Raises Ended where the server has left."""
        try:
            for piece in pieces:
                self._sock.sendall(piece)
        except TimeoutError:
            raise Silent(f"the server took no more bytes within {self.timeout:g} s") from None
        except OSError as error:
            raise Ended(f"the server closed the connection ({_name(error)})") from None

    def receive(self, length: int) -> bytes:
        """So many bytes. Raises Silent, Ended before the first one, Violation within them."""
        data = bytearray()
        deadline = time.monotonic() + self.timeout
        while len(data) < length:
            self._sock.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                chunk = self._sock.recv(length - len(data))
            except TimeoutError:
                raise Silent(self._cut("nothing", data, length)) from None
            except OSError as error:
                chunk, why = b"", f"the server closed the connection ({_name(error)})"
            else:
                why = "the server closed the connection"
            if not chunk:
                if data:
                    raise Violation(f"{why} after {len(data)} of {length} bytes")
                raise Ended(why)
            data += chunk
        return bytes(data)

    def _cut(self, what: str, data: bytearray, length: int) -> str:
        came = f"only {len(data)} of {length} bytes" if data else what
        return f"{came} came within {self.timeout:g} s"

    def must_end(self) -> None:
        """Wait for the server to close. Raises Silent where it does not, Violation for bytes."""
        try:
            data = self.receive(1)
        except Ended:
            return
        except Silent:
            raise Silent(f"the connection was still open after {self.timeout:g} s") from None
        raise Violation(f"byte {data.hex()} came where the connection should have ended")

    def must_be_quiet(self, seconds: float) -> None:
        """Nothing may come for a while; an end of the connection may."""
        patience, self.timeout = self.timeout, seconds
        try:
            data = self.receive(1)
        except (Silent, Ended):
            return
        finally:
            self.timeout = patience
        raise Violation(f"more bytes came than there should be: {data.hex()}...")

    # --- commands ------------------------------------------------------------------------------

    def submit_bytes(
        self,
        endpoint: int,
        length: int = 0,
        *,
        setup: SetupPacket | None = None,
        seqnum: int | None = None,
        direction: int | None = None,
        devid: int | None = None,
        flags: int = 0,
        packets: int = 0,
    ) -> bytes:
        """The header of a CMD_SUBMIT, and note what it asks for; `last` is its seqnum.

        ``endpoint`` is an address with the direction in bit 7, unless ``direction`` says it.
        """
        if direction is None:
            direction = int(bool(endpoint & Direction.IN))
        is_in = direction == 1
        pdu = CmdSubmit(
            seqnum=self._next(seqnum),
            devid=self.devid if devid is None else devid,
            direction=direction,
            ep=endpoint & ~int(Direction.IN),
            transfer_flags=flags | URB_DIR_IN if is_in else flags,
            transfer_buffer_length=length,
            number_of_packets=packets,
            setup=setup.pack() if setup is not None else bytes(SetupPacket.SIZE),
        )
        self._asked[pdu.seqnum] = length if is_in else 0
        return pdu.pack()

    def submit(
        self,
        endpoint: int,
        length: int = 0,
        *,
        setup: SetupPacket | None = None,
        data: bytes = b"",
        flags: int = 0,
        packets: int = 0,
    ) -> int:
        """Send a CMD_SUBMIT and its payload; its seqnum. Raises Ended."""
        header = self.submit_bytes(endpoint, length, setup=setup, flags=flags, packets=packets)
        self.send(header + data)
        return self.last

    def unlink_bytes(self, target: int) -> bytes:
        """A CMD_UNLINK; `last` is its seqnum."""
        seqnum = self._next(None)
        self._asked[seqnum] = None
        return CmdUnlink(seqnum=seqnum, devid=self.devid, unlink_seqnum=target).pack()

    def unlink(self, target: int) -> int:
        """Send a CMD_UNLINK; its seqnum. Raises Ended."""
        self.send(self.unlink_bytes(target))
        return self.last

    @property
    def last(self) -> int:
        """The seqnum of the last command."""
        return self._seqnum

    def _next(self, seqnum: int | None) -> int:
        self._seqnum = (self._seqnum + 1) & 0xFFFF_FFFF if seqnum is None else seqnum
        return self._seqnum

    # --- replies -------------------------------------------------------------------------------

    def reply(self) -> Reply | Unlinked:
        """The next reply. Raises Silent, Ended, or Violation for one that vhci would refuse."""
        data = self.receive(HEADER_SIZE)
        command = int.from_bytes(data[:4], "big")
        seqnum = int.from_bytes(data[4:8], "big")
        if command not in (RET_SUBMIT, RET_UNLINK):
            raise Violation(
                f"command {command:#x} came (header {data[:20].hex()}...), expected RET_SUBMIT (3) "
                f"or RET_UNLINK (4): nothing of the stream can be told from here on"
            )
        if seqnum not in self._asked:
            raise Violation(f"a reply came to seqnum {seqnum}, which is not pending")
        asked = self._asked.pop(seqnum)
        if (asked is None) != (command == RET_UNLINK):
            kind = "an unlink" if asked is None else "a URB"
            raise Violation(f"seqnum {seqnum} is {kind}, but the reply has command {command}")
        if asked is None:
            return Unlinked(RetUnlink.parse(data))
        return self._rest(RetSubmit.parse(data), asked)

    def _rest(self, pdu: RetSubmit, asked: int) -> Reply:
        """What follows a RET_SUBMIT: the payload of an IN, as much as actual_length says."""
        actual = pdu.actual_length
        if not asked:
            return Reply(pdu=pdu)
        if not 0 <= actual <= asked:
            raise Violation(
                f"actual_length {actual} of an IN transfer of {asked} bytes: vhci_hcd overruns "
                f"its buffer"
            )
        return Reply(pdu=pdu, payload=self.receive(actual) if actual else b"")

    def reply_to(self, seqnum: int) -> Reply:
        """The next reply, which must be to this URB. Raises as `reply`, and Violation."""
        got = self.reply()
        if not isinstance(got, Reply) or got.seqnum != seqnum:
            raise Violation(f"{_said(got)} came, expected RET_SUBMIT to seqnum {seqnum}")
        return got

    def unlinked(self, seqnum: int) -> Unlinked:
        """The next reply, which must be to this unlink. Raises as `reply`, and Violation."""
        got = self.reply()
        if not isinstance(got, Unlinked) or got.seqnum != seqnum:
            raise Violation(f"{_said(got)} came, expected RET_UNLINK to seqnum {seqnum}")
        return got

    def replies(self, count: int) -> list[Reply | Unlinked]:
        """So many replies, in the order in which they come."""
        return [self.reply() for _ in range(count)]

    def descriptors(self, count: int) -> tuple[IsoPacket, ...]:
        """The packet descriptors that follow an isochronous reply."""
        data = self.receive(count * IsoPacket.SIZE)
        return tuple(
            IsoPacket.parse(data[at : at + IsoPacket.SIZE])
            for at in range(0, len(data), IsoPacket.SIZE)
        )

    # --- requests on endpoint 0 ----------------------------------------------------------------

    def control(self, setup: SetupPacket, data: bytes = b"") -> Reply:
        """A whole control transfer."""
        is_in = setup.direction == Direction.IN and setup.wLength
        endpoint = int(Direction.IN) if is_in else 0
        return self.reply_to(self.submit(endpoint, setup.wLength, setup=setup, data=data))


def _said(got: Reply | Unlinked) -> str:
    kind = "RET_SUBMIT" if isinstance(got, Reply) else "RET_UNLINK"
    return f"{kind} to seqnum {got.seqnum} with status {got.status}"


def _name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, str(error))
