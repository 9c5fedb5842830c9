"""Lives: what a run's end means to its controller."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping

import anyio
import pytest

from tests.devices import Scripted
from usbip_vudc.errors import EndpointDisabled, SoftDisconnect
from usbip_vudc.function import Endpoint
from usbip_vudc.lives import Lives

pytestmark = pytest.mark.anyio

Script = Callable[[Mapping[str, Endpoint]], Awaitable[None]]


async def heard(script: Script) -> list[float | str]:
    """What a controller hears of a run that is not ended from outside."""
    said: list[float | str] = []
    lives = Lives("udc", on_crash=lambda: said.append("crash"), on_leave=said.append)
    async with anyio.create_task_group() as tasks:
        lives.open(tasks)
        lives.begin(Scripted(script), {})
    return said


async def test_a_function_hears_of_each_selection_before_it_runs() -> None:
    heard: list[str] = []

    class Listener(Scripted):
        def selected(self) -> None:
            heard.append("selected")

    async def script(_endpoints: Mapping[str, Endpoint]) -> None:
        heard.append("runs")

    lives = Lives("udc", on_crash=lambda: None, on_leave=lambda _seconds: None)
    async with anyio.create_task_group() as tasks:
        lives.open(tasks)
        lives.begin(Listener(script), {})
        assert heard == ["selected"]
    assert heard == ["selected", "runs"]


def raising(error: BaseException) -> Script:
    async def script(_endpoints: Mapping[str, Endpoint]) -> None:
        raise error

    return script


async def test_a_soft_disconnect_is_no_crash(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        assert await heard(raising(SoftDisconnect())) == [0.0]
        assert await heard(raising(SoftDisconnect(2.5))) == [2.5]
    assert {record.levelno for record in caplog.records} == {logging.INFO}
    assert "function scripted leaves the bus for 2.5 s" in caplog.text


async def test_a_soft_disconnect_may_come_from_a_task_of_the_run() -> None:
    async def script(endpoints: Mapping[str, Endpoint]) -> None:
        async with anyio.create_task_group() as outer:
            outer.start_soon(anyio.sleep_forever)
            async with anyio.create_task_group() as inner:
                inner.start_soon(anyio.sleep_forever)
                await raising(SoftDisconnect(0.5))(endpoints)

    assert await heard(script) == [0.5]


async def test_the_longest_of_several_pauses_counts() -> None:
    pauses = [SoftDisconnect(1), SoftDisconnect(3), SoftDisconnect(2)]
    assert await heard(raising(ExceptionGroup("at once", pauses))) == [3]


@pytest.mark.parametrize("error", [ZeroDivisionError(), EndpointDisabled("by itself")], ids=repr)
async def test_whatever_else_is_raised_is_a_crash(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    assert await heard(raising(error)) == ["crash"]
    assert "function scripted crashed" in caplog.text


async def test_a_run_that_was_ended_leaves_no_bus() -> None:
    said: list[float | str] = []
    lives = Lives("udc", on_crash=lambda: said.append("crash"), on_leave=said.append)

    async def stubborn(_endpoints: Mapping[str, Endpoint]) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise SoftDisconnect

    function = Scripted(stubborn)
    async with anyio.create_task_group() as tasks:
        lives.open(tasks)
        lives.begin(function, {})
        await anyio.wait_all_tasks_blocked()
        lives.end(function)
    assert (function.ended, said) == (1, [])


async def test_a_host_that_is_quicker_than_the_function_starts_it_once_more_only() -> None:
    """A disk that is in fsync, say, while a host selects it again and again."""
    stuck = anyio.Event()
    ran: list[object] = []

    async def slow(endpoints: Mapping[str, Endpoint]) -> None:
        ran.append(endpoints)
        with anyio.CancelScope(shield=True):
            await stuck.wait()

    function = Scripted(slow)
    lives = Lives("udc", on_crash=lambda: None, on_leave=lambda _seconds: None)
    selections: list[dict[str, Endpoint]] = [{} for _ in range(100)]
    async with anyio.create_task_group() as tasks:
        lives.open(tasks)
        lives.begin(function, selections[0])
        await anyio.wait_all_tasks_blocked()
        before = len(anyio.get_running_tasks())
        for endpoints in selections[1:]:
            lives.end(function)
            lives.begin(function, endpoints)
        await anyio.wait_all_tasks_blocked()
        after = len(anyio.get_running_tasks())
        stuck.set()
    assert after == before
    assert [id(endpoints) for endpoints in ran] == [id(selections[0]), id(selections[-1])]
    assert lives.functions == (function,)


async def test_after_a_run_that_returned_the_next_selection_is_a_run_of_its_own() -> None:
    async def short(_endpoints: Mapping[str, Endpoint]) -> None:
        pass

    function = Scripted(short)
    lives = Lives("udc", on_crash=lambda: None, on_leave=lambda _seconds: None)
    async with anyio.create_task_group() as tasks:
        lives.open(tasks)
        for count in (1, 2, 3):
            lives.begin(function, {})
            await anyio.wait_all_tasks_blocked()
            assert function.lives == count
            lives.end(function)
