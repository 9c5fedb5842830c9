"""Where the kernel's servers are known to break a rule, and why; seen on Linux 6.1.

The reasons are those of docs/conformance.md. Nothing here changes a verdict.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ("KNOWN",)

_ERROR_STATE: Final = "so much memory is asked for at once, and the device is in an error state "

KNOWN: Final[Mapping[str, Mapping[str, str]]] = {
    "usbip-vudc": {
        "stale-replies": "nothing empties the queue of replies when a host leaves: the next host "
        "gets them, or usbipd's own client even before the reply to IMPORT (vudc_tx.c); "
        "`usbip-vudc export` empties it first",
        "close-half-payload": "the kernel follows a NULL pointer, since a URB there belongs to no "
        "device whose name could be logged (usbip_common.c, usbip_recv_xbuff); the receiver is "
        "gone, and the device in use until its gadget is unbound",
        "unknown-command": "the receiver ends, the connection stays open, and the device in use "
        "until its gadget is unbound (vudc_rx.c, v_rx_pdu); `usbip-vudc export` takes it back when "
        "the host closes",
        "length-negative": f"{_ERROR_STATE}until its gadget is bound anew (vudc_rx.c, "
        "alloc_urb_from_cmd)",
        "length-huge": "as length-negative",
    },
    "usbip-host": {
        "sg-flag-empty": "refused as an SG buffer of length 0; the device is in an error state "
        "until it is bound anew (stub_rx.c, stub_recv_cmd_submit)",
        "unlink-unknown": "the sender is not woken: the reply waits for other traffic "
        "(stub_rx.c, stub_recv_cmd_unlink)",
        "unlink-completed": "as unlink-unknown",
        "endpoint-above-15": "neither an answer nor an end (stub_rx.c, get_pipe)",
        "endpoint-absent-in": "as endpoint-above-15",
        "endpoint-absent-out": "as endpoint-above-15, and the payload is taken for a command and "
        "obeyed",
        "length-negative": f"{_ERROR_STATE}until it is bound anew (stub_rx.c, "
        "stub_recv_cmd_submit)",
        "length-huge": "as length-negative",
    },
}
"""Driver -> rule -> why it is broken there."""
