"""The serial gadgets in use: a stream goes out and comes back, over the bulk pair alone.

It needs no line and no tty: the pair of any interface that has one, through pyusb.
"""

from __future__ import annotations

import errno
import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import usb.core
import usb.util

from usbip_vudc.errors import UsbipVudcError
from usbip_vudc.host.pipes import BulkPipes
from usbip_vudc.matrix.outcome import compared
from usbip_vudc.matrix.use import Use, lengths_of, payload
from usbip_vudc.sglist import SGList

__all__ = ("LENGTH", "EchoStream")

LENGTH: Final = 16_101
"""Bytes of a transfer: one request of the gadget's ring, and no multiple of any maxpacket."""

_EMPTY_READS: Final = 16
"""ZLPs in a row, each of which ends a batch of the echo, before they count as no data."""


class EchoStream(Use):
    """A gadget whose profile is echo."""

    length = LENGTH
    _pipes: BulkPipes

    def open(self) -> None:
        """Find the bulk pair."""
        device = self._device.device()
        if hasattr(device.backend, "scatter_gather"):
            device.backend.scatter_gather = self._wish.one_urb
        self._pipes = BulkPipes(device, _with_bulk_pair(device))

    def send(self, number: int) -> str:
        """OUT with the SG list; it comes back in plain reads."""
        data = payload("out", number, LENGTH)
        with self._meanwhile(lambda: self._write_sg(data)):
            came = self._read(LENGTH)
        return compared(came, data)

    def fetch(self, number: int) -> str:
        """OUT in one URB; it comes back into the SG list, what is left of it after each read.

        Where a UDC gives the gadget a packet at a time, the echo comes in as many batches.
        """
        data = payload("in", number, LENGTH)
        with self._meanwhile(lambda: self._write(data)):
            buffer = memoryview(bytearray(LENGTH))
            came = empty = 0
            while came < LENGTH and empty < _EMPTY_READS:
                count = _moved(self._pipes.read_sg(self._rest(buffer, came), self._timeout_ms))
                came += count
                empty = 0 if count else empty + 1
        return compared(buffer, data)

    def _rest(self, buffer: memoryview, came: int) -> SGList:
        """The SG list without the bytes that have come."""
        ends = [0]
        for length in lengths_of(self._wish.entries(len(buffer))):
            ends.append(ends[-1] + length)
        pairs = itertools.pairwise(ends)
        return SGList(*(buffer[max(start, came) : stop] for start, stop in pairs if stop > came))

    def recover(self) -> str:
        """Clear both halts, read what is left of the stream, and send some more of it."""
        self.open()
        for address in (self._pipes.address_in, self._pipes.address_out):
            self._device.device().clear_halt(address)
        mark = payload("mark", 0, 64)
        came = b""
        with self._meanwhile(lambda: self._write(mark)):
            while not came.endswith(mark):
                came = came[-len(mark) :] + self._read_some(LENGTH)
        data = payload("again", 0, LENGTH)
        with self._meanwhile(lambda: self._write(data)):
            came = self._read(LENGTH)
        return compared(came, data)

    @property
    def _timeout_ms(self) -> int:
        return int(self._timeout * 1000)

    @contextmanager
    def _meanwhile(self, write: Callable[[], None]) -> Iterator[None]:
        """Write in another thread: an echo that is not read takes no more. Raises its error."""
        failures: list[Exception] = []

        def work() -> None:
            try:
                write()
            except Exception as error:
                failures.append(error)

        writer = threading.Thread(target=work, name="matrix writer")
        writer.start()
        try:
            yield
        finally:
            writer.join()
            if failures:
                raise failures[0]

    def _write(self, data: bytes) -> None:
        _moved(self._pipes.write(memoryview(data), self._timeout_ms))

    def _write_sg(self, data: bytes) -> None:
        sg = SGList.laid_out(bytearray(data), lengths_of(self._wish.entries(len(data))))
        _moved(self._pipes.write_sg(sg, self._timeout_ms))

    def _read(self, length: int) -> bytes:
        came = b""
        while len(came) < length:
            came += self._read_some(length - len(came))
        return came

    def _read_some(self, length: int) -> bytes:
        """What one transfer brings that is no ZLP; there is room for whole packets."""
        size = self._wish.max_packet_size
        buffer = memoryview(bytearray(-(-length // size) * size))
        for _ in range(_EMPTY_READS):
            count = _moved(self._pipes.read(buffer, self._timeout_ms))
            if count:
                return bytes(buffer[:count])
        return b""


def _moved(count: int | None) -> int:
    if count is None:
        raise usb.core.USBError("the endpoint was halted", None, errno.EPIPE)
    return count


def _with_bulk_pair(device: usb.core.Device) -> usb.core.Interface:
    for interface in device.get_active_configuration():
        bulk = [
            endpoint.bEndpointAddress & usb.util.ENDPOINT_IN
            for endpoint in interface
            if usb.util.endpoint_type(endpoint.bmAttributes) == usb.util.ENDPOINT_TYPE_BULK
        ]
        if sorted(bulk) == [0, usb.util.ENDPOINT_IN]:
            return interface
    raise UsbipVudcError("the device has no interface with a bulk pair")
