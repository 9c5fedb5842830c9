"""DroppedRunner without FunctionFS: its process, its end, and what is heard of it."""

from __future__ import annotations

import logging
import os
import pwd
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

try:
    from configfs import dropped
    from configfs.dropped import DroppedRunner
    from configfs.runner import FunctionCrashed
except OSError as error:  # python-functionfs' libaio loads the C library
    pytest.skip(f"{error}; on Debian: apt install libaio1", allow_module_level=True)

pytestmark = pytest.mark.anyio

ME = pwd.getpwuid(os.getuid())


@pytest.fixture(autouse=True)
def _as_we_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only root may drop root, and only a kernel with FunctionFS sees the difference."""
    monkeypatch.setattr(dropped, "_become", lambda _user: None)


@asynccontextmanager
async def running(name: str) -> AsyncIterator[DroppedRunner]:
    """A process with no functions."""
    runner = DroppedRunner(name, (), ME, on_leave=lambda _seconds: None)
    try:
        await runner.open()
        yield runner
    finally:
        await runner.close()


async def test_a_process_that_is_told_to_end_ends(caplog: pytest.LogCaptureFixture) -> None:
    async with running("g") as runner:
        pid = runner._pid
        os.kill(pid, signal.SIGTERM)  # as a service manager does: what ends it is its parent
        os.kill(pid, 0)
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, 0)
    assert caplog.record_tuples == []


async def test_a_later_sibling_does_not_keep_a_process_from_ending(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dropped, "_PATIENCE", 2.0)
    older = DroppedRunner("older", (), ME, on_leave=lambda _seconds: None)
    await older.open()
    async with running("younger"):
        await older.close()
        assert "does not end" not in caplog.text


async def test_who_killed_the_process_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with running("g") as runner:
        pid = runner._pid
        os.kill(pid, signal.SIGKILL)
        with anyio.fail_after(20), pytest.raises(FunctionCrashed, match="g: the process of the"):
            await runner.run()
    assert caplog.record_tuples == [
        ("configfs.dropped", logging.ERROR, f"g: process {pid} of the functions: Killed")
    ]
