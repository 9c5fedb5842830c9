"""Rules of hosts that leave in the middle, and of PDUs that no host sends.

A server may end the connection or answer with an error; it may not fall silent, send more than
was asked for, or be of no use to the next host.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from usbip_vudc.conformance.peer import Ended, Peer, Silent, Violation
from usbip_vudc.conformance.rule import MUST, SHOULD, Rule
from usbip_vudc.conformance.subject import GET_DEVICE, Subject
from usbip_vudc.conformance.submits import ends_or_answers
from usbip_vudc.usb.ch9 import SetupPacket
from usbip_vudc.wire.pdu import HEADER_SIZE, CmdUnlink

__all__ = ("RULES",)

_IN: Final = 0x80
_UNKNOWN_COMMAND: Final = 9
_TRAP: Final = 0x7AFF_0001
"""A seqnum that no command has, but only a payload that looks like one."""


def _no_data(subject: Subject, peer: Peer, seqnum: int) -> None:
    """Such a URB is refused or moves nothing; the connection, where it goes on, is in step."""
    reply = ends_or_answers(peer, seqnum)
    if reply is None:
        return
    if reply.payload:
        raise Violation(f"{len(reply.payload)} bytes came")
    subject.alive(peer)


def close_pending(subject: Subject) -> None:
    """A host leaves with URBs pending, once with a FIN and once with a RST."""
    quiet = subject.quiet
    for abruptly in (False, True):
        with subject.configured() as peer:
            for _ in range(4):
                peer.submit(quiet.bEndpointAddress, quiet.max_packet_size)
            peer.close(abruptly=abruptly)
        subject.recovers()


def close_half_header(subject: Subject) -> None:
    """A host leaves within a header."""
    with subject.imported() as peer:
        peer.send(peer.submit_bytes(_IN, 18, setup=GET_DEVICE)[:20])


def close_half_payload(subject: Subject) -> None:
    """A host leaves within a payload. usbip-vudc of Linux 6.1 follows a NULL pointer then."""
    with subject.imported() as peer:
        setup = SetupPacket(0x00, 0x7E, 0, 0, 512)
        peer.send(peer.submit_bytes(0, 512, setup=setup) + bytes(100))


def unknown_command(subject: Subject) -> None:
    """Nobody knows how long such a PDU is: the stream cannot go on."""
    with subject.imported() as peer:
        peer.send(_UNKNOWN_COMMAND.to_bytes(4, "big") + bytes(HEADER_SIZE - 4))
        peer.must_end()


def devid_wrong(subject: Subject) -> None:
    """A devid that is not the device's: taken or refused, not passed over."""
    with subject.imported() as peer:
        devid = peer.devid ^ 0x00FF_0055
        peer.send(peer.submit_bytes(_IN, 18, setup=GET_DEVICE, devid=devid))
        ends_or_answers(peer, peer.last)


def direction_wrong(subject: Subject) -> None:
    """A direction that is neither 0 nor 1; with no data, so that no payload is waited for."""
    with subject.imported() as peer:
        setup = SetupPacket(0x80, 6, 0x0100, 0, 0)
        peer.send(peer.submit_bytes(0, 0, setup=setup, direction=5))
        _no_data(subject, peer, peer.last)


def endpoint_above_15(subject: Subject) -> None:
    """There are sixteen endpoint numbers (USB 2.0 8.3.2.2)."""
    with subject.imported() as peer:
        peer.send(peer.submit_bytes(16, 64, direction=1))
        _no_data(subject, peer, peer.last)


def endpoint_absent_in(subject: Subject) -> None:
    """An IN endpoint that the device does not have: whoever waits for it waits for ever."""
    absent = subject.absent
    with subject.configured() as peer:
        _no_data(subject, peer, peer.submit(absent | _IN, 64))


def endpoint_absent_out(subject: Subject) -> None:
    """An OUT endpoint that it does not have; its payload would make sense as a command."""
    absent = subject.absent
    with subject.configured() as peer:
        trap = CmdUnlink(seqnum=_TRAP, devid=peer.devid, unlink_seqnum=0).pack()
        seqnum = peer.submit(absent, len(trap), data=trap)
        try:
            _no_data(subject, peer, seqnum)
        except Silent:
            if _obeyed(peer):
                raise Violation("its payload was taken for a command, and obeyed") from None
            raise


def _obeyed(peer: Peer) -> bool:
    """Whether the trap is among the next replies; a request on ep0 gets them out."""
    peer.submit(_IN, 18, setup=GET_DEVICE)
    try:
        for _ in range(2):
            header = peer.receive(HEADER_SIZE)
            if int.from_bytes(header[4:8], "big") == _TRAP:
                return True
            peer.receive(int.from_bytes(header[24:28], "big") & 0xFF)
    except (Silent, Ended):
        pass
    return False


def seqnum_reuse(subject: Subject) -> None:
    """A second URB with the seqnum of one that waits: any answer, but the server lives."""
    quiet = subject.quiet
    address, size = quiet.bEndpointAddress, quiet.max_packet_size
    with subject.configured() as peer:
        first = peer.submit(address, size)
        peer.send(peer.submit_bytes(address, size, seqnum=first))
        last = first + 1
        peer.send(peer.submit_bytes(_IN, 18, setup=GET_DEVICE, seqnum=last))
        with suppress(Ended):
            while peer.reply().seqnum != last:
                pass


def packets_on_ep0(subject: Subject) -> None:
    """Packets on an endpoint that is not isochronous: no descriptors follow, none are awaited."""
    with subject.imported() as peer:
        for packets in (1, 1025, -2):
            peer.send(peer.submit_bytes(_IN, 18, setup=GET_DEVICE, packets=packets))
            try:
                peer.reply_to(peer.last)
            except Ended:
                return


def length_negative(subject: Subject) -> None:
    """transfer_buffer_length is signed, and less than nothing."""
    for length in (-1, -0x8000_0000):
        with subject.imported() as peer:
            peer.send(peer.submit_bytes(_IN, length, setup=GET_DEVICE))
            _no_data(subject, peer, peer.last)


def length_huge(subject: Subject) -> None:
    """More than there is memory for; nothing of it is sent."""
    with subject.imported() as peer:
        peer.send(peer.submit_bytes(_IN, 0x7FFF_FFFF, setup=GET_DEVICE))
        ends_or_answers(peer, peer.last)


_RX: Final = "drivers/usb/usbip/stub_rx.c, "
_CLOSE: Final = "drivers/usb/usbip/stub_dev.c, stub_shutdown_connection()"

RULES: Final = (
    Rule(name="close-pending", check=close_pending, severity=MUST, hostile=True,
         what="a host that leaves with URBs pending: the device can be imported anew",
         source=_CLOSE),
    Rule(name="close-half-header", check=close_half_header, severity=MUST, hostile=True,
         what="a host that leaves within a header: likewise", source=_CLOSE),
    Rule(name="close-half-payload", check=close_half_payload, severity=MUST,
         what="a host that leaves within a payload: likewise", hostile=True, rough=True,
         source="drivers/usb/usbip/usbip_common.c, usbip_recv_xbuff()"),
    Rule(name="devid-wrong", check=devid_wrong, severity=SHOULD, hostile=True,
         what="another devid: an answer, or the end of the connection",
         source=f"{_RX}valid_request()"),
    Rule(name="direction-wrong", check=direction_wrong, severity=SHOULD, hostile=True, rough=True,
         what="direction 5: an answer without data, or the end", source=f"{_RX}get_pipe()"),
    Rule(name="endpoint-above-15", check=endpoint_above_15, severity=SHOULD, hostile=True,
         what="ep 16: an error, or the end", source=f"{_RX}get_pipe()"),
    Rule(name="endpoint-absent-in", check=endpoint_absent_in, severity=SHOULD, hostile=True,
         what="IN on an endpoint that is not there: an error, or the end",
         source=f"{_RX}get_pipe()"),
    Rule(name="endpoint-absent-out", check=endpoint_absent_out, severity=SHOULD, hostile=True,
         what="OUT likewise, and its payload is never taken for a header",
         source=f"{_RX}get_pipe()"),
    Rule(name="seqnum-reuse", check=seqnum_reuse, severity=SHOULD, hostile=True,
         what="the seqnum of a pending URB again: the server survives", source=_RX.strip(", ")),
    Rule(name="packets-on-ep0", check=packets_on_ep0, severity=SHOULD, hostile=True,
         what="number_of_packets on endpoint 0: ignored, or the end",
         source="drivers/usb/usbip/usbip_common.c, usbip_recv_iso()"),
    Rule(name="unknown-command", check=unknown_command, severity=MUST, hostile=True,
         what="an unknown command: the connection ends", source=f"{_RX}stub_rx_pdu()"),
    Rule(name="length-negative", check=length_negative, severity=SHOULD, hostile=True, rough=True,
         what="a negative transfer_buffer_length: an error, or the end",
         source="drivers/usb/usbip/vudc_rx.c, alloc_urb_from_cmd()"),
    Rule(name="length-huge", check=length_huge, severity=SHOULD, hostile=True, rough=True,
         what="transfer_buffer_length of 2 GiB: an answer, or the end",
         source="drivers/usb/usbip/vudc_rx.c, alloc_urb_from_cmd()"),
)  # fmt: skip
