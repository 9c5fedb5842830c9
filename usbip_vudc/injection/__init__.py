"""Awkwardness as a value: layouts, plans, and the wrappers that apply them at three seams.

    gadget = injected(gadget, Plan.parse("mass_storage.in nth(3) stall", seed=7))

The function's seam is a wrapper around its endpoints, the host's one around our hosts; the
cable's is `usbip_vudc.proxy`. Nothing else of this project knows of any of it.
"""

from __future__ import annotations

from usbip_vudc.injection.catalogue import CATALOGUE, ReadyMade
from usbip_vudc.injection.function import InjectedFunction, check_plan, injected
from usbip_vudc.injection.host import InjectedBlockingHost, InjectedHost, injected_connect
from usbip_vudc.injection.injector import Injector
from usbip_vudc.injection.layout import FAMILIES, Layout, Segment, Verdict
from usbip_vudc.injection.plan import Plan
from usbip_vudc.injection.rules import Rule, Where
from usbip_vudc.injection.sources import dump_plan, find_plan, load_plan, parse_plan
from usbip_vudc.injection.transfer import Transfer

__all__ = (
    "CATALOGUE",
    "FAMILIES",
    "InjectedBlockingHost",
    "InjectedFunction",
    "InjectedHost",
    "Injector",
    "Layout",
    "Plan",
    "ReadyMade",
    "Rule",
    "Segment",
    "Transfer",
    "Verdict",
    "Where",
    "check_plan",
    "dump_plan",
    "find_plan",
    "injected",
    "injected_connect",
    "load_plan",
    "parse_plan",
)
