"""The bench itself: a row or claim that fails does not take the next ones along."""

from __future__ import annotations

from typing import NoReturn

import pytest

from tests.udc_bench import UserspaceBench
from tests.udc_lifecycle import works
from usbip_vudc.usb.ch9 import Speed


def broken() -> NoReturn:
    raise OSError("no cable")


def test_a_bench_works_again_after_a_failure_that_could_not_be_mended() -> None:
    with UserspaceBench(Speed.HIGH) as bench:
        with (
            pytest.MonkeyPatch.context() as patch,
            pytest.raises(ZeroDivisionError),
            bench.ready(),
        ):
            patch.setattr(bench, "plug", broken)
            patch.setattr(bench, "remove", broken)
            bench.device.crashing = True
            raise ZeroDivisionError("the row")
        assert not bench.device.crashing
        with bench.ready():
            works(bench)


def test_a_bench_works_again_after_a_reset_that_failed() -> None:
    with UserspaceBench(Speed.HIGH) as bench:
        with bench.ready():
            works(bench)
        with (
            pytest.MonkeyPatch.context() as patch,
            pytest.raises(OSError, match="no cable"),
        ):
            patch.setattr(bench, "reset", broken)
            with bench.ready():
                pytest.fail("it was used, so it begins anew")
        with bench.ready():
            works(bench)
