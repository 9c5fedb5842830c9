"""Judging a device: each test in turn, and a verdict on it.

It goes on after a failure, and stops where the device is lost.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from usbip_vudc.errors import UsbipVudcError
from usbip_vudc.kernel_log import KernelLog
from usbip_vudc.settle import wait_until
from usbip_vudc.sysfs import SYSFS, SysfsError
from usbip_vudc.usbtest.cases import CASES, Case
from usbip_vudc.usbtest.child import Ending, run_in_child
from usbip_vudc.usbtest.driver import UsbtestError, read_parameter
from usbip_vudc.usbtest.meaning import SOURCE, meaning, not_supported
from usbip_vudc.usbtest.parameters import QUICK, Overrides, Parameters, Run, runs_of
from usbip_vudc.usbtest.target import Target
from usbip_vudc.verdicts import FAIL, PASS, SKIP, Verdict

__all__ = ("Judge", "judge", "settled")

_NOTHING: Final = Parameters(1, 0, 0, 0)
_LOG_LINES: Final = 8
_GONE: Final = (errno.ENODEV, errno.ESHUTDOWN)
_LEAVING: Final = 1.0
"""Seconds: URBs are given back before the hub takes the device away."""


def judge(
    target: Target,
    cases: Sequence[Case] = CASES,
    *,
    profile: str = QUICK,
    overrides: Overrides | None = None,
    timeout: float = 60.0,
    replay: str | None = None,
    tell: Callable[[Verdict], None] = lambda _verdict: None,
    sysfs: Path = SYSFS,
) -> list[Verdict]:
    """Run the tests on a device that usbtest has, and judge each; ``timeout`` is for each.

    ``tell`` is called with every verdict as it comes. ``replay`` is the command line that brings
    one to this device. Raises UsbtestError where its node cannot be opened.
    """
    try:
        fd = os.open(target.node, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        advice = "; run as root" if error.errno in (errno.EACCES, errno.EPERM) else ""
        raise UsbtestError(f"{target.node}: {error.strerror}{advice}") from None
    overrides = overrides or Overrides()
    try:
        target = settled(target, fd, timeout, sysfs=sysfs)
        command = replay or f"usbip-vudc usbtest --device {target.busid}"
        with KernelLog(required=False) as log:
            judging = Judge(target, fd, timeout, command, log, sysfs=sysfs)
            verdicts: list[Verdict] = []
            for case in cases:
                for run in runs_of(case, target, profile, overrides):
                    verdicts.append(judging.verdict(run))
                    tell(verdicts[-1])
        return verdicts
    finally:
        os.close(fd)


def settled(target: Target, fd: int, timeout: float, *, sysfs: Path = SYSFS) -> Target:
    """The target in the setting that usbtest uses: it sets it before each test, 0 included."""
    run_in_child(fd, target.interface, 0, _NOTHING, timeout)
    path = sysfs / "bus/usb/devices" / target.busid
    for interface in path.glob(f"{target.busid}:*.{target.interface}"):
        with suppress(SysfsError):  # it may have gone meanwhile: then the tests will say so
            return Target.of(interface)
    return target


@dataclass(slots=True)
class Judge:
    """The state of a run: ``lost`` says why the device is no longer there."""

    target: Target
    fd: int
    timeout: float
    command: str
    log: KernelLog
    lost: str = ""
    sysfs: Path = field(kw_only=True, default=SYSFS)

    def verdict(self, run: Run) -> Verdict:
        """Run a test, unless the device is lost."""
        if self.lost:
            return self._made(run, SKIP, self.lost)
        self.log.mark()
        try:
            ending = run_in_child(
                self.fd, self.target.interface, run.case.number, run.parameters, self.timeout
            )
        except UsbipVudcError as error:
            return self._failed(run, str(error), 0.0)
        if ending.errno == 0:
            return self._made(run, PASS, _rate(run, ending.seconds), ending.seconds)
        if why := self._why_not(run, ending):
            return self._made(run, SKIP, why)
        return self._failed(run, self._why(run, ending), ending.seconds)

    def _why_not(self, run: Run, ending: Ending) -> str | None:
        if ending.errno is None:
            return None
        try:
            pattern = read_parameter("pattern", sysfs=self.sysfs)
        except SysfsError:
            pattern = 0
        return not_supported(ending.errno, run, self.target, pattern=pattern)

    def _why(self, run: Run, ending: Ending) -> str:
        if ending.hung:
            self.lost = f"not run: {run.name} hangs in the kernel, and has the device to itself"
            return (
                f"hung: it does not end after {self.timeout:g} s, nor when it is killed; while it "
                f"lasts, the hub that the device is at waits, too"
            )
        if ending.errno is None:
            return f"not done after {self.timeout:g} s (--timeout); it was killed"
        if ending.errno in _GONE and wait_until(self._is_gone, _LEAVING):
            self.lost = f"not run: the device went away in {run.name}"
        return meaning(ending.errno, run, self.target)

    def _is_gone(self) -> bool:
        return not Path(self.target.node).exists()

    def _failed(self, run: Run, why: str, seconds: float) -> Verdict:
        values = run.parameters
        again = (
            f"again: {self.command} --cases {run.case.number} --iterations {values.iterations} "
            f"--length {values.length} --vary {values.vary} --sglen {values.sglen}"
        )
        lines = [line for line in self.log.read() if f" {self.target.busid}:" in line]
        return self._made(
            run, FAIL, why, seconds, (again, *(f"dmesg: {line}" for line in lines[-_LOG_LINES:]))
        )

    def _made(
        self,
        run: Run,
        result: str,
        why: str,
        seconds: float = 0.0,
        diagnostics: tuple[str, ...] = (),
    ) -> Verdict:
        return Verdict(
            name=run.name,
            result=result,
            what=f"{run.case.what} ({run.parameters})",
            why=why,
            source=SOURCE if result == FAIL else "",
            seconds=seconds,
            diagnostics=diagnostics,
        )


def _rate(run: Run, seconds: float) -> str:
    """What a test of throughput is about."""
    if run.case.group != "throughput" or not seconds:
        return ""
    values = run.parameters
    rate = values.iterations * values.sglen * values.length / seconds
    return f"{rate / 1e6:.1f} MB/s" if rate >= 1e6 else f"{rate / 1e3:.1f} kB/s"
