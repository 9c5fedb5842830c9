"""The leanest host there is: prebuilt PDUs on a blocking socket.

With it the bench measures servers. A host that does more work for each URB takes CPU time of its
own, and where both share a CPU it also drives the server's code out of the caches.
"""

from __future__ import annotations

import socket
import struct
from typing import Final

from usbip_vudc.host.handshake import import_device
from usbip_vudc.memory import page_aligned
from usbip_vudc.usb.ch9 import Direction, SetupPacket
from usbip_vudc.wire.pdu import HEADER_SIZE, CmdSubmit

__all__ = ("Bare", "Exchange")

_STATUS: Final = struct.Struct(">i")
_STATUS_OFFSET: Final = 20


class Bare:
    """One imported device on a blocking socket."""

    def __init__(self, port: int, busid: str) -> None:
        self.sock, self.device = import_device("127.0.0.1", port, busid)
        self.sock.settimeout(None)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        """Give the device back."""
        self.sock.close()

    def control(self, setup: SetupPacket) -> bytes:
        """A control request without an OUT data stage; raises RuntimeError where it stalls."""
        exchange = Exchange(self, 0, setup.wLength, setup=setup)
        exchange.step()
        return bytes(exchange.data)


class Exchange:
    """One URB over and over, ``depth`` of them in flight.

    ``endpoint`` is bEndpointAddress, ``size`` the bytes of its data. The replies all have one
    size, since every transfer is whole; a status other than 0 raises RuntimeError.
    """

    def __init__(
        self,
        bare: Bare,
        endpoint: int,
        size: int,
        *,
        setup: SetupPacket | None = None,
        depth: int = 1,
    ) -> None:
        is_in = bool((setup.bmRequestType if setup is not None else endpoint) & Direction.IN)
        self.data = page_aligned(size)
        self._sock = bare.sock
        self._payload = () if is_in else (self.data,)
        self._reply = HEADER_SIZE + (size if is_in else 0)
        self._commands = [
            CmdSubmit(
                seqnum=number + 1,
                devid=bare.device.devid,
                direction=int(is_in),
                ep=endpoint & 15,
                transfer_buffer_length=size,
                setup=setup.pack() if setup is not None else bytes(8),
            ).pack()
            for number in range(depth)
        ]
        self._small = self._reply * depth <= 64 << 10 and len(self._payload) * size <= 4096
        self._batch = b"".join(b"".join((c, *self._payload)) for c in self._commands * 2)
        self._command = HEADER_SIZE + (0 if is_in else size)
        self._next = 0
        self._waiting = 0
        self._partial = 0
        self._header = bytearray(HEADER_SIZE)
        self._header_view = memoryview(self._header)
        self._buffer = page_aligned(self._reply * depth)

    def step(self) -> int:
        """Keep the depth in flight and wait for at least one reply; how many came."""
        if len(self._commands) == 1:
            self._sock.sendmsg((self._commands[0], *self._payload))
            self._receive_one()
            return 1
        return self._step_small() if self._small else self._step_large()

    def _receive_one(self) -> None:
        """One reply, its data straight into place."""
        data = self.data if self._reply > HEADER_SIZE else self.data[:0]
        count = self._sock.recvmsg_into((self._header_view, data))[0]
        while count < self._reply:
            if count < HEADER_SIZE:
                count += self._sock.recv_into(self._header_view[count:])
            else:
                count += self._sock.recv_into(data[count - HEADER_SIZE :])
        self._check(self._header)

    def _step_small(self) -> int:
        """Many replies fit one receive, and as many commands go out in one send."""
        missing = len(self._commands) - self._waiting
        if missing:
            start = self._next * self._command
            self._sock.sendall(self._batch[start : start + missing * self._command])
            self._next = (self._next + missing) % len(self._commands)
            self._waiting += missing
        self._partial += self._sock.recv_into(self._buffer[self._partial :])
        came, rest = divmod(self._partial, self._reply)
        if came:
            self._check(self._buffer)
            if rest:
                self._buffer[:rest] = self._buffer[came * self._reply : self._partial]
            self._partial = rest
            self._waiting -= came
        return came

    def _step_large(self) -> int:
        while self._waiting < len(self._commands):
            command = self._commands[self._next]
            if self._payload:
                self._sock.sendall(command)
                self._sock.sendall(self._payload[0])
            else:
                self._sock.sendall(command)
            self._next = (self._next + 1) % len(self._commands)
            self._waiting += 1
        self._receive_one()
        self._waiting -= 1
        return 1

    @staticmethod
    def _check(reply: bytearray | memoryview) -> None:
        status = _STATUS.unpack_from(reply, _STATUS_OFFSET)[0]
        if status:
            raise RuntimeError(f"a URB ended with status {status}")
