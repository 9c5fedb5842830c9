"""Other packet sizes in a function's descriptors, legal or deliberately not. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from usbip_vudc.errors import SchemeError
from usbip_vudc.function import AltSetting, EndpointSpec, InterfaceSpec
from usbip_vudc.gadget import legal_packet_sizes
from usbip_vudc.injection.actions import PacketSize
from usbip_vudc.injection.rules import Rule
from usbip_vudc.usb.ch9 import Speed

__all__ = ("resized",)


def resized(interfaces: Sequence[InterfaceSpec], rules: Iterable[Rule]) -> Sequence[InterfaceSpec]:
    """The interfaces with the packet sizes of these rules.

    Raises SchemeError for a size that USB does not allow and the rule does not call illegal.
    """
    wanted = [rule for rule in rules if isinstance(rule.action, PacketSize)]
    if not wanted:
        return interfaces
    return tuple(
        replace(
            spec, alternates=tuple(_resized(alternate, wanted) for alternate in spec.alternates)
        )
        for spec in interfaces
    )


def _resized(alternate: AltSetting, rules: Sequence[Rule]) -> AltSetting:
    endpoints = tuple(_resized_endpoint(endpoint, rules) for endpoint in alternate.endpoints)
    return replace(alternate, endpoints=endpoints)


def _resized_endpoint(endpoint: EndpointSpec, rules: Sequence[Rule]) -> EndpointSpec:
    sizes = dict(endpoint.max_packet_size)
    for rule in rules:
        where, action = rule.where, rule.action
        if where.role in ("", endpoint.role) and where.direction in (None, endpoint.direction):
            assert isinstance(action, PacketSize)
            for speed, size in action.sizes:
                _check(endpoint, speed, size, rule, illegal=action.illegal)
                sizes[speed] = size
    return replace(endpoint, max_packet_size=sizes)


def _check(endpoint: EndpointSpec, speed: Speed, size: int, rule: Rule, *, illegal: bool) -> None:
    legal = legal_packet_sizes(endpoint.transfer_type, speed)
    if size in legal or illegal:
        return
    kind = endpoint.transfer_type.name.lower()
    if not legal:
        right = f"{kind} endpoints do not exist at {speed.word} speed"
    elif isinstance(legal, range):
        right = f"expected {legal[0]} to {legal[-1]}"
    else:
        right = f"expected {' or '.join(map(str, legal))}"
    raise SchemeError(
        f"rule '{rule}': wMaxPacketSize {size} of {kind} endpoint {endpoint.role} at {speed.word} "
        f"speed: {right} (USB 2.0 5.7.3, 5.8.3); write packet_size(..., illegal) to mean it"
    )
