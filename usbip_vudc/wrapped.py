"""WrappedEndpoint: what everything that stands in front of an endpoint has in common."""

from __future__ import annotations

from usbip_vudc.function import Endpoint

__all__ = ("WrappedEndpoint",)


class WrappedEndpoint(Endpoint):
    """An endpoint in front of ``inner`` that looks as it does, and does something of its own."""

    def __init__(self, inner: Endpoint) -> None:
        self.role = inner.role
        self.direction = inner.direction
        self.transfer_type = inner.transfer_type
        self.address = inner.address
        self.max_packet_size = inner.max_packet_size
        self.bytes_per_interval = inner.bytes_per_interval
        self.interface = inner.interface
        self._inner = inner

    def halt(self) -> None:
        """As the seam says."""
        self._inner.halt()

    def wedge(self) -> None:
        """As the seam says."""
        self._inner.wedge()

    def task_woken(self) -> None:
        """As the seam says."""
        self._inner.task_woken()
