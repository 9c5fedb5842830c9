"""Modem: a profile that answers AT commands (gadgets/serial/hayes.py) and calls an echo."""

from __future__ import annotations

import anyio

from gadgets.serial.hayes import Hayes, Reaction
from gadgets.serial.line import ControlLinesSet
from gadgets.serial.profile import LineOfPort, Port, Profile
from gadgets.serial.stream import Stream
from usbip_vudc.usb.cdc import SerialState

__all__ = ("Modem",)


class Modem(Profile):
    """A modem: DSR while it is there, DCD during a call; when DTR falls it hangs up.

    Every connection begins with one that was just switched on.
    """

    def __init__(self) -> None:
        self._stream = Stream()
        self._hayes = Hayes()
        self._line: LineOfPort | None = None
        self._on = False
        self._saying = anyio.Lock()  # it rings and it answers, and a stream has one writer

    @property
    def text(self) -> str:
        """``modem``."""
        return "modem"

    def connect(self, port: Port) -> None:
        """Switch it on."""
        self._hayes = Hayes()
        self._line = port.line
        self._on = True
        self._stream.connect(port)
        self._line.show({SerialState.DSR: True})

    def disconnect(self) -> None:
        """Switch it off."""
        self._on = False
        self._stream.disconnect()
        self._stream.discard()
        if self._line is not None:
            self._line.show({SerialState.DSR: False, SerialState.DCD: False})

    async def run(self) -> None:
        """Answer commands; send data back."""
        assert self._line is not None, "connect comes before run"
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch_dtr, self._line)
            while True:
                await self._react(self._line, await self._next())

    async def ring(self) -> None:
        """Let the phone ring once: RING, and the host is told of RI. Without a host nobody hears.

        Waits as `Stream.send` does where the host does not read.
        """
        if self._on and self._line is not None:
            self._line.show({SerialState.RING: True})
            await self._react(self._line, self._hayes.ring())

    async def _next(self) -> Reaction:
        due = self._hayes.escape_at
        wait = None if due is None else max(due - anyio.current_time(), 0)
        with anyio.move_on_after(wait):
            data = await self._stream.receive()
            return self._hayes.receive(data, anyio.current_time())
        return self._hayes.tick(anyio.current_time())

    async def _react(self, line: LineOfPort, reaction: Reaction) -> None:
        if reaction.carrier is not None:
            line.show({SerialState.DCD: reaction.carrier})
        async with self._saying:
            if reaction.reply and self._on:
                await self._stream.send(reaction.reply)

    async def _watch_dtr(self, line: LineOfPort) -> None:
        async for event in line.events():
            if isinstance(event, ControlLinesSet) and not event.dtr:
                reaction = self._hayes.hang_up()
                if reaction.carrier is not None:
                    line.show({SerialState.DCD: False})
