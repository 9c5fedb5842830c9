"""Linux's own USB test suite: the driver usbtest, run by its ioctls, with a verdict on each test.

No C program is needed. The tests themselves are the kernel's, and so are their rules.
"""

from usbip_vudc.usbtest.bringing import GADGETS, brought, on_carrier
from usbip_vudc.usbtest.cases import CASES, GROUPS, Case, parse_cases
from usbip_vudc.usbtest.driver import UsbtestError, bound, load_driver, parameter
from usbip_vudc.usbtest.judging import judge
from usbip_vudc.usbtest.parameters import PROFILES, QUICK, Overrides, Parameters, Run, runs_of
from usbip_vudc.usbtest.target import Target

__all__ = (
    "CASES",
    "GADGETS",
    "GROUPS",
    "PROFILES",
    "QUICK",
    "Case",
    "Overrides",
    "Parameters",
    "Run",
    "Target",
    "UsbtestError",
    "bound",
    "brought",
    "judge",
    "load_driver",
    "on_carrier",
    "parameter",
    "parse_cases",
    "runs_of",
)
