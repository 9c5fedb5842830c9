"""What makes a TCP connection fit for URBs, on both sides."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from usbip_vudc import vhci
from usbip_vudc.cable import set_options


@pytest.mark.parametrize("prepare", [set_options, vhci._set_options], ids=["ours", "vhci_hcd's"])
def test_a_peer_that_vanishes_is_given_up_within_a_minute_idle_or_not(
    prepare: Callable[[socket.socket], None],
) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname()) as sock,
    ):
        prepare(sock)

        def said(name: int) -> int:
            return sock.getsockopt(socket.IPPROTO_TCP, name)

        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        idle, again, times = map(
            said, (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        )
        assert idle + again * times == 60
        assert said(socket.TCP_USER_TIMEOUT) == 60_000  # where data wait for an acknowledgement
