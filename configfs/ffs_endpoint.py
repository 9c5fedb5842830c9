"""FfsEndpoint: an endpoint of the seam over an endpoint file of FunctionFS.

It lives for one configuration, as on the userspace UDC; the file outlives it. Where a request
and a FunctionFS transfer differ, this room makes up the difference: ``zero`` becomes a transfer
of no bytes after the data, ``partial`` a transfer of one packet.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import functionfs

from configfs.aio import MAX_TRANSFER, Transfer, Transfers
from configfs.ffs_descriptors import FfsEndpointSpec
from configfs.wedges import Wedges
from usbip_vudc.errors import (
    EndpointDisabled,
    LocalProtocolError,
    Overflow,
    RequestWithdrawn,
    TransferError,
    errno_name,
)
from usbip_vudc.function import Endpoint, Request
from usbip_vudc.usb.ch9 import Direction, TransferType

__all__ = ("FfsEndpoint",)

log = logging.getLogger(__name__)

_PACKET_SIZE_MASK: Final = 0x7FF

_GONE: Final = frozenset((errno.ESHUTDOWN, errno.EAGAIN, errno.ENODEV, errno.EINTR))
"""The endpoint file is not enabled: the configuration is over, or a new one is about to begin."""


class FfsEndpoint(Endpoint):
    """An endpoint of one configuration. ``on_crash`` hears when an ``on_complete`` raised.

    ``wedges`` keeps it halted where `wedge` was called.
    Raises OSError where the configuration ended before this object was made.
    """

    def __init__(
        self,
        spec: FfsEndpointSpec,
        file: functionfs.EndpointFile,
        interface: int,
        transfers: Transfers,
        on_crash: Callable[[], None],
        wedges: Wedges,
    ) -> None:
        descriptor = file.getDescriptor()
        self.role = spec.spec.role
        self.direction = spec.spec.direction
        self.transfer_type = spec.spec.transfer_type
        self.address = int(descriptor.bEndpointAddress)
        self.max_packet_size = descriptor.wMaxPacketSize & _PACKET_SIZE_MASK
        if self.transfer_type in (TransferType.INTERRUPT, TransferType.ISOCHRONOUS):
            # Bits 12..11 (USB 2.0 table 9-13). Bursts stand in a companion that f_fs does not show.
            packets = 1 + (descriptor.wMaxPacketSize >> 11 & 3)
            self.bytes_per_interval = self.max_packet_size * packets
        self.interface = interface
        self._file = file
        self._transfers = transfers
        self._on_crash = on_crash
        self._wedges = wedges
        self._is_in = self.direction == Direction.IN
        self._enabled = True
        self._queued: dict[Request, list[Transfer]] = {}
        self._shut_down: list[Request] = []

    # --- Endpoint ------------------------------------------------------------------------------

    def queue(self, request: Request) -> Request:
        """As the seam says. Raises LocalProtocolError for more than 4 MiB, the limit of f_fs."""
        if request.length > MAX_TRANSFER:
            raise LocalProtocolError(
                f"{self.role}: a request of {request.length} bytes; FunctionFS takes at most "
                f"{MAX_TRANSFER}"
            )
        request.begin(self.role)
        if not self._enabled:
            request.complete(EndpointDisabled(f"{self.role}: the configuration is over"))
            return request
        queue, file, is_in = self._transfers.queue, self._file, self._is_in
        buffers = _writable(self._shape(request), copy=is_in)
        done = partial(self._moved, request)
        transfers = self._queued[request] = [queue(file, buffers, done, is_in=is_in)]
        if is_in and self._needs_zlp(request):
            transfers.append(queue(file, (), done, is_in=True))
        return request

    def withdraw(self, request: Request) -> None:
        """As the seam says; the request completes soon, by a completion of the kernel."""
        for transfer in tuple(self._queued.get(request, ())):
            self._transfers.cancel(transfer)

    def halt(self) -> None:
        """As the seam says. The wrong kind of access halts an endpoint file."""
        if self._is_in and self._queued:
            raise LocalProtocolError(f"{self.role}: cannot halt while IN requests are queued")
        self._wedges.discard(self)
        self._halt()

    def wedge(self) -> None:
        """As the seam says: see wedges.py."""
        self.halt()
        self._wedges.add(self, self._halt)

    def _halt(self) -> None:
        try:
            self._file.halt()
        except OSError as error:
            if error.errno == errno.EAGAIN:
                log.debug("%s: not halted: %s", self.role, error)
                return  # the configuration ended just now
            if error.errno not in _GONE:
                raise

    # --- the controller's side -----------------------------------------------------------------

    def disable(self) -> None:
        """The configuration is over: every request completes with EndpointDisabled.

        Those that the kernel still holds do so when it gives them back.
        """
        self._enabled = False
        self._wedges.discard(self)
        for request in tuple(self._queued):
            self.withdraw(request)
        while self._shut_down:
            self._give_back(self._shut_down.pop(0), EndpointDisabled(f"{self.role}: disabled"))

    def _shape(self, request: Request) -> Sequence[memoryview]:
        if request.partial and not self._is_in and request.length > self.max_packet_size:
            return request.sg.cut(0, self.max_packet_size)
        return request.sg.segments

    def _needs_zlp(self, request: Request) -> bool:
        length = request.length
        return request.zero and length > 0 and length % self.max_packet_size == 0

    def _moved(self, request: Request, transfer: Transfer, result: int) -> None:
        """One transfer of a request has ended with bytes, or with -errno."""
        transfers = self._queued[request]
        transfers.remove(transfer)
        error: TransferError | None = None
        if result >= 0:
            request.actual += result
        else:
            error = self._error(-result)
            request.error = request.error or error
        if transfers:
            return  # its ZLP is still to come, or to be cancelled
        del self._queued[request]
        if isinstance(request.error, EndpointDisabled) and self._enabled:
            # The kernel tells us of the end of the configuration in a moment, on ep0: the
            # function must first be cancelled, or it would take this for a crash of its own.
            self._shut_down.append(request)
            return
        self._give_back(request, request.error)

    def _error(self, number: int) -> TransferError:
        if not self._enabled or number in _GONE:
            return EndpointDisabled(f"{self.role}: the configuration is over")
        if number == errno.EOVERFLOW:
            return Overflow(f"{self.role}: the host sent more than the request has room for")
        if number == errno.ECONNRESET:
            return RequestWithdrawn(f"{self.role}: withdrawn")
        log.warning("%s: the controller gave a request back: %s", self.role, errno_name(number))
        return TransferError(f"{self.role}: the controller says {errno_name(number)}")

    def _give_back(self, request: Request, error: TransferError | None) -> None:
        try:
            request.complete(error)
        except Exception:
            log.exception("a function crashed in on_complete of endpoint %s", self.role)
            self._on_crash()


def _writable(segments: Sequence[memoryview], *, copy: bool) -> list[memoryview | bytearray]:
    """The segments as memory that ctypes takes the address of; read-only ones are copied."""
    return [bytearray(s) if copy and s.readonly else s for s in segments]
