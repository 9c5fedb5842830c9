"""Rules of CMD_UNLINK: the part of USB/IP that servers get wrong most often."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Final

from usbip_vudc.conformance.peer import Peer, Reply, Silent, Unlinked, Violation
from usbip_vudc.conformance.rule import MUST, SHOULD, Rule
from usbip_vudc.conformance.subject import GET_DEVICE, Subject

__all__ = ("RULES",)

_IN: Final = 0x80
_STRANGER: Final = 0x0BAD_5EED
"""A seqnum that was never sent."""

_ROUNDS: Final = 20
"""Races: each round may go either way."""

_QUEUE: Final = 16
"""URBs pending at once on one endpoint."""

_REST: Final = 0.05
"""Seconds in which a server that has nothing to do falls asleep."""

_PENDING: Final = -errno.ECONNRESET


def _at_once(peer: Peer, subject: Subject, seqnum: int, wanted: int) -> None:
    """RET_UNLINK must come by itself, with this status."""
    try:
        got = peer.unlinked(seqnum)
    except Silent as silence:
        try:
            peer.send(peer.submit_bytes(_IN, 18, setup=GET_DEVICE))
            peer.replies(2)
        except Violation:
            raise silence from None
        raise Violation(f"RET_UNLINK came only after the next URB; before: {silence}") from None
    if got.status != wanted:
        raise Violation(f"RET_UNLINK status {got.status}, expected {wanted}")
    subject.alive(peer)


def _idle(peer: Peer, subject: Subject) -> None:
    """Let a server that has just begun come to rest: then whoever replies must be woken."""
    subject.alive(peer)
    peer.must_be_quiet(_REST)


def unknown(subject: Subject) -> None:
    """The URB was never sent, or its reply is on its way: vhci waits for this answer."""
    with subject.imported() as peer:
        _idle(peer, subject)
        _at_once(peer, subject, peer.unlink(_STRANGER), 0)


def completed(subject: Subject) -> None:
    """The reply was there already."""
    with subject.imported() as peer:
        seqnum = peer.submit(_IN, 18, setup=GET_DEVICE)
        peer.reply_to(seqnum)
        peer.must_be_quiet(_REST)
        _at_once(peer, subject, peer.unlink(seqnum), 0)


def pending(subject: Subject) -> None:
    """The URB is given up: it gets no reply of its own any more."""
    quiet = subject.quiet
    with subject.configured() as peer:
        target = peer.submit(quiet.bEndpointAddress, quiet.max_packet_size)
        _at_once(peer, subject, peer.unlink(target), _PENDING)


def _settled(
    peer: Peer,
    subject: Subject,
    targets: Sequence[int],
    unlinks: Sequence[int],
    *,
    waited: bool = False,
) -> None:
    """No target is answered and given up, and each unlink is answered.

    ``waited``: the targets had no data, so all of them must be given up. A request on ep0 closes
    the round: it gets out what a server has kept back.
    """
    last = peer.submit(_IN, 18, setup=GET_DEVICE)
    waiting = {last, *unlinks}
    of_unlink = dict(zip(unlinks, targets, strict=True))
    open_targets = set(targets)
    while waiting:
        try:
            got = peer.reply()
        except Silent as silence:
            raise Silent(f"{len(waiting)} replies are missing: {silence}") from None
        waiting.discard(got.seqnum)
        if isinstance(got, Reply):
            _once(got.seqnum, open_targets | {last})
            open_targets.discard(got.seqnum)
        else:
            target = of_unlink[got.seqnum]
            if waited and got.status != _PENDING:
                raise Violation(f"seqnum {target} waits, but its unlink had status {got.status}")
            if got.status not in (0, _PENDING):
                raise Violation(f"RET_UNLINK status {got.status}, expected 0 or {_PENDING}")
            if got.status:
                _once(target, open_targets)
            open_targets.discard(target)
    subject.alive(peer)


def _once(target: int, open_targets: set[int]) -> None:
    if target not in open_targets:
        raise Violation(
            f"seqnum {target} is answered by RET_SUBMIT and is unlinked, with {_PENDING} or "
            f"before: vhci_hcd drops the device"
        )


def race(subject: Subject) -> None:
    """The unlink is in the same segment as its URB, which completes at once."""
    with subject.imported() as peer:
        for _ in range(_ROUNDS):
            header = peer.submit_bytes(_IN, 18, setup=GET_DEVICE)
            target = peer.last
            peer.send(header + peer.unlink_bytes(target))
            _settled(peer, subject, [target], [peer.last])


def race_pending(subject: Subject) -> None:
    """The same for a URB that waits: it must be given up, whatever overtakes what."""
    quiet = subject.quiet
    with subject.configured() as peer:
        for _ in range(_ROUNDS):
            header = peer.submit_bytes(quiet.bEndpointAddress, quiet.max_packet_size)
            target = peer.last
            peer.send(header + peer.unlink_bytes(target))
            _settled(peer, subject, [target], [peer.last], waited=True)


def queue(subject: Subject) -> None:
    """Many wait on one endpoint, and are unlinked from the middle outwards, in one segment."""
    quiet = subject.quiet
    with subject.configured() as peer:
        targets = [
            peer.submit(quiet.bEndpointAddress, quiet.max_packet_size) for _ in range(_QUEUE)
        ]
        order = sorted(targets, key=lambda seqnum: abs(seqnum - targets[_QUEUE // 2]))
        stream, unlinks = b"", []
        for target in order:
            stream += peer.unlink_bytes(target)
            unlinks.append(peer.last)
        peer.send(stream)
        _settled(peer, subject, order, unlinks, waited=True)


def twice(subject: Subject) -> None:
    """Of two unlinks of one URB that waits, one gives it up and the other finds nothing."""
    quiet = subject.quiet
    with subject.configured() as peer:
        target = peer.submit(quiet.bEndpointAddress, quiet.max_packet_size)
        stream = peer.unlink_bytes(target)
        stream += peer.unlink_bytes(target)
        peer.send(stream + peer.submit_bytes(_IN, 18, setup=GET_DEVICE))
        got = peer.replies(3)
    statuses = sorted(reply.status for reply in got if isinstance(reply, Unlinked))
    if statuses != [_PENDING, 0]:
        raise Violation(f"RET_UNLINK statuses {statuses}, expected {_PENDING} and 0")


def of_an_unlink(subject: Subject) -> None:
    """An unlink is no URB: there is nothing to take back."""
    with subject.imported() as peer:
        first = peer.unlink_bytes(_STRANGER)
        seqnum = peer.last
        second = peer.unlink_bytes(seqnum)
        third = peer.submit_bytes(_IN, 18, setup=GET_DEVICE)
        peer.send(first + second + third)
        for reply in peer.replies(3):
            if reply.status:
                raise Violation(f"{type(reply).__name__} status {reply.status}, expected 0")


def stale(subject: Subject) -> None:
    """A host that leaves without reading: none of its replies reaches the next one."""
    for _ in range(3):
        with subject.imported() as peer:
            for _ in range(64):
                peer.send(peer.submit_bytes(_IN, 18, setup=GET_DEVICE, seqnum=peer.last + 7))
        with subject.imported() as peer:
            reply = peer.reply_to(peer.submit(_IN, 18, setup=GET_DEVICE))
            _whole(reply)


def _whole(reply: Reply) -> None:
    if reply.status or len(reply.payload) != 18:
        raise Violation(f"status {reply.status}, {len(reply.payload)} bytes, expected 18")


_VHCI: Final = "drivers/usb/usbip/vhci_rx.c, vhci_recv_ret_unlink()"
_STUB: Final = "drivers/usb/usbip/stub_rx.c, stub_recv_cmd_unlink()"
_RET: Final = "usbip_protocol.rst, USBIP_RET_UNLINK"

RULES: Final = (
    Rule(name="unlink-unknown", check=unknown, severity=MUST,
         what="unlink of a seqnum that is not pending: RET_UNLINK 0, at once", source=_RET),
    Rule(name="unlink-completed", check=completed, severity=MUST,
         what="unlink of a URB that was answered: RET_UNLINK 0, at once", source=_RET),
    Rule(name="unlink-pending", check=pending, severity=MUST,
         what="unlink of a URB that waits: -ECONNRESET, and no RET_SUBMIT after", source=_VHCI),
    Rule(name="unlink-race", check=race, severity=MUST,
         what="an unlink that races with the completion: one or the other, never both",
         source=_STUB),
    Rule(name="unlink-race-pending", check=race_pending, severity=MUST,
         what="an unlink in the segment of its URB finds it", source=_STUB),
    Rule(name="unlink-queue", check=queue, severity=MUST,
         what=f"{_QUEUE} URBs that wait are unlinked in any order", source=_STUB),
    Rule(name="unlink-twice", check=twice, severity=SHOULD,
         what="two unlinks of one URB: one -ECONNRESET, one 0", source=_STUB),
    Rule(name="unlink-unlink", check=of_an_unlink, severity=SHOULD,
         what="unlink of an unlink: RET_UNLINK 0", source=_STUB),
    Rule(name="stale-replies", check=stale, severity=MUST, hostile=True,
         what="replies to a host that has left do not reach the next one",
         source="drivers/usb/usbip/vudc_tx.c, v_send_ret()"),
)  # fmt: skip
