"""Rules of CMD_SUBMIT and RET_SUBMIT that any host relies on."""

from __future__ import annotations

import errno
from itertools import pairwise
from typing import Final

from usbip_vudc.conformance.peer import Ended, NotApplicable, Peer, Reply, Violation
from usbip_vudc.conformance.rule import MUST, SHOULD, Rule
from usbip_vudc.conformance.subject import GET_DEVICE, REFUSED, Subject, get_descriptor
from usbip_vudc.errors import SchemeError, errno_name
from usbip_vudc.urb import URB_DMA_MAP_SG
from usbip_vudc.usb.ch9 import DescriptorType, Feature, SetupPacket, StandardRequest
from usbip_vudc.usb.descriptors import DeviceDescriptor
from usbip_vudc.wire.pdu import HEADER_SIZE

__all__ = ("RULES", "ends_or_answers")

_IN: Final = 0x80
_REFUSED_OUT: Final = 0x7E
"""bRequest of a standard OUT request that no specification has: it is stalled."""


def ends_or_answers(peer: Peer, seqnum: int) -> Reply | None:
    """The reply to a URB that nobody need take, or None where the connection ends instead.

    Raises Silent where neither happens: a host's driver would wait for ever.
    """
    try:
        return peer.reply_to(seqnum)
    except Ended:
        return None


def _device(reply: Reply) -> DeviceDescriptor:
    if reply.status:
        raise Violation(f"GET_DESCRIPTOR(DEVICE): {errno_name(reply.status)}")
    try:
        return DeviceDescriptor.parse(reply.payload)
    except SchemeError as error:
        raise Violation(str(error)) from None


def descriptor(subject: Subject) -> None:
    """The first thing that every host asks."""
    with subject.imported() as peer:
        _device(peer.control(GET_DEVICE))


def short_transfer(subject: Subject) -> None:
    """Less than there was room for: actual_length says so, and only so many bytes follow."""
    with subject.imported() as peer:
        reply = peer.control(get_descriptor(DescriptorType.DEVICE, 255))
        _device(reply)
        if len(reply.payload) != reply.payload[0]:
            raise Violation(f"{len(reply.payload)} bytes of a descriptor of {reply.payload[0]}")
        subject.alive(peer)


def never_more(subject: Subject) -> None:
    """Each length that is asked for, around the packets and the descriptor's own."""
    with subject.imported() as peer:
        for length in (0, 1, 2, 7, 8, 9, 17, 18, 19, 63, 64, 65, 512, 4096):
            for kind in (DescriptorType.DEVICE, DescriptorType.CONFIGURATION):
                peer.control(get_descriptor(kind, length))
        subject.alive(peer)


def base_fields(subject: Subject) -> None:
    """Of usbip_header_basic a reply fills in command and seqnum alone."""
    with subject.imported() as peer:
        pdu = peer.control(GET_DEVICE).pdu
    found = {"devid": pdu.devid, "direction": pdu.direction, "ep": pdu.ep}
    if any(found.values()):
        told = ", ".join(f"{name} {value:#x}" for name, value in found.items() if value)
        raise Violation(f"{told}, expected 0")


def packet_count(subject: Subject) -> None:
    """A URB that is not isochronous has no packets, whichever way the host says so."""
    with subject.imported() as peer:
        for sent in (0, -1):
            header = peer.submit_bytes(_IN, 18, setup=GET_DEVICE, packets=sent)
            peer.send(header)
            pdu = peer.reply_to(peer.last).pdu
            if pdu.number_of_packets not in (0, -1):
                raise Violation(f"number_of_packets {pdu.number_of_packets}, {sent} was sent")


def stall(subject: Subject) -> None:
    """A protocol stall is a status, has no data, and ends with the next SETUP (USB 2.0 8.5.3.4)."""
    with subject.imported() as peer:
        reply = peer.control(REFUSED)
        if reply.status != -errno.EPIPE:
            raise Violation(f"status {reply.status}, expected {errno_name(errno.EPIPE)}")
        if reply.pdu.actual_length:
            raise Violation(f"actual_length {reply.pdu.actual_length}, expected 0")
        subject.alive(peer)


def out_reply(subject: Subject) -> None:
    """The reply to an OUT is a header alone, and its payload was consumed."""
    with subject.imported() as peer:
        for length in (1, 64, 500, 5000):
            setup = SetupPacket(0x00, _REFUSED_OUT, 0, 0, length)
            reply = peer.control(setup, bytes(length))
            if reply.status != -errno.EPIPE:
                raise Violation(f"status {reply.status} of a request that nobody knows")
            subject.alive(peer)


def pipelined(subject: Subject) -> None:
    """Several URBs in one segment are answered in the order of the endpoint's queue."""
    lengths = (18, 8, 18, 2, 18)
    with subject.imported() as peer:
        headers, wanted = [], []
        for length in lengths:
            setup = get_descriptor(DescriptorType.DEVICE, length)
            headers.append(peer.submit_bytes(_IN, length, setup=setup))
            wanted.append(peer.last)
        peer.send(b"".join(headers))
        for seqnum, length in zip(wanted, lengths, strict=True):
            if len(peer.reply_to(seqnum).payload) != length:
                raise Violation(f"seqnum {seqnum}: not the {length} bytes that it asked for")


def split(subject: Subject) -> None:
    """A header that comes byte by byte, and one whose payload comes by and by."""
    with subject.imported() as peer:
        header = peer.submit_bytes(_IN, 18, setup=GET_DEVICE)
        peer.send(*(header[at : at + 1] for at in range(HEADER_SIZE)))
        _device(peer.reply_to(peer.last))
        out = peer.submit_bytes(0, 600, setup=SetupPacket(0x00, _REFUSED_OUT, 0, 0, 600))
        behind = peer.last
        tail = peer.submit_bytes(_IN, 18, setup=GET_DEVICE)
        stream = out + bytes(600) + tail
        cuts = (0, 1, 47, 48, 49, 300, 647, 649, 695, len(stream))
        peer.send(*(stream[a:b] for a, b in pairwise(cuts)))
        peer.reply_to(behind)
        _device(peer.reply_to(peer.last))


def seqnum_any(subject: Subject) -> None:
    """Numbers go on from where the host was: they are large, they wrap, they are used again."""
    with subject.imported() as peer:
        for seqnum in (0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 1, 0xFFFF_FFFF, 2, 1):
            peer.send(peer.submit_bytes(_IN, 18, setup=GET_DEVICE, seqnum=seqnum))
            _device(peer.reply_to(seqnum))


def sg_flag(subject: Subject) -> None:
    """What is left of an SG list on the wire is this flag; it changes nothing."""
    with subject.imported() as peer:
        peer.submit(_IN, 18, setup=GET_DEVICE, flags=URB_DMA_MAP_SG)
        _device(peer.reply_to(peer.last))


def sg_flag_empty(subject: Subject) -> None:
    """The same flag on a URB without data."""
    value = subject.facts.configuration.descriptor.bConfigurationValue
    with subject.imported() as peer:
        select = SetupPacket(0x00, StandardRequest.SET_CONFIGURATION, value)
        peer.submit(0, 0, setup=select, flags=URB_DMA_MAP_SG)
        status = peer.reply_to(peer.last).status
        if status:
            raise Violation(f"SET_CONFIGURATION({value}): {errno_name(status)}")


def wlength_in(subject: Subject) -> None:
    """The setup's wLength and transfer_buffer_length disagree, in both ways."""
    for wlength, room in ((18, 8), (8, 18)):
        with subject.imported() as peer:
            peer.submit(_IN, room, setup=get_descriptor(DescriptorType.DEVICE, wlength))
            ends_or_answers(peer, peer.last)


def wlength_out(subject: Subject) -> None:
    """The same for OUT: the payload is as long as transfer_buffer_length says."""
    for wlength, length in ((8, 4), (4, 8)):
        with subject.imported() as peer:
            setup = SetupPacket(0x00, _REFUSED_OUT, 0, 0, wlength)
            peer.submit(0, length, setup=setup, data=bytes(length))
            if ends_or_answers(peer, peer.last) is not None:
                subject.alive(peer)


def ep0_beside_pending(subject: Subject) -> None:
    """An IN that waits for data holds up no other endpoint."""
    quiet = subject.quiet
    with subject.configured() as peer:
        peer.submit(quiet.bEndpointAddress, quiet.max_packet_size)
        for _ in range(3):
            subject.alive(peer)


def halted(subject: Subject) -> None:
    """A halted endpoint: -EPIPE without data, until the host clears it."""
    quiet = subject.quiet
    address, size = quiet.bEndpointAddress, quiet.max_packet_size
    with subject.configured() as peer:
        halt = SetupPacket(0x02, StandardRequest.SET_FEATURE, Feature.ENDPOINT_HALT, address)
        if peer.control(halt).status:
            raise NotApplicable(f"the device does not let a host halt endpoint {address:#04x}")
        reply = peer.reply_to(peer.submit(address, size))
        clear = SetupPacket(0x02, StandardRequest.CLEAR_FEATURE, Feature.ENDPOINT_HALT, address)
        cleared = peer.control(clear)
        if reply.status != -errno.EPIPE or reply.payload:
            raise Violation(f"status {reply.status}, {len(reply.payload)} bytes, expected -EPIPE")
        if cleared.status:
            raise Violation(f"CLEAR_FEATURE(ENDPOINT_HALT): {errno_name(cleared.status)}")
        again = peer.submit(address, size)
        last = peer.submit(_IN, 18, setup=GET_DEVICE)
        while (got := peer.reply()).seqnum != last:
            if got.seqnum == again and got.status == -errno.EPIPE:
                raise Violation("-EPIPE again after CLEAR_FEATURE(ENDPOINT_HALT) was acknowledged")


_SUBMIT: Final = "usbip_protocol.rst, USBIP_CMD_SUBMIT"
_RET: Final = "usbip_protocol.rst, USBIP_RET_SUBMIT"
_XBUFF: Final = "drivers/usb/usbip/usbip_common.c, usbip_recv_xbuff()"

RULES: Final = (
    Rule(name="descriptor", check=descriptor, severity=MUST,
         what="GET_DESCRIPTOR(DEVICE): the seqnum, status 0 and 18 bytes", source=_RET),
    Rule(name="short-transfer", check=short_transfer, severity=MUST,
         what="less data than room: actual_length bytes follow, without padding", source=_RET),
    Rule(name="never-more", check=never_more, severity=MUST,
         what="actual_length never exceeds transfer_buffer_length: a BUG in vhci_hcd",
         source=_XBUFF),
    Rule(name="base-fields", check=base_fields, severity=SHOULD,
         what="devid, direction and ep of a reply are 0",
         source="usbip_protocol.rst, usbip_header_basic"),
    Rule(name="packet-count", check=packet_count, severity=SHOULD,
         what="without packets number_of_packets comes back as 0 or 0xffffffff", source=_RET),
    Rule(name="stall", check=stall, severity=MUST,
         what="a stall: -EPIPE, no payload, and the next request works",
         source="drivers/usb/usbip/stub_tx.c, stub_complete()"),
    Rule(name="out-reply", check=out_reply, severity=MUST,
         what="OUT: the payload is consumed, and the reply has none", source=_SUBMIT),
    Rule(name="pipelined", check=pipelined, severity=MUST,
         what="URBs in one segment are answered each, in order", source=_SUBMIT),
    Rule(name="split", check=split, severity=MUST,
         what="headers and payloads may be cut anywhere, or come byte by byte", source=_SUBMIT),
    Rule(name="seqnum-any", check=seqnum_any, severity=MUST,
         what="seqnums begin anywhere, wrap, and may be used again",
         source="drivers/usb/usbip/vhci_hcd.c, vhci_tx_urb()"),
    Rule(name="sg-flag", check=sg_flag, severity=MUST,
         what="URB_DMA_MAP_SG on a control IN changes nothing",
         source="drivers/usb/usbip/stub_rx.c, stub_recv_cmd_submit()"),
    Rule(name="sg-flag-empty", check=sg_flag_empty, severity=SHOULD, hostile=True,
         what="URB_DMA_MAP_SG on a URB without data changes nothing",
         source="drivers/usb/usbip/stub_rx.c, stub_recv_cmd_submit()"),
    Rule(name="wlength-in", check=wlength_in, severity=MUST, hostile=True,
         what="wLength is not transfer_buffer_length: no more data than the latter, or the end",
         source="drivers/usb/core/urb.c, usb_submit_urb()"),
    Rule(name="wlength-out", check=wlength_out, severity=MUST, hostile=True,
         what="the same for OUT: transfer_buffer_length bytes are consumed, or the end",
         source="drivers/usb/core/urb.c, usb_submit_urb()"),
    Rule(name="ep0-beside-pending", check=ep0_beside_pending, severity=MUST,
         what="an IN that waits holds up no other endpoint", source=_SUBMIT),
    Rule(name="halted", check=halted, severity=MUST,
         what="a halted endpoint: -EPIPE and no payload until it is cleared",
         source="drivers/usb/usbip/stub_rx.c, tweak_clear_halt_cmd()"),
)  # fmt: skip
