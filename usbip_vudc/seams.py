"""Seams: a plan at work at all three seams of a gadget that is carried to a host.

It puts the wrappers of `usbip_vudc.injection` and `usbip_vudc.proxy` where `carried` takes them,
keeps their traces, and says which rules a carrier has no seam for.

    seams = Seams(Plan.parse("mass_storage.in nth(3) stall"))
    with seams.carried(gadget, Carrier()) as way:
        way.device().read(0x81, 512)
    print(seams.trace())
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from usbip_vudc.carrier import Carried, Carrier, carried
from usbip_vudc.errors import SchemeError
from usbip_vudc.exportable import Exportable
from usbip_vudc.gadget import Gadget
from usbip_vudc.host.blocking import BlockingHost
from usbip_vudc.host.session import Connect
from usbip_vudc.injection import Injector, Plan, injected, injected_connect
from usbip_vudc.injection.transfer import SEAMS
from usbip_vudc.proxy.export import InjectedExport

__all__ = ("Seams", "out_of_reach")


def out_of_reach(plan: Plan, carrier: Carrier) -> str | None:
    """Which rule cannot act on this carrier, and why; None where all can."""
    for rule in plan.rules:
        if rule.where.seam == "host" and carrier.host != "pyusb":
            return f"rule '{rule}' needs a host of ours, and that of {carrier} is Linux itself"
        if rule.where.seam == "cable" and not carrier.over_usbip:
            return f"rule '{rule}' needs a USB/IP cable, and there is none on {carrier}"
    return None


class Seams:
    """The running state of one plan, for one gadget on one carrier.

    ``injector`` makes what decides at each seam. ``host`` is the one of ours that imported the
    device last, None before, and where it is Linux.
    """

    def __init__(self, plan: Plan, *, injector: Callable[[Plan, str], Injector] = Injector) -> None:
        self.plan = plan
        self.injectors = {seam: injector(plan, seam) for seam in SEAMS}
        self.host: BlockingHost | None = None
        at_host = self.injectors["host"]
        self._make_host: Connect = injected_connect(at_host) if at_host else BlockingHost

    @contextmanager
    def carried(self, gadget: Gadget, carrier: Carrier) -> Iterator[Carried]:
        """As `carrier.carried`, with the plan at work.

        Rules for functions that the gadget does not have do nothing. Raises SchemeError for a rule
        that is out of reach, and whatever `carrier.carried` raises.
        """
        why = out_of_reach(self.plan, carrier)
        if why is not None:
            raise SchemeError(why)
        with carried(
            injected(gadget, self.injectors["function"]),
            carrier,
            export=self._behind_cable if self.injectors["cable"] else None,
            connect=self._connect if carrier.host == "pyusb" else None,
        ) as way:
            yield way

    def trace(self, last: int | None = None) -> tuple[str, ...]:
        """What the plan has done so far: for each seam a heading and its newest ``last`` firings.

        How firings at different seams lie between one another is not in it: that is a race, and
        the same plan over the same traffic shall say the same.
        """
        lines: list[str] = []
        for seam, injector in self.injectors.items():
            if injector:
                fired = tuple(injector.trace)
                shown = fired if last is None else fired[len(fired) - min(last, len(fired)) :]
                more = f", the last {len(shown)}" if len(shown) < len(fired) else ""
                lines.append(f"{seam}: {len(fired)} firing(s){more}")
                lines.extend(f"  {line}" for line in shown)
        return tuple(lines)

    def fired(self) -> Counter[int]:
        """How often each rule has acted so far, by its number in the plan, from 1."""
        return Counter(
            int(line.partition(":")[0])
            for injector in self.injectors.values()
            for line in tuple(injector.trace)
        )

    def _behind_cable(self, exportable: Exportable) -> Exportable:
        return InjectedExport(exportable, self.injectors["cable"])

    def _connect(self, host: str, port: int, busid: str) -> BlockingHost:
        self.host = self._make_host(host, port, busid)
        return self.host
