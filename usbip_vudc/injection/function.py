"""The function's seam: a Function whose endpoints go through an Injector. On every UDC alike.

`injected` wraps the functions of a gadget that a plan speaks of. The UDC and the function know
nothing of it, and a gadget without such rules is returned as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import anyio

from usbip_vudc.errors import SchemeError, SoftDisconnect
from usbip_vudc.function import ControlRequest, Endpoint, EndpointSpec, Function, InterfaceSpec
from usbip_vudc.gadget import Config, Gadget, KernelFunction
from usbip_vudc.injection.actions import (
    AFTER,
    BEFORE,
    Action,
    Corrupt,
    Disconnect,
    Drop,
    PacketSize,
    Short,
    Stall,
)
from usbip_vudc.injection.endpoint import InjectedEndpoint, Run
from usbip_vudc.injection.injector import Injector
from usbip_vudc.injection.packet_sizes import resized
from usbip_vudc.injection.plan import Plan
from usbip_vudc.injection.rules import Rule
from usbip_vudc.injection.transfer import Transfer
from usbip_vudc.sglist import Buffer
from usbip_vudc.usb.ch9 import Direction, SetupPacket, TransferType

__all__ = ("InjectedFunction", "check_plan", "injected")


def injected(gadget: Gadget, plan: Plan | Injector) -> Gadget:
    """The gadget with the plan's function rules at work; the same object where there are none.

    Pass an Injector to read its trace. Rules for functions that the gadget does not have do
    nothing: `check_plan` finds them. Raises SchemeError for a packet size that is illegal unasked.
    """
    injector = plan if isinstance(plan, Injector) else Injector(plan, "function")
    rules = _function_rules(injector.plan)
    if not rules:
        return gadget
    configs = tuple(_wrapped(config, rules, injector) for config in gadget.configs)
    illegal = any(isinstance(r.action, PacketSize) and r.action.illegal for r in rules)
    return replace(
        gadget, configs=configs, deliberately_illegal=gadget.deliberately_illegal or illegal
    )


def check_plan(plan: Plan, *gadgets: Gadget) -> None:
    """Raises SchemeError for a rule about a function or a role that none of the gadgets has."""
    functions = [f for g in gadgets for config in g.configs for f in config.functions]
    ours = [f for f in functions if isinstance(f, Function)]
    for rule in _function_rules(plan):
        where = rule.where
        meant = [f for f in ours if where.function in ("", f.name)]
        if not meant:
            named = f"function {where.function}" if where.function else "a function of ours"
            kernel = any(
                isinstance(f, KernelFunction) and f.driver == where.function for f in functions
            )
            why = "is the kernel's own, out of a plan's reach" if kernel else "is not there"
            there = ", ".join(dict.fromkeys(f.name for f in ours)) or "none"
            raise SchemeError(f"rule '{rule}': {named} {why}; functions that are: {there}")
        _check_role(rule, meant)


def _check_role(rule: Rule, functions: Sequence[Function]) -> None:
    role = rule.where.role
    kinds = {e.role: e.transfer_type for f in functions for e in _endpoints(f)}
    if not role:
        return
    if role not in kinds:
        names = ", ".join(dict.fromkeys(f.name for f in functions))
        raise SchemeError(
            f"rule '{rule}': {names} has no endpoint {role!r}; there are {', '.join(sorted(kinds))}"
        )
    if kinds[role] == TransferType.ISOCHRONOUS and not rule.action.on_iso("function"):
        raise SchemeError(
            f"rule '{rule}': endpoint {role!r} is isochronous, where there is no "
            f"{rule.action.name}: nothing is acknowledged there (USB 2.0 5.6.5)"
        )


def _function_rules(plan: Plan) -> list[Rule]:
    return [rule for rule in plan.rules if rule.where.seam == "function"]


def _wrapped(config: Config, rules: Sequence[Rule], injector: Injector) -> Config:
    functions: list[Function | KernelFunction] = []
    for function in config.functions:
        own = [rule for rule in rules if rule.where.function in ("", function.name)]
        if own and isinstance(function, Function):
            functions.append(InjectedFunction(function, injector, own))
        else:
            functions.append(function)
    return replace(config, functions=tuple(functions))


def _endpoints(function: Function) -> list[EndpointSpec]:
    return [
        endpoint
        for spec in function.interfaces
        for alternate in spec.alternates
        for endpoint in alternate.endpoints
    ]


class InjectedFunction(Function):
    """A function that sees its endpoints through a plan. ``inner`` is the function itself."""

    def __init__(self, inner: Function, injector: Injector, rules: Sequence[Rule]) -> None:
        self.name = inner.name  # type: ignore[misc]  # of this object, not of all wrapped ones
        self.device_requests = inner.device_requests  # type: ignore[misc]
        self.inner = inner
        self._injector = injector
        self.interfaces: Sequence[InterfaceSpec] = resized(inner.interfaces, rules)
        plain = inner.plain_interfaces
        self.plain_interfaces = None if plain is None else resized(plain, rules)
        self._run: Run | None = None

    def selected(self) -> None:
        """Tell the function."""
        self.inner.selected()

    async def run(self, endpoints: Mapping[str, Endpoint]) -> None:
        """Run the function on wrapped endpoints. Raises SoftDisconnect where the plan says so."""
        async with anyio.create_task_group() as tasks:
            self._injector.begins(self.name)
            own = self._run = Run(self.name, self._injector, tasks)
            wrapped = {role: InjectedEndpoint(own, inner) for role, inner in endpoints.items()}
            tasks.start_soon(self._watch, own)
            try:
                await self.inner.run(wrapped)
                await anyio.sleep_forever()  # as it is: its endpoints answer NAK
            finally:
                self._run = None
                for endpoint in wrapped.values():
                    endpoint.close()

    @staticmethod
    async def _watch(own: Run) -> None:
        await own.disconnected.wait()
        raise SoftDisconnect(own.away)

    def refuses(self, setup: SetupPacket) -> bool:
        """As the function itself."""
        return self.inner.refuses(setup)

    def setup(self, request: ControlRequest) -> Buffer | None:
        """Answer through the plan; what is not answered stalls."""
        setup = request.setup
        transfer = Transfer(
            seam="function",
            function=self.name,
            address=0,
            direction=setup.direction,
            length=setup.wLength,
            data=request.data,
            setup=setup,
        )
        actions = self._injector.actions(transfer, BEFORE)
        if setup.direction == Direction.OUT:
            actions += self._injector.actions(transfer, AFTER)
            request = replace(request, data=bytes(_changed(request.data, actions)))
        self._injector.finished(transfer, setup.wLength)
        for action in actions:
            if isinstance(action, Stall):
                return None
            if isinstance(action, Disconnect):
                self._leave(action)
                return None
            if isinstance(action, Drop):
                return b""
        answer = self.inner.setup(request)
        if answer is None or setup.direction == Direction.OUT:
            return answer
        return _changed(answer, actions)

    def _leave(self, action: Disconnect) -> None:
        if self._run is not None:
            self._run.disconnect(action.seconds)


def _changed(data: Buffer, actions: Sequence[Action]) -> Buffer:
    """The bytes as `Corrupt` and `Short` leave them; the same object where they do nothing."""
    for action in actions:
        if isinstance(action, Corrupt) and action.offset < len(data):
            changed = bytearray(data)
            changed[action.offset] ^= action.xor
            data = changed
        elif isinstance(action, Short):
            data = memoryview(data)[: action.length]
    return data
