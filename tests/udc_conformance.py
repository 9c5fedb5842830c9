"""The conformance suite of every UDC: what requests and transfers make of each other.

It knows of no controller and of no backend of pyusb. The kernel's usbip-vudc and dummy_hcd are
the referee for the userspace UDC; where one of them differs, the row says what it gives, and why.
The life of a function is in udc_lifecycle.py.
"""

from __future__ import annotations

import errno
from typing import Final

from tests.udc_bench import OUR_HOST
from tests.udc_row import (
    TIMEOUT_MS,
    WAITING,
    Failed,
    Feature,
    Halt,
    M,
    Row,
    Seen,
    Withdraw,
    give,
    read,
    take,
    write,
)
from usbip_vudc.errors import Overflow, RequestWithdrawn

EPIPE, EOVERFLOW, ETIMEDOUT = (
    Failed(number) for number in (errno.EPIPE, errno.EOVERFLOW, errno.ETIMEDOUT)
)
CUTS: Final = "cuts"
"""The trait of a bench between whose function and host transfers are cut at the end of packets."""

HOST_CUTS: Final = "host cuts"
"""The trait of those whose host makes several URBs of a transfer."""

WITHDRAWN: Final = Failed(RequestWithdrawn)

TEN_ROWS: Final = (
    Row(
        "SG OUT, short",
        (take(1, M - 1, 3, M + 25, M - 28), write(2 * M - 24)),
        Seen((2 * M - 24,), (2 * M - 24,)),
    ),
    Row(
        "OUT full and ZLP",
        (take(3 * M), write(2 * M), write(0)),
        Seen((2 * M,), (2 * M, 0)),
    ),
    Row(
        "SG IN, short",
        (give(1, M - 1, 3, M + 25), read(4 * M)),
        Seen((2 * M + 28,), (2 * M + 28,)),
    ),
    Row(
        "IN and ZLP",
        (give(M), give(), read(4 * M)),
        Seen((M, 0), (M,)),
    ),
    Row(
        "two requests, one URB",
        (give(M), give(M - 12), read(4 * M)),
        Seen((M, M - 12), (2 * M - 12,)),
    ),
    Row(
        "short splits",
        (give(20), give(M - 20), read(M), read(M)),
        Seen((20, M - 20), (20, M - 20)),
    ),
    Row(
        "halt then CSW",
        (Halt("in"), give(13), read(13), Feature("in", halt=False), read(13)),
        Seen((13,), (EPIPE, 13)),
    ),
    Row(
        "request spans URBs",
        (give(2 * M), read(M), read(M)),
        Seen((2 * M,), (M, M)),
    ),
    Row(
        "request larger than URB",
        (give(M + 25), read(M), read(M)),
        Seen((M + 25,), (M, 25)),
    ),
    Row(
        "babble",
        (give(M - 12), read(M - 40)),
        Seen((M - 40,), (EOVERFLOW,), lost=True),
    ),
)
"""The ten rows that the project's model of the bus was made from."""

OTHER_ROWS: Final = (
    # ZLPs
    Row(
        "zero ends a URB that has more room",
        (give(M, M, zero=True), read(4 * M)),
        Seen((2 * M,), (2 * M,)),
    ),
    Row(
        "zero makes a URB of its own where the first is full",
        (give(M, zero=True), read(M), read(M)),
        Seen((M,), (M, 0)),
    ),
    Row(
        "zero adds nothing to a short packet",
        (give(M + 25, zero=True), give(M - 1), read(4 * M), read(4 * M)),
        Seen((M + 25, M - 1), (M + 25, M - 1)),
    ),
    Row(
        "a ZLP alone, both ways",
        (take(M), give(), write(0), read(M)),
        Seen((0, 0), (0, 0)),
    ),
    Row(
        "URB_ZERO_PACKET ends a request that has more room",
        (take(2 * M), write(M, zero=True)),
        Seen((M,), (M,)),
        needs=OUR_HOST,
    ),
    Row(
        "URB_ZERO_PACKET: the ZLP takes a request of its own",
        (take(M), take(M), write(M, zero=True)),
        Seen((M, 0), (M,)),
        needs=OUR_HOST,
    ),
    # whole packets
    Row(
        "OUT that fills its request needs no ZLP",
        (take(M, M), write(2 * M)),
        Seen((2 * M,), (2 * M,)),
    ),
    Row(
        "OUT request spans URBs",
        (take(3 * M), write(M), write(M), write(M)),
        Seen((3 * M,), (M, M, M)),
    ),
    Row(
        "OUT URB spans requests",
        (take(M), take(1, M - 1), take(M), write(2 * M + 25)),
        Seen((M, M, 25), (2 * M + 25,)),
    ),
    Row(
        "several IN requests in flight keep their order",
        tuple(give(M - n, 2 * n) for n in range(1, 9)) + (read(4 * M),) * 8,
        Seen(tuple(M + n for n in range(1, 9)), tuple(M + n for n in range(1, 9))),
    ),
    Row(
        "several OUT requests in flight keep their order",
        (take(2 * M),) * 8 + tuple(write(M + n) for n in range(1, 9)),
        Seen(tuple(M + n for n in range(1, 9)), tuple(M + n for n in range(1, 9))),
    ),
    Row(
        "a stream: partial requests end with any packet",
        (take(4 * M, partial=True), take(4 * M, partial=True), write(2 * M)),
        Seen((2 * M, WAITING), (2 * M,)),
        # FunctionFS does not tell where the host's transfer ends, so a partial request there is
        # one of a single packet (drivers/usb/gadget/function/f_fs.c has usb_ep_queue alone).
        {"FunctionFS": Seen((M, M), (2 * M,)), CUTS: Seen((M, M), (2 * M,))},
    ),
    # too much
    Row(
        "OUT request too small for a packet",
        (take(M - 28), write(M)),
        # The host is told what fitted, with status 0.
        Seen((Failed(Overflow, M - 28),), (M - 28,), lost=False),
        # ffs_user_copy_worker() gives req->status or req->actual, never both.
        {"FunctionFS": Seen((Failed(Overflow),), (M - 28,), lost=True)},
    ),
    Row(
        "OUT request ends inside a packet",
        (take(M + 25), write(2 * M)),
        Seen((Failed(Overflow, M + 25),), (M + 25,), lost=False),
        {"FunctionFS": Seen((Failed(Overflow),), (M + 25,), lost=True)},
    ),
    # halts
    Row(
        "a halted OUT endpoint keeps its request",
        (Halt("out"), take(M), write(M), Feature("out", halt=False), write(M - 1)),
        Seen((M - 1,), (EPIPE, M - 1)),
    ),
    Row(
        "the host may halt an endpoint whose request waits",
        (give(M + 25), Feature("in", halt=True), read(4 * M), read(4 * M),
         Feature("in", halt=False), read(4 * M)),
        Seen((M + 25,), (EPIPE, EPIPE, M + 25)),
    ),
    Row(
        "clearing a halt that is none harms nothing",
        (give(M - 1), take(M), Feature("in", halt=False), Feature("out", halt=False),
         write(M - 2), read(M)),
        Seen((M - 1, M - 2), (M - 2, M - 1)),
    ),
    # taking back: the device
    Row(
        "a withdrawn IN request sends nothing",
        (give(M + 25), give(2 * M - 1), Withdraw(0), read(4 * M)),
        Seen((WITHDRAWN, 2 * M - 1), (2 * M - 1,)),
    ),
    Row(
        "a withdrawn OUT request takes nothing",
        (take(M), take(2 * M), Withdraw(0), write(M + 25)),
        Seen((WITHDRAWN, M + 25), (M + 25,)),
    ),
    Row(
        "an endpoint works after its last request was withdrawn",
        (give(M + 25), take(M), Withdraw(0), Withdraw(1), take(M), give(M - 1), write(M), read(M)),
        Seen((WITHDRAWN, WITHDRAWN, M, M - 1), (M, M - 1)),
    ),
    Row(
        "a small IN request waits for the host",
        (give(13), Withdraw(0), read(M, timeout_ms=TIMEOUT_MS)),
        Seen((WITHDRAWN,), (ETIMEDOUT,)),
        # dummy_queue() puts an IN request of at most 64 bytes into a FIFO where it is the only
        # one, and completes it at once (drivers/usb/gadget/udc/dummy_hcd.c, FIFO_SIZE).
        {"dummy_udc": Seen((13,), (13,))},
    ),
    # taking back: the host
    Row(
        "an IN URB that timed out takes nothing from the next",
        (read(2 * M, timeout_ms=TIMEOUT_MS), give(M + 25), give(M - 1), read(2 * M), read(2 * M)),
        Seen((M + 25, M - 1), (ETIMEDOUT, M + 25, M - 1)),
    ),
    Row(
        "an OUT URB that timed out is not delivered",
        (write(M, timeout_ms=TIMEOUT_MS), take(2 * M), write(M - 1)),
        Seen((M - 1,), (ETIMEDOUT, M - 1)),
    ),
    Row(
        "whole packets and no ZLP: the URB waits for more",
        (give(M), read(2 * M, timeout_ms=TIMEOUT_MS), give(M + 25), read(2 * M)),
        # The bytes left the device with a URB that was then unlinked, and RET_UNLINK carries none
        # (drivers/usb/usbip/vudc_tx.c).
        Seen((M, M + 25), (ETIMEDOUT, M + 25), lost=True),
        # dummy_hcd writes into the host's own memory: the URB comes back with what it had.
        # A host that cuts the transfer has had a whole URB of it when the next one times out.
        {
            "dummy_udc": Seen((M, M + 25), (M, M + 25)),
            HOST_CUTS: Seen((M, M + 25), (M, M + 25)),
        },
    ),
)  # fmt: skip

ROWS: Final = TEN_ROWS + OTHER_ROWS
