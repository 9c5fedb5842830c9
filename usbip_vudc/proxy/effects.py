"""Effects: what each action of a plan means on the cable, written into a URB or its reply. Pure."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from usbip_vudc.injection.actions import (
    Action,
    Actual,
    Babble,
    BusReset,
    Corrupt,
    Delay,
    Disconnect,
    Drop,
    Reorder,
    Short,
    Stall,
    Status,
    TcpCut,
    TcpReset,
    TcpStall,
    Unlink,
    UseLayout,
)
from usbip_vudc.proxy.passing import Answer, Urb
from usbip_vudc.proxy.relay import Ending
from usbip_vudc.sglist import Buffer
from usbip_vudc.wire.connection import MAX_TRANSFER
from usbip_vudc.wire.iso import cut_received, inside, pack_packets, parse_packets

__all__ = ("apply_after", "apply_before")


def apply_before(action: Action, urb: Urb) -> None:
    """Do it to a URB that is about to go to the device."""
    _BEFORE[type(action)](action, urb)


def apply_after(action: Action, urb: Urb, answer: Answer) -> None:
    """Do it to the reply that is about to go to the host."""
    _AFTER[type(action)](action, urb, answer)


# --- before ------------------------------------------------------------------------------------


def _layout(action: UseLayout, urb: Urb) -> None:
    urb.layout = action.layout


def _short_out(action: Short, urb: Urb) -> None:
    pdu = urb.pdu
    pdu.payload = pdu.payload[: action.length]
    if pdu.iso:
        pdu.iso = pack_packets(inside(parse_packets(pdu.iso), len(pdu.payload)))
    pdu.head = replace(pdu.head, transfer_buffer_length=len(pdu.payload))
    pdu.raw = pdu.head.pack()


def _corrupt_out(action: Corrupt, urb: Urb) -> None:
    urb.pdu.payload = _corrupted(urb.pdu.payload, action)


def _stall(_action: Stall, urb: Urb) -> None:
    urb.stalled = True


def _drop(_action: Drop, urb: Urb) -> None:
    urb.dropped = True


def _unlink(action: Unlink, urb: Urb) -> None:
    urb.unlink_after = action.seconds


def _bus_reset(_action: BusReset, urb: Urb) -> None:
    urb.reset_first = True


def _disconnect(action: Disconnect, urb: Urb) -> None:
    urb.ending = Ending(away=action.seconds)


# --- after -------------------------------------------------------------------------------------


def _short_in(action: Short, _urb: Urb, answer: Answer) -> None:
    answer.status = 0
    answer.resize(min(action.length, answer.actual), with_payload=True)
    if answer.iso:
        answer.iso = pack_packets(cut_received(parse_packets(answer.iso), answer.actual))


def _corrupt_in(action: Corrupt, _urb: Urb, answer: Answer) -> None:
    answer.payload = _corrupted(answer.payload, action)


def _babble(_action: Babble, urb: Urb, answer: Answer) -> None:
    answer.status = -errno.EOVERFLOW
    room = min(max(urb.pdu.head.transfer_buffer_length, 0), MAX_TRANSFER)  # a host may say anything
    answer.resize(room, with_payload=True)


def _status(action: Status, _urb: Urb, answer: Answer) -> None:
    answer.status = action.status


def _actual(action: Actual, urb: Urb, answer: Answer) -> None:
    answer.resize(action.length, with_payload=urb.is_in)


def _delay(action: Delay, _urb: Urb, answer: Answer) -> None:
    answer.delay += action.seconds


def _reorder(action: Reorder, _urb: Urb, answer: Answer) -> None:
    answer.overtaken += action.count


def _tcp_cut(action: TcpCut, _urb: Urb, answer: Answer) -> None:
    answer.cut = action.sizes


def _tcp_stall(action: TcpStall, _urb: Urb, answer: Answer) -> None:
    answer.pause += action.seconds


def _tcp_reset(_action: TcpReset, _urb: Urb, answer: Answer) -> None:
    answer.ending = Ending(reset=True)


def _corrupted(payload: Buffer, action: Corrupt) -> Buffer:
    if action.offset >= len(payload):
        return payload
    data = bytearray(payload)
    data[action.offset] ^= action.xor
    return data


_BEFORE: Final[Mapping[type[Action], Callable[[Any, Urb], None]]] = {
    UseLayout: _layout,
    Short: _short_out,
    Corrupt: _corrupt_out,
    Stall: _stall,
    Drop: _drop,
    Unlink: _unlink,
    BusReset: _bus_reset,
    Disconnect: _disconnect,
}

_AFTER: Final[Mapping[type[Action], Callable[[Any, Urb, Answer], None]]] = {
    Short: _short_in,
    Corrupt: _corrupt_in,
    Babble: _babble,
    Status: _status,
    Actual: _actual,
    Delay: _delay,
    Reorder: _reorder,
    TcpCut: _tcp_cut,
    TcpStall: _tcp_stall,
    TcpReset: _tcp_reset,
}
