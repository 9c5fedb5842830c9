"""The storage gadget in use: WRITE(10) and READ(10) of 63 blocks, the transfer of 2019.

Our own host speaks the Bulk-Only Transport; on a Linux host it is usb-storage, and the SG list is
made through the block layer. What a write brought is seen in the gadget's own memory.
"""

from __future__ import annotations

from typing import Final

from usbip_vudc.block.transfer import read_sg, write_sg
from usbip_vudc.carrier import Carried
from usbip_vudc.host.storage import UsbStorage
from usbip_vudc.injection import Layout
from usbip_vudc.matrix.outcome import EQUAL, compared
from usbip_vudc.matrix.use import Segments, SgWish, Use, lengths_of, payload

__all__ = ("LENGTH", "SIZE", "LinuxDisk", "OwnDisk", "linux_entries")

LENGTH: Final = 63 * 512
"""Bytes of a transfer: the READ that the thread of 2019 stumbled over."""

SIZE: Final = 4 << 20
"""Bytes of the disk."""

_BLOCK: Final = 512
_LBA: Final = 2048
_STEP: Final = 128
_PAGES: Final = Layout.parse("page-offset:0")


def linux_entries(wish: SgWish) -> Segments:
    """The entries for the block layer, whose memory is pages: one segment is as many as it has."""
    if str(wish.layout) == "whole":
        return _PAGES.apply(LENGTH, wish.max_packet_size)[0]
    return wish.entries(LENGTH)


class _Disk(Use):
    """``memory`` is the medium, as the gadget has it."""

    length = LENGTH

    def __init__(self, device: Carried, wish: SgWish, timeout: float, memory: memoryview) -> None:
        super().__init__(device, wish, timeout)
        self._memory = memory

    def _on_medium(self, lba: int) -> memoryview:
        return self._memory[lba * _BLOCK : lba * _BLOCK + LENGTH]


class OwnDisk(_Disk):
    """Our own initiator over our own host."""

    _storage: UsbStorage

    def open(self) -> None:
        """INQUIRY, TEST UNIT READY until it is, READ CAPACITY."""
        self._begin()
        self._storage.inquiry()
        self._storage.wait_ready()
        self._storage.read_capacity()

    def _begin(self) -> None:
        device = self._device.device()
        device.backend.scatter_gather = self._wish.one_urb
        self._storage = UsbStorage(device, timeout_ms=int(self._timeout * 1000))

    def _entries(self) -> tuple[int, ...]:
        return lengths_of(self._wish.entries(LENGTH))

    def send(self, number: int) -> str:
        """One WRITE(10)."""
        lba = _LBA + number * _STEP
        data = payload("out", number, LENGTH)
        self._storage.write_sg(lba, data, self._entries())
        return compared(self._on_medium(lba), data)

    def fetch(self, number: int) -> str:
        """One READ(10) of what was put on the medium at the gadget's end."""
        lba = _LBA + number * _STEP
        data = payload("in", number, LENGTH)
        self._on_medium(lba)[:] = data
        return compared(self._storage.read_sg(lba, self._entries()), data)

    def recover(self) -> str:
        """Reset recovery (BOT 5.3.4), and whole transfers."""
        self._begin()
        self._storage.reset_recovery()
        self._storage.wait_ready(self._timeout)
        data = payload("again", 0, LENGTH)
        self._storage.write(_LBA, data)
        came = compared(self._on_medium(_LBA), data)
        return came if came != EQUAL else compared(self._storage.read(_LBA, 63), data)


class LinuxDisk(_Disk):
    """usb-storage and the block layer, through O_DIRECT: nothing is cached."""

    def open(self) -> None:
        """Wait for the disk."""
        self._node = self._device.node("sd")

    def send(self, number: int) -> str:
        """One write of the SG list."""
        lba = _LBA + number * _STEP
        data = payload("out", number, LENGTH)
        write_sg(self._node, lba * _BLOCK, self._entries(), data)
        return compared(self._on_medium(lba), data)

    def fetch(self, number: int) -> str:
        """One read of the SG list."""
        lba = _LBA + number * _STEP
        data = payload("in", number, LENGTH)
        self._on_medium(lba)[:] = data
        return compared(read_sg(self._node, lba * _BLOCK, self._entries()), data)

    def _entries(self) -> Segments:
        return linux_entries(self._wish)

    def recover(self) -> str:
        """The kernel recovers; whole pages are written and read."""
        self.open()
        whole = _PAGES.apply(LENGTH, 512)[0]
        data = payload("again", 0, LENGTH)
        write_sg(self._node, _LBA * _BLOCK, whole, data)
        came = compared(self._on_medium(_LBA), data)
        return came if came != EQUAL else compared(read_sg(self._node, _LBA * _BLOCK, whole), data)
