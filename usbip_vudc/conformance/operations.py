"""Rules of what happens before a device is imported: DEVLIST and IMPORT."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Final

from usbip_vudc.conformance.peer import Ended, Peer, Silent, Violation
from usbip_vudc.conformance.rule import MUST, SHOULD, Rule
from usbip_vudc.conformance.subject import Subject, read_operation
from usbip_vudc.errors import RemoteProtocolError
from usbip_vudc.usb.ch9 import Speed
from usbip_vudc.wire.pdu import (
    USBIP_VERSION,
    OpCode,
    OpHeader,
    OpRepDevlist,
    OpReqImport,
    OpStatus,
    UsbDevice,
    UsbInterface,
)

__all__ = ("RULES",)

_DEVLIST: Final = OpHeader(OpCode.REQ_DEVLIST).pack()
_QUIET: Final = 0.1
"""Seconds in which nothing more may come."""

_CROWD: Final = 32
"""Connections at once: fewer than any listen backlog in use."""


def _header(peer: Peer, code: OpCode) -> int:
    """The status of an operation's reply, whose version and code must be right."""
    answer = read_operation(peer)
    if answer.version != USBIP_VERSION:
        raise Violation(f"version {answer.version:#06x}, expected {USBIP_VERSION:#06x}")
    if answer.code != code:
        raise Violation(f"code {answer.code:#06x}, expected {code:#06x}")
    return answer.status


def _listed(peer: Peer) -> list[UsbDevice]:
    """The devices of a whole, well-formed DEVLIST reply."""
    peer.send(_DEVLIST)
    status = _header(peer, OpCode.REP_DEVLIST)
    if status:
        raise Violation(f"DEVLIST: status {status}, expected 0")
    devices = []
    try:
        for _ in range(OpRepDevlist.parse_count(peer.receive(OpRepDevlist.COUNT_SIZE))):
            device = UsbDevice.parse(peer.receive(UsbDevice.SIZE))
            devices.append(device)
            if device.bNumInterfaces:
                peer.receive(device.bNumInterfaces * UsbInterface.SIZE)
    except RemoteProtocolError as error:
        raise Violation(str(error)) from None
    except (Ended, Silent) as error:
        raise Violation(f"the list ends after {len(devices)} device(s): {error}") from None
    return devices


def devlist(subject: Subject) -> None:
    """All that is announced comes, and no more."""
    with subject.connect() as peer:
        _listed(peer)
        peer.must_be_quiet(_QUIET)


def devlist_busid(subject: Subject) -> None:
    """The busid that can be imported is in the list, at a speed that exists."""
    with subject.connect() as peer:
        devices = _listed(peer)
    found = [device for device in devices if device.busid == subject.busid]
    if not found:
        there = ", ".join(device.busid for device in devices) or "nothing"
        raise Violation(f"busid {subject.busid} is not in the list: {there}")
    if len(found) > 1:
        raise Violation(f"busid {subject.busid} is in the list {len(found)} times")
    if found[0].speed == Speed.UNKNOWN:
        raise Violation("speed 0: vhci_hcd refuses to attach such a device")


def import_device(subject: Subject) -> None:
    """IMPORT is answered by the device that was asked for, and no more."""
    with subject.connect() as peer:
        peer.send(OpReqImport(subject.busid).pack())
        status = _header(peer, OpCode.REP_IMPORT)
        if status:
            raise Violation(f"status {status}, expected 0")
        try:
            device = UsbDevice.parse(peer.receive(UsbDevice.SIZE))
        except RemoteProtocolError as error:
            raise Violation(str(error)) from None
        peer.must_be_quiet(_QUIET)
    if device.busid != subject.busid:
        raise Violation(f"busid {device.busid!r}, but {subject.busid!r} was asked for")


def _refused(subject: Subject, busid: str, allowed: tuple[OpStatus, ...]) -> None:
    """An import of this busid must be refused by these statuses, with nothing after."""
    with subject.connect() as peer:
        answer, _ = subject.request_import(peer, busid)
        if answer.status == OpStatus.OK:
            raise Violation(f"the import of {busid!r} was granted")
        if answer.status not in allowed:
            names = " or ".join(f"ST_{status.name} ({status.value})" for status in allowed)
            raise Violation(f"status {answer.status}, expected {names}")
        peer.must_be_quiet(_QUIET)


_UNKNOWN: Final = (OpStatus.NODEV, OpStatus.NA)


def import_unknown(subject: Subject) -> None:
    """A busid that nobody has."""
    _refused(subject, "no-such-busid", _UNKNOWN)


def import_near(subject: Subject) -> None:
    """Busids that begin as the right one, or it as they; none that another device may have."""
    # 1-12 begins as 1-1, which is somebody's; 1- and 1-12x are nobody's.
    shorter = subject.busid.rstrip("0123456789")
    for near in (shorter, f"{subject.busid}x"):
        if near not in ("", subject.busid) and len(near) < 32:
            _refused(subject, near, _UNKNOWN)


def import_unterminated(subject: Subject) -> None:
    """Thirty-two bytes of busid without a NUL."""
    request = OpHeader(OpCode.REQ_IMPORT).pack() + subject.busid.encode().ljust(32, b"9")
    with subject.connect() as peer:
        peer.send(request)
        try:
            answer = read_operation(peer)
        except Ended:
            return
        if answer.status == OpStatus.OK:
            raise Violation("an import was granted")


def import_busy(subject: Subject) -> None:
    """While a host has it, nobody else gets it, and the first host notices nothing."""
    with subject.imported() as peer:
        _refused(subject, subject.busid, (OpStatus.DEV_BUSY,))
        subject.alive(peer)


def _ends_or_refuses(peer: Peer) -> None:
    """The connection must end, or the answer be a refusal."""
    try:
        answer = read_operation(peer)
    except Ended:
        return
    if answer.status == OpStatus.OK:
        raise Violation(f"answered by code {answer.code:#06x}, status 0")


def version(subject: Subject) -> None:
    """Another version is not taken for ours."""
    for other in (0x0100, 0x0112, 0xFFFF):
        with subject.connect() as peer:
            peer.send(OpHeader(OpCode.REQ_DEVLIST, version=other).pack())
            _ends_or_refuses(peer)
    subject.serves()


def unknown_operation(subject: Subject) -> None:
    """An operation that does not exist, and a reply sent as a request."""
    for code in (0x80FF, OpCode.REP_DEVLIST):
        with subject.connect() as peer:
            peer.send(OpHeader(code).pack())
            _ends_or_refuses(peer)
    subject.serves()


def submit_before_import(subject: Subject) -> None:
    """A URB for a device that was never imported."""
    with subject.connect() as peer:
        peer.send(peer.submit_bytes(0x80, 18))
        _ends_or_refuses(peer)
    subject.serves()


def half_operation(subject: Subject) -> None:
    """A header that stops after three bytes, and an IMPORT within its busid."""
    for part in (_DEVLIST[:3], OpReqImport(subject.busid).pack()[:18]):
        with subject.connect() as peer:
            peer.send(part)
    subject.serves()
    subject.recovers()


def split_operation(subject: Subject) -> None:
    """IMPORT byte by byte."""
    request = OpReqImport(subject.busid).pack()
    with subject.connect() as peer:
        peer.send(*(request[at : at + 1] for at in range(len(request))))
        if status := _header(peer, OpCode.REP_IMPORT):
            raise Violation(f"status {status}, expected 0")


def silent_connection(subject: Subject) -> None:
    """Somebody connects and says nothing: others are served."""
    with subject.connect():
        subject.serves()
        subject.recovers()


def many_connections(subject: Subject) -> None:
    """A crowd is connected at once; the last is answered first, then some before it."""
    with ExitStack() as stack:
        peers = [stack.enter_context(subject.connect()) for _ in range(_CROWD)]
        for peer in peers[::-8]:
            _listed(peer)


_OPERATIONS: Final = "usbip_protocol.rst, OP_"
_RECEIVE: Final = "tools/usb/usbip/src/usbipd.c, recv_pdu()"
_HEADER: Final = "tools/usb/usbip/src/usbip_network.c, usbip_net_recv_op_common()"

RULES: Final = (
    Rule(name="devlist", check=devlist, severity=MUST,
         what="DEVLIST: version, code, count and sizes are right, and nothing follows",
         source=f"{_OPERATIONS}REP_DEVLIST"),
    Rule(name="devlist-busid", check=devlist_busid, severity=MUST,
         what="DEVLIST has the busid once, at a speed that exists",
         source=f"{_OPERATIONS}REP_DEVLIST; drivers/usb/usbip/vhci_sysfs.c, valid_args()"),
    Rule(name="import", check=import_device, severity=MUST,
         what="IMPORT is answered by 320 bytes with the busid that was asked for",
         source="tools/usb/usbip/src/usbip_attach.c, query_import_device()"),
    Rule(name="import-unknown", check=import_unknown, severity=MUST,
         what="IMPORT of a busid that nobody has: ST_NODEV or ST_NA, and nothing more",
         source=f"{_OPERATIONS}REP_IMPORT"),
    Rule(name="import-near", check=import_near, severity=MUST,
         what="IMPORT of a busid that only begins as one that there is: refused",
         source="tools/usb/usbip/src/usbipd.c, recv_request_import()"),
    Rule(name="import-unterminated", check=import_unterminated, severity=SHOULD,
         what="IMPORT of 32 bytes without a NUL: refused", hostile=True,
         source="tools/usb/usbip/src/usbipd.c, recv_request_import()"),
    Rule(name="import-busy", check=import_busy, severity=MUST,
         what="a second IMPORT: ST_DEV_BUSY, and the first host goes on",
         source="tools/usb/usbip/libsrc/usbip_host_common.c, usbip_export_device()"),
    Rule(name="import-split", check=split_operation, severity=MUST,
         what="IMPORT that comes byte by byte is taken", source=f"{_OPERATIONS}REQ_IMPORT"),
    Rule(name="version", check=version, severity=MUST,
         what="another version: the connection ends or the answer is a refusal", source=_HEADER),
    Rule(name="unknown-operation", check=unknown_operation, severity=MUST,
         what="an unknown operation: the connection ends or it is refused", source=_RECEIVE),
    Rule(name="submit-before-import", check=submit_before_import, severity=MUST,
         what="a URB before any IMPORT: the connection ends", source=_HEADER),
    Rule(name="half-operation", check=half_operation, severity=MUST, hostile=True,
         what="an operation cut off by a close: the server serves on", source=_HEADER),
    Rule(name="silent-connection", check=silent_connection, severity=MUST,
         what="a connection that says nothing keeps nobody waiting",
         source="tools/usb/usbip/src/usbipd.c, process_request()"),
    Rule(name="many-connections", check=many_connections, severity=SHOULD,
         what=f"{_CROWD} connections at once are answered in any order",
         source="tools/usb/usbip/src/usbipd.c, listen_all_addrinfo()"),
)  # fmt: skip
