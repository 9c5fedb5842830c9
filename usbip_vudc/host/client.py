"""Host: one imported device for async programs, with any number of URBs in flight.

It runs on asyncio and trio. Cancelling a transfer, or its timeout, unlinks the URB and waits for
the device's answer, so that a buffer is never written to after `transfer` has returned.
"""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import anyio
import anyio.abc
import anyio.to_thread

from usbip_vudc.cable import Cable, set_options
from usbip_vudc.errors import RemoteProtocolError
from usbip_vudc.host import sg as sg_rule
from usbip_vudc.host.handshake import import_device
from usbip_vudc.host.outcome import result_of
from usbip_vudc.sglist import Buffer, SGList
from usbip_vudc.urb import HostUrb, IsoUrb
from usbip_vudc.usb.ch9 import SetupPacket
from usbip_vudc.wire.connection import HostConnection
from usbip_vudc.wire.pdu import UsbDevice

__all__ = ("Host",)

_UNLINK_PATIENCE: Final = 5.0
"""Seconds that a device may take to answer CMD_UNLINK before it counts as gone."""


class Host:
    """Submits URBs to one imported device; made by `Host.connect`.

    ``device`` is what IMPORT returned.
    """

    def __init__(self, cable: Cable, connection: HostConnection, device: UsbDevice) -> None:
        self._cable = cable
        self._connection = connection
        self.device = device
        self.failure: Exception | None = None

    @classmethod
    @asynccontextmanager
    async def connect(cls, host: str, port: int, busid: str) -> AsyncIterator[Host]:
        """Import a device for as long as the context lasts.

        Raises ImportRefused, OSError or RemoteProtocolError.
        """
        sock, device = await anyio.to_thread.run_sync(partial(import_device, host, port, busid))
        set_options(sock)
        connection = HostConnection(device.devid)
        self = cls(Cable(sock, connection), connection, device)
        failure: Exception | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._carry)
            try:
                yield self
            except Exception as error:
                failure = error  # raised below, outside the group, so that it stays itself
            finally:
                tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _carry(self) -> None:
        """Run the cable; when it ends, every pending URB ends with it."""
        status = -errno.ESHUTDOWN
        try:
            await self._cable.run()
            status = -errno.ENODEV
        except RemoteProtocolError as error:
            self.failure = error
            status = -errno.EPROTO
        except OSError as error:
            self.failure = error
            status = -errno.ENODEV
        finally:
            self._connection.lost(status)

    def close(self) -> None:
        """Give the device up: every pending URB ends with -ENODEV soon."""
        self._cable.close()

    async def transfer(self, urb: HostUrb, timeout: float | None = None) -> int:
        """Submit a URB and wait for it: bytes moved. ``timeout`` in seconds, None for ever.

        Raises UrbError with ETIMEDOUT when time was up (the URB has then been unlinked, unless
        its reply won the race), with EPIPE for a stall, EOVERFLOW for babble, and so on;
        DeviceGone where the connection broke.
        """
        finished = self.submit(urb)
        try:
            with anyio.move_on_after(timeout):
                await finished.wait()
        except BaseException:
            await self._take_back(urb, finished)
            raise
        if urb.status is None:
            await self._take_back(urb, finished)
            if urb.status == -errno.ECONNRESET:
                urb.status = -errno.ETIMEDOUT
        return result_of(urb)

    async def transfer_iso(
        self,
        endpoint: int,
        lengths: Sequence[int],
        data: Buffer | None = None,
        timeout: float | None = None,
    ) -> IsoUrb:
        """An isochronous URB with packets of these lengths in bytes; it returns completed.

        ``data`` is what goes out, packet behind packet, or where IN packets come to; without it
        that is memory of its own. How each packet went is in the URB's ``packets``; raises as
        `transfer` does where the URB itself failed. For a stream `submit` several of them.
        """
        urb = IsoUrb(endpoint, bytearray(sum(lengths)) if data is None else data, lengths)
        await self.transfer(urb, timeout)
        return urb

    async def transfer_sg(
        self, endpoint: int, sg: SGList, *, scatter_gather: bool = True
    ) -> sg_rule.SgResult:
        """Transfer an SG list as Linux's usb_sg_wait does, with or without SG at the host.

        Never raises for a failed URB: the result tells.
        """
        urbs = sg_rule.split(endpoint, sg, scatter_gather=scatter_gather)
        waits = [(urb, self.submit(urb)) for urb in urbs]
        failed = False
        try:
            for urb, finished in waits:
                if failed:
                    self.unlink(urb)
                await finished.wait()
                failed = failed or bool(urb.status)
        except BaseException:
            for urb, finished in waits:
                await self._take_back(urb, finished)
            raise
        return sg_rule.outcome(urbs)

    async def control(
        self, setup: SetupPacket, data: Buffer = b"", timeout: float | None = 5.0
    ) -> bytes:
        """A control transfer: the bytes of the IN data stage, b"" for OUT.

        ``data`` is the OUT data stage, wLength bytes. Raises as `transfer` does, and
        LocalProtocolError for another number of bytes.
        """
        urb = HostUrb.control(setup, data)
        actual = await self.transfer(urb, timeout)
        return b"".join(urb.sg.cut(0, actual)) if urb.is_in else b""

    def submit(self, urb: HostUrb) -> anyio.Event:
        """Send a URB behind those that are under way, without waiting: the event is its end.

        Its buffer must stay untouched until then; `unlink` brings that about.
        """
        finished = anyio.Event()

        def on_complete(_urb: HostUrb) -> None:
            finished.set()
            self._cable.gives_way = True

        urb.on_complete = on_complete
        self._connection.submit(urb)
        self._cable.kick()
        return finished

    def unlink(self, urb: HostUrb) -> None:
        """Ask for a pending URB back: it ends with -ECONNRESET, or as it just did."""
        self._connection.unlink(urb)
        self._cable.kick()

    async def _take_back(self, urb: HostUrb, finished: anyio.Event) -> None:
        """Unlink and wait for the answer. A device that does not even answer that is gone."""
        if urb.status is not None:
            return
        self.unlink(urb)
        with anyio.move_on_after(_UNLINK_PATIENCE, shield=True):
            await finished.wait()
        if urb.status is None:
            self._cable.close()
            self._connection.lost(-errno.ENODEV)
