"""What an errno of usbtest means for the test that returned it, and why a test was not run. Pure.

usbtest has its own words: EINVAL may be a wrong byte, EDOM a wrong descriptor, and tests 11 and 12
return 1000 or 2000 more than the status that they did not want.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Final

from usbip_vudc.errors import errno_name
from usbip_vudc.usb.ch9 import Direction, Speed, TransferType
from usbip_vudc.usbtest.cases import Case
from usbip_vudc.usbtest.parameters import Run
from usbip_vudc.usbtest.target import KNOWN, Known, Target

__all__ = ("SOURCE", "meaning", "not_supported")

SOURCE: Final = "drivers/usb/misc/usbtest.c"

_GENERAL: Final[Mapping[int, str]] = {
    errno.EPIPE: "the device halted the endpoint, or did not know the request",
    errno.EREMOTEIO: "the device sent a short packet before the URB was full",
    errno.ETIMEDOUT: "the device moved nothing for 10 s, or did not answer a request",
    errno.ENODEV: "the device is gone, or its interface is not number 0",
    errno.ESHUTDOWN: "the device was unplugged, or its endpoint disabled",
    errno.EPROTO: "the device broke the protocol, or left the bus",
    errno.ECONNRESET: "the URB was unlinked, and nobody had asked for that",
    errno.EACCES: "a URB could not be submitted again",
    errno.ENOSPC: "the bus has no bandwidth left for the endpoint",
    errno.EMSGSIZE: "an isochronous packet is longer than the endpoint's interval",
    errno.ENOMEM: "the kernel has no memory for it, or lacks the endpoint",
    errno.EHOSTUNREACH: "the device is not configured",
    errno.ENOTTY: "usbtest does not have the interface any more",
    errno.EBADMSG: "what came back is not what was written, or is shorter",
}

_OF_GROUP: Final[Mapping[tuple[str, int], str]] = {
    ("control", errno.EDOM): "a descriptor, or an answer of chapter 9, is not as it must be",
    ("control", errno.ERANGE): "GET_INTERFACE brought no byte",
    ("iso", errno.EIO): "more than a tenth of the packets failed",
    ("throughput", errno.EIO): "a URB failed, or was short",
    ("halt", errno.EINVAL): "an endpoint was halted, or moved data, when it must not",
}

_UNLINKED: Final = {
    1000: ("unlinked", errno.ECONNRESET),
    2000: ("killed", errno.ENOENT),
}
"""unlink1: what it adds -> what it did, and the status that it wants."""


def meaning(number: int, run: Run, target: Target) -> str:
    """A phrase for what went wrong: the errno's name, and what it says of device and test."""
    for offset, (done, wanted) in _UNLINKED.items():
        if run.case.group == "unlink" and offset <= number < offset + 1000:
            status = errno_name(number - offset).partition(" ")[0] if number > offset else "0"
            return f"a URB that was {done} has status {status}, not -{errno.errorcode[wanted]}"
    name = f"-{errno.errorcode.get(number, number)}"
    text = _of_case(number, run, target) or _GENERAL.get(number)
    return f"{name}: {text}" if text else name


def _of_case(number: int, run: Run, target: Target) -> str | None:
    case, values = run.case, run.parameters
    if number == errno.EDOM and case.number == 10:
        return "requests of a queue were completed out of order"
    if number == errno.EOVERFLOW:
        return _overflow(run, target)
    if number == errno.EINVAL and case.vendor and values.vary >= values.length:
        return f"vary {values.vary} must be less than length {values.length}"
    if number == errno.EINVAL and case.number in (5, 6, 7, 8) and not target.any_sg:
        maxp = _maxp(run, target)
        if values.length % maxp or values.vary % maxp:
            return (
                f"{target.controller or 'this host controller'} refuses SG entries that are no "
                f"multiple of maxpacket {maxp} (drivers/usb/core/urb.c)"
            )
    if number == errno.EINVAL and case.direction == Direction.IN:
        return "the driver refused the parameters, or read a byte that is not of the pattern"
    if number == errno.EINVAL and case.group != "halt":
        return "the driver or the controller refused the parameters"
    return _OF_GROUP.get((case.group, number))


def _overflow(run: Run, target: Target) -> str:
    text = "the device sent more than the buffer holds"
    maxp = _maxp(run, target)
    values = run.parameters
    odd = [f"length {values.length}"] if values.length % maxp else []
    if run.case.number in (4, 8) and values.vary % maxp:
        odd.append(f"vary {values.vary}")
    if odd and run.case.group in ("in", "throughput", "interrupt"):
        verb = "is" if len(odd) == 1 else "are"
        return f"{text}: {' and '.join(odd)} {verb} no multiple of maxpacket {maxp}"
    return text


def _maxp(run: Run, target: Target) -> int:
    return target.max_packet_size(run.case.transfer_type, run.case.direction or Direction.IN)


def not_supported(number: int, run: Run, target: Target, *, pattern: int = 0) -> str | None:
    """Why the test cannot be done with the device, where the errno says no more than that.

    ``pattern`` is the parameter of usbtest's module.
    """
    if number == errno.EOPNOTSUPP:
        return _why_not_supported(run, target, pattern)
    if number == errno.EINVAL and run.case.number == 24 and target.speed == Speed.LOW:
        # unlink_queued gives them no interval, which usb_submit_urb wants.
        return "usbtest queues bulk URBs here, which no interrupt endpoint of low speed takes"
    return None


def _why_not_supported(run: Run, target: Target, pattern: int) -> str:
    case, values = run.case, run.parameters
    known = KNOWN.get(target.ids, Known("another device"))
    ids = f"{target.ids[0]:04x}:{target.ids[1]:04x}"
    if case.vendor:
        return f"usbtest does not ask {ids} for vendor requests 0x5b and 0x5c"
    special = case.transfer_type in (TransferType.ISOCHRONOUS, TransferType.INTERRUPT)
    if special and target.speed == Speed.LOW:
        return _at_low_speed(case)
    if (why := _no_endpoint(case, target)) is not None:
        return why
    done = known.iso if case.group == "iso" else known.interrupt
    if special and not done:
        return f"usbtest does no {case.group} tests with {ids}"
    if case.group == "throughput" and pattern:
        return f"it needs pattern 0, and usbtest's module has pattern {pattern}"
    if case.number == 24 and values.sglen < 4:
        return f"it needs a queue of 4 URBs, and sglen is {values.sglen}"
    if case.number == 10 and values.iterations * values.sglen >= 1 << 32:
        return f"{values} are more requests than it can count (2^32 - 1)"
    if 0 in (values.length, values.vary, values.sglen):
        return f"{values} leaves nothing to test"
    return "the usbtest of this kernel does not know the test"


def _at_low_speed(case: Case) -> str:
    if case.group == "iso":
        return "low speed has no isochronous endpoints (USB 2.0 5.6.3)"
    return "at low speed usbtest uses the interrupt endpoints in its bulk tests"


def _no_endpoint(case: Case, target: Target) -> str | None:
    directions = (case.direction,) if case.direction is not None else tuple(Direction)
    if case.transfer_type == TransferType.CONTROL or any(
        target.endpoint(case.transfer_type, direction) for direction in directions
    ):
        return None
    kind = case.transfer_type.name.lower()
    which = f" {case.direction.name}" if case.direction is not None else ""
    return (
        f"there is no {kind}{which} endpoint in setting {target.setting} of interface "
        f"{target.interface}"
    )
