"""What USB forbids: one rule each, with its section, for endpoints, configurations and devices.

A rule judges values that are known already, at one speed. Whether a breach is refused or served
all the same (``deliberately_illegal``) is device.py's matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from usbip_vudc.function import Function
from usbip_vudc.gadget.at_speed import EndpointAtSpeed
from usbip_vudc.gadget.config import Config
from usbip_vudc.usb.ch9 import Speed, TransferType

__all__ = (
    "HAS_BOS",
    "RULES",
    "SPEEDS",
    "DeviceAtSpeed",
    "Rule",
    "Violation",
    "legal_packet_sizes",
    "violations",
)

_LOW, _FULL, _HIGH, _SUPER = SPEEDS = (Speed.LOW, Speed.FULL, Speed.HIGH, Speed.SUPER)
HAS_BOS: Final = 0x0201
"""From this bcdUSB on hosts ask for a BOS (USB 2.0 ECN, Link Power Management)."""

_BULK, _INTERRUPT, _ISO = TransferType.BULK, TransferType.INTERRUPT, TransferType.ISOCHRONOUS


@dataclass(frozen=True, slots=True)
class Breach:
    """What is wrong, and what would be right."""

    wrong: str
    right: str


# --- what is judged ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DeviceAtSpeed:
    """The values of a device descriptor that depend on the speed. ``ep0_size`` is in bytes.

    ``needs_bos`` says that there are platform capabilities, which only a BOS can hold.
    """

    speed: Speed
    bcdUSB: int
    ep0_size: int
    needs_bos: bool = False


@dataclass(frozen=True, slots=True)
class ConfigAtSpeed:
    """A configuration at a speed, as far as rules look at it whole."""

    speed: Speed
    config: Config

    @property
    def endpoints(self) -> int:
        """The most endpoints besides ep0 that are live at once."""
        return sum(
            max((len(alternate.endpoints) for alternate in interface.alternates), default=0)
            for function in self.config.functions
            if isinstance(function, Function)
            for interface in function.interfaces
        )


@dataclass(frozen=True, slots=True)
class PlacedEndpoint:
    """An endpoint in an alternate setting."""

    endpoint: EndpointAtSpeed
    bAlternateSetting: int

    @property
    def speed(self) -> Speed:
        """The speed of the bus."""
        return self.endpoint.speed

    @property
    def kind(self) -> str:
        """Its transfer type, as words say it."""
        return self.endpoint.transfer_type.name.lower()


Subject = DeviceAtSpeed | ConfigAtSpeed | PlacedEndpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Something that USB forbids at ``speeds``, and where it says so.

    ``judge`` yields what is wrong with a device, a configuration or an endpoint; it is asked
    about every subject and says nothing of those that it is not about.
    """

    name: str
    speeds: tuple[Speed, ...]
    forbids: str
    section: str
    judge: Callable[[Subject], Iterator[Breach]]


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule that a description breaks at a speed: where, what is wrong, what would be right."""

    rule: Rule
    speed: Speed
    where: str
    wrong: str
    right: str

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        return (
            f"{place}{self.wrong} at {self.speed.word} speed: expected {self.right} "
            f"({self.rule.section})"
        )


# --- the rules ---------------------------------------------------------------------------------

_EP0_SIZES: Final[Mapping[Speed, tuple[int, ...]]] = {
    _LOW: (8,), _FULL: (8, 16, 32, 64), _HIGH: (64,), _SUPER: (512,),
}  # fmt: skip

_RELEASES: Final[Mapping[Speed, tuple[int, int]]] = {
    _LOW: (0x0100, 0x0210), _FULL: (0x0100, 0x0210), _HIGH: (0x0200, 0x0210),
    _SUPER: (0x0300, 0x0320),
}  # fmt: skip

_SIZES: Final[Mapping[tuple[TransferType, Speed], range | tuple[int, ...]]] = {
    (_BULK, _FULL): (8, 16, 32, 64),
    (_BULK, _HIGH): (512,),
    (_BULK, _SUPER): (1024,),
    (_INTERRUPT, _LOW): range(1, 9),
    (_INTERRUPT, _FULL): range(1, 65),
    (_INTERRUPT, _HIGH): range(1, 1025),
    (_INTERRUPT, _SUPER): range(1, 1025),
    (_ISO, _FULL): range(1024),
    (_ISO, _HIGH): range(1025),
    (_ISO, _SUPER): range(1025),
}

_SIZES_WITH_MULT: Final = {1: range(513, 1025), 2: range(683, 1025)}
"""USB 2.0 table 9-14: fewer bytes would have needed fewer packets."""

_INTERVALS: Final[Mapping[tuple[TransferType, Speed], range]] = {
    (_INTERRUPT, _LOW): range(10, 256),
    (_INTERRUPT, _FULL): range(1, 256),
    (_INTERRUPT, _HIGH): range(1, 17),
    (_INTERRUPT, _SUPER): range(1, 17),
    (_ISO, _FULL): range(1, 17),
    (_ISO, _HIGH): range(1, 17),
    (_ISO, _SUPER): range(1, 17),
}


def legal_packet_sizes(transfer_type: TransferType, speed: Speed) -> range | tuple[int, ...]:
    """Bytes that a wMaxPacketSize may have; none where there is no such endpoint at that speed."""
    return _SIZES.get((transfer_type, speed), ())


def _words(allowed: Iterable[int]) -> str:
    if isinstance(allowed, range):
        return f"{allowed[0]} to {allowed[-1]}"
    return " or ".join(str(value) for value in allowed)


def _ep0(subject: Subject) -> Iterator[Breach]:
    if isinstance(subject, DeviceAtSpeed) and subject.ep0_size not in _EP0_SIZES[subject.speed]:
        sizes = _words(_EP0_SIZES[subject.speed])
        yield Breach(f"bMaxPacketSize0 of {subject.ep0_size} bytes", sizes)


def _release(subject: Subject) -> Iterator[Breach]:
    if isinstance(subject, DeviceAtSpeed):
        first, last = _RELEASES[subject.speed]
        digits = f"{subject.bcdUSB:04x}"
        if not first <= subject.bcdUSB <= last or not digits.isdecimal():
            yield Breach(f"bcdUSB {subject.bcdUSB:#06x}", f"{first:#06x} to {last:#06x}")


def _without_bos(subject: Subject) -> Iterator[Breach]:
    if isinstance(subject, DeviceAtSpeed) and subject.needs_bos and subject.bcdUSB < HAS_BOS:
        wrong = f"bcdUSB {subject.bcdUSB:#06x} with Microsoft OS 2.0 descriptors or WebUSB"
        yield Breach(wrong, f"{HAS_BOS:#06x} or above, where hosts ask for a BOS")


def _power(subject: Subject) -> Iterator[Breach]:
    if isinstance(subject, ConfigAtSpeed) and subject.config.max_power_ma > 900:
        yield Breach(f"max_power_ma {subject.config.max_power_ma}", "at most 900 mA")


def _two_endpoints(subject: Subject) -> Iterator[Breach]:
    if isinstance(subject, ConfigAtSpeed) and subject.endpoints > 2:
        yield Breach(f"{subject.endpoints} endpoints besides endpoint 0", "at most 2")


def _no_such(transfer_type: TransferType) -> Callable[[Subject], Iterator[Breach]]:
    def judge(subject: Subject) -> Iterator[Breach]:
        if not isinstance(subject, PlacedEndpoint):
            return
        if subject.endpoint.transfer_type == transfer_type:
            kind = "a bulk endpoint" if transfer_type == _BULK else "an isochronous endpoint"
            yield Breach(kind, "interrupt, or full, high or super speed")

    return judge


def _sizes(transfer_type: TransferType) -> Callable[[Subject], Iterator[Breach]]:
    def judge(subject: Subject) -> Iterator[Breach]:
        if isinstance(subject, PlacedEndpoint):
            endpoint = subject.endpoint
            allowed = legal_packet_sizes(transfer_type, endpoint.speed)
            if endpoint.transfer_type == transfer_type and endpoint.size not in allowed:
                yield Breach(
                    f"{subject.kind} wMaxPacketSize of {endpoint.size} bytes", _words(allowed)
                )

    return judge


def _small_by_default(subject: Subject) -> Iterator[Breach]:
    if isinstance(subject, PlacedEndpoint) and not subject.bAlternateSetting:
        endpoint = subject.endpoint
        if endpoint.transfer_type == _INTERRUPT and endpoint.size > 64:
            wrong = f"interrupt wMaxPacketSize of {endpoint.size} bytes in alternate setting 0"
            yield Breach(wrong, "at most 64 there")


def _nothing_by_default(subject: Subject) -> Iterator[Breach]:
    if isinstance(subject, PlacedEndpoint) and not subject.bAlternateSetting:
        endpoint = subject.endpoint
        if endpoint.transfer_type == _ISO and endpoint.size:
            wrong = f"isochronous wMaxPacketSize of {endpoint.size} bytes in alternate setting 0"
            yield Breach(wrong, "0 there, and an alternate setting that has more")


def _interval(subject: Subject) -> Iterator[Breach]:
    if isinstance(subject, PlacedEndpoint):
        endpoint = subject.endpoint
        allowed = _INTERVALS.get((endpoint.transfer_type, endpoint.speed))
        if allowed is not None and endpoint.bInterval not in allowed:
            yield Breach(f"{subject.kind} bInterval {endpoint.bInterval}", _words(allowed))


def _mult_at_high_speed(subject: Subject) -> Iterator[Breach]:
    if not isinstance(subject, PlacedEndpoint) or not subject.endpoint.mult:
        return
    endpoint = subject.endpoint
    sizes = _SIZES_WITH_MULT.get(endpoint.mult)
    if not endpoint.periodic or sizes is None:
        right = "0 to 2" if endpoint.periodic else "0 (interrupt and isochronous endpoints have it)"
        yield Breach(f"{subject.kind} mult {endpoint.mult}", right)
    elif endpoint.size not in sizes:
        wrong = f"{subject.kind} wMaxPacketSize of {endpoint.size} bytes with mult {endpoint.mult}"
        yield Breach(wrong, _words(sizes))


def _bursts(subject: Subject) -> Iterator[Breach]:
    if not isinstance(subject, PlacedEndpoint):
        return
    endpoint = subject.endpoint
    if endpoint.max_burst > 15:
        yield Breach(f"{subject.kind} max_burst {endpoint.max_burst}", "0 to 15")
    if endpoint.max_burst and endpoint.periodic and endpoint.size != 1024:
        wrong = (
            f"{subject.kind} wMaxPacketSize of {endpoint.size} bytes with max_burst "
            f"{endpoint.max_burst}"
        )
        yield Breach(wrong, "1024")


def _mult_at_super_speed(subject: Subject) -> Iterator[Breach]:
    if not isinstance(subject, PlacedEndpoint) or not subject.endpoint.mult:
        return
    endpoint = subject.endpoint
    if endpoint.transfer_type != _ISO or endpoint.mult > 2:
        right = "0 to 2" if endpoint.transfer_type == _ISO else "0 (isochronous endpoints have it)"
        yield Breach(f"{subject.kind} mult {endpoint.mult}", right)
    elif not endpoint.max_burst:
        yield Breach(f"{subject.kind} mult {endpoint.mult} without max_burst", "mult 0")


def _rule(name: str, speeds: tuple[Speed, ...], section: str, forbids: str,
          judge: Callable[[Subject], Iterator[Breach]]) -> Rule:  # fmt: skip
    return Rule(name=name, speeds=speeds, section=section, forbids=forbids, judge=judge)


RULES: Final = (
    _rule("ep0-low", (_LOW,), "USB 2.0 5.5.3", "packets of endpoint 0 but of 8 bytes", _ep0),
    _rule("ep0-full", (_FULL,), "USB 2.0 5.5.3",
          "packets of endpoint 0 but of 8, 16, 32 or 64 bytes", _ep0),
    _rule("ep0-high", (_HIGH,), "USB 2.0 5.5.3", "packets of endpoint 0 but of 64 bytes", _ep0),
    _rule("ep0-super", (_SUPER,), "USB 3.2 9.6.1",
          "packets of endpoint 0 but of 512 bytes (bMaxPacketSize0 9)", _ep0),
    _rule("release-usb2", (_LOW, _FULL), "USB 2.0 9.6.1, USB 3.2 9.2.6.6",
          "a bcdUSB below 0x0100 or above 0x0210", _release),
    _rule("release-high", (_HIGH,), "USB 2.0 9.6.1, USB 3.2 9.2.6.6",
          "a bcdUSB below 0x0200 or above 0x0210", _release),
    _rule("release-super", (_SUPER,), "USB 3.2 9.6.1",
          "a bcdUSB below 0x0300 or above 0x0320", _release),
    _rule("release-bos", SPEEDS, "USB 2.0 ECN, Link Power Management",
          "platform capabilities with a bcdUSB below 0x0201", _without_bos),
    _rule("power", SPEEDS, "USB 3.2 9.2.5.1", "drawing more than 900 mA", _power),
    _rule("bulk-low", (_LOW,), "USB 2.0 5.8.3", "bulk endpoints", _no_such(_BULK)),
    _rule("iso-low", (_LOW,), "USB 2.0 5.6.3", "isochronous endpoints", _no_such(_ISO)),
    _rule("endpoints-low", (_LOW,), "USB 2.0 5.3.1.2",
          "more than two endpoints besides endpoint 0", _two_endpoints),
    _rule("bulk-size", (_FULL, _HIGH), "USB 2.0 5.8.3",
          "bulk packets but of 8, 16, 32 or 64 bytes at full, 512 at high speed", _sizes(_BULK)),
    _rule("bulk-size-super", (_SUPER,), "USB 3.2 9.6.6",
          "bulk packets but of 1024 bytes", _sizes(_BULK)),
    _rule("interrupt-size", (_LOW, _FULL, _HIGH), "USB 2.0 5.7.3",
          "interrupt packets above 8 bytes at low, 64 at full, 1024 at high speed",
          _sizes(_INTERRUPT)),
    _rule("interrupt-size-super", (_SUPER,), "USB 3.2 9.6.6",
          "interrupt packets above 1024 bytes", _sizes(_INTERRUPT)),
    _rule("interrupt-default", (_HIGH,), "USB 2.0 5.7.3",
          "interrupt packets above 64 bytes in alternate setting 0", _small_by_default),
    _rule("iso-size", (_FULL, _HIGH), "USB 2.0 5.6.3",
          "isochronous packets above 1023 bytes at full, 1024 at high speed", _sizes(_ISO)),
    _rule("iso-size-super", (_SUPER,), "USB 3.2 9.6.6",
          "isochronous packets above 1024 bytes", _sizes(_ISO)),
    _rule("iso-default", (_FULL, _HIGH, _SUPER), "USB 2.0 5.6.3",
          "isochronous data in alternate setting 0", _nothing_by_default),
    _rule("interval", (_LOW, _FULL, _HIGH), "USB 2.0 5.6.4, 5.7.4, 9.6.6",
          "an interrupt bInterval outside 10 to 255 at low, 1 to 255 at full, 1 to 16 at high "
          "speed, and an isochronous one outside 1 to 16", _interval),
    _rule("interval-super", (_SUPER,), "USB 3.2 9.6.6",
          "a bInterval of a periodic endpoint outside 1 to 16", _interval),
    _rule("mult-high", (_HIGH,), "USB 2.0 9.6.6",
          "more than three packets in a microframe, more than one where they need not be, and "
          "more than one of a bulk endpoint", _mult_at_high_speed),
    _rule("burst-super", (_SUPER,), "USB 3.2 9.6.6, 9.6.7",
          "bursts of more than 16 packets, and bursts of periodic packets below 1024 bytes",
          _bursts),
    _rule("mult-super", (_SUPER,), "USB 3.2 9.6.7",
          "more than three bursts in a service interval, and more than one but of an isochronous "
          "endpoint with a max_burst", _mult_at_super_speed),
)  # fmt: skip
"""Every rule. Where several are broken the first is named first."""


def violations(device: DeviceAtSpeed, configs: Iterable[Config]) -> Iterator[Violation]:
    """Each rule that a device with these configurations breaks at its speed, rule by rule."""
    subjects = list(_subjects(device, configs))
    for rule in RULES:
        if device.speed not in rule.speeds:
            continue
        for where, subject in subjects:
            for breach in rule.judge(subject):
                yield Violation(rule, device.speed, where, breach.wrong, breach.right)


def _subjects(device: DeviceAtSpeed, configs: Iterable[Config]) -> Iterator[tuple[str, Subject]]:
    """Whatever there is to be judged, with its place."""
    speed = device.speed
    yield "", device
    for number, config in enumerate(configs, start=1):
        yield f"configuration {number}", ConfigAtSpeed(speed, config)
        for function in config.functions:
            if isinstance(function, Function):
                for place, endpoint in _endpoints(function, speed):
                    yield f"function {function.name}: {place}", endpoint


def _endpoints(function: Function, speed: Speed) -> Iterator[tuple[str, PlacedEndpoint]]:
    for interface in function.interfaces:
        for number, alternate in enumerate(interface.alternates):
            for spec in alternate.endpoints:
                yield f"endpoint {spec.role}", PlacedEndpoint(EndpointAtSpeed(spec, speed), number)
