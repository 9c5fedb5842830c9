"""What each hostile rule comes to: at the host, at the function, and how the device is had again.

``ROWS`` is the table and `play` does a row on the userspace UDC. ``python -m tests.hostile`` prints
the tables of docs/injection.md, which are made of this and of the language itself;
``python -m tests.hostile docs/injection.md`` puts them in their places there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, NamedTuple

from tests import pages
from tests.hostile_scene import LENGTH, DiskScene, Talk, TalkScene
from tests.pages import table
from usbip_vudc.injection import CATALOGUE, FAMILIES, Plan
from usbip_vudc.injection.actions import ACTIONS, Action, PacketSize
from usbip_vudc.injection.conditions import CONDITIONS
from usbip_vudc.injection.transfer import SEAMS

NOTHING: Final = "no error"

# --- the rows ----------------------------------------------------------------------------------


class Do(NamedTuple):
    """Something the host does, in English and in code."""

    text: str
    scene: type[TalkScene | DiskScene]
    role: str
    call: Callable[..., str]


READ = Do("read", TalkScene, "in", TalkScene.read)
READ_EXACT = Do("read 600", TalkScene, "in", lambda s: s.read(LENGTH))
READ_SHORTLY = Do("read, 0.1 s", TalkScene, "in", lambda s: s.read(timeout=0.1))
TWO_READS = Do("two reads", TalkScene, "in", TalkScene.two_reads)
WRITE = Do("write", TalkScene, "out", TalkScene.write)
WRITE_SHORTLY = Do("write, 0.1 s", TalkScene, "out", lambda s: s.write(timeout=0.1))
ASK = Do("control IN", TalkScene, "", TalkScene.control)
TELL = Do("control OUT", TalkScene, "", lambda s: s.control(out=True))
DISK_READ = Do("READ(10)", DiskScene, "", DiskScene.read)
DISK_WRITE = Do("WRITE(10)", DiskScene, "", DiskScene.write)
INQUIRY = Do("INQUIRY", DiskScene, "", DiskScene.inquiry)


class Way(NamedTuple):
    """A way back, in English and in code."""

    text: str
    call: Callable[..., object]


BY_ITSELF = Way("by itself", lambda _scene: None)
CLEAR = Way("clear the halt", TalkScene.clear_halt)
READ_ON = Way("read what is left", lambda s: s.read())
WAIT = Way("ask again later", lambda s: s.read())
AGAIN = Way("import it again", lambda s: s.again())
DONE = Way("the host has done reset recovery", lambda s: s.disk.wait_ready())
RECOVER = Way("reset recovery", DiskScene.reset_recovery)


@dataclass(frozen=True, slots=True)
class Row:
    """A rule, what the host does, what it and the function get, and the way back."""

    rule: str
    does: Do
    host: str
    function: str
    back: Way = BY_ITSELF

    @property
    def seam(self) -> str:
        return Plan.parse(self.rule).rules[0].where.seam


ROWS: Final = (
    # --- function ---
    Row("talk.in nth(1) layout([100][500])", READ, "first 100 bytes", "all", READ_ON),
    Row("talk.out nth(1) layout([100][924])", WRITE, "100 bytes", "Overflow, first 100 bytes"),
    Row("talk.in nth(1) layout([][600])", READ, "0 bytes", "all", READ_ON),
    Row("talk packet_size(high=64, illegal)", READ, "all", "all"),
    Row("talk.in nth(1) short(100)", READ, "first 100 bytes", "100 bytes"),
    Row("talk.in nth(1) short(0)", READ, "0 bytes", "0 bytes"),
    Row("talk.out nth(1) short(100)", WRITE, "100 bytes", "Overflow, first 100 bytes"),
    Row("talk.in nth(1) zlp", READ, "0 bytes", "all", READ_ON),
    Row("talk.in nth(1) babble(7)", READ, "all and 7 bytes", "all"),
    Row("talk.in nth(1) babble(7)", READ_EXACT, "-EOVERFLOW", "all"),
    Row("talk.in nth(1) stall", READ, "-EPIPE", "all", CLEAR),
    Row("talk.out nth(1) stall", WRITE, "-EPIPE", "all of number 2", CLEAR),
    Row("talk.in nth(1) nak(20ms)", READ, "all", "all"),
    Row("talk.in nth(1) nak(0.3s)", READ_SHORTLY, "-ETIMEDOUT", "all", WAIT),
    Row("talk.out nth(1) nak(0.3s)", WRITE_SHORTLY, "-ETIMEDOUT", "all of number 2"),
    Row("talk.in nth(1) delay(20ms)", READ, "all", "all"),
    Row("talk.out nth(1) delay(20ms)", WRITE, "all", "all"),
    Row("talk.in nth(1) corrupt(5)", READ, "600 changed bytes", "all"),
    Row("talk.out nth(1) corrupt(5)", WRITE, "all", "600 changed bytes"),
    Row("talk.in nth(1) drop", READ, "all of number 2", "all"),
    Row("talk.out nth(1) drop", WRITE, "all", "all of number 2"),
    Row("talk.in nth(1) disconnect(0.1s)", READ, "-ENODEV", "EndpointDisabled", AGAIN),
    Row("talk.out nth(1) disconnect(0.1s)", WRITE, "-ENODEV", "EndpointDisabled", AGAIN),
    Row("talk control(0x5c) times(1) stall", ASK, "-EPIPE", NOTHING),
    Row("talk control(0x5c) times(1) short(2)", ASK, "first 2 bytes", NOTHING),
    Row("talk control(0x5c) times(1) corrupt(0, 0x01)", ASK, "4 changed bytes", NOTHING),
    Row("talk control(0x5c) times(1) drop", ASK, "0 bytes", NOTHING),
    Row("talk control(0x5b) times(1) stall", TELL, "-EPIPE", NOTHING),
    Row("talk control(0x5b) times(1) drop", TELL, "all", NOTHING),
    Row("mass_storage.in cbw(0x28) times(1) csw(tag=1)", DISK_READ, "TransportError", NOTHING,
        DONE),
    Row("mass_storage.in cbw(0x28) times(1) csw(residue=512)", DISK_READ, "StorageError", NOTHING),
    Row("mass_storage.in cbw(0x28) times(1) csw(residue=8192)", DISK_READ, "TransportError",
        NOTHING, DONE),
    Row("mass_storage.in cbw(0x28) times(1) csw(status=1)", DISK_READ, "CheckCondition", NOTHING),
    Row("mass_storage.in cbw(0x28) times(1) csw(status=2)", DISK_READ, "PhaseError", NOTHING,
        DONE),
    Row("mass_storage.in cbw(0x28) times(1) csw(signature=0x55425355)", DISK_READ,
        "TransportError", NOTHING, DONE),
    Row("mass_storage.in cbw(0x28) times(1) csw(length=12)", DISK_READ, "TransportError", NOTHING,
        DONE),
    Row("mass_storage.in cbw(0x28) times(1) csw(length=14)", DISK_READ, "-EOVERFLOW", NOTHING,
        RECOVER),
    Row("mass_storage.in cbw(0x28) times(1) csw(split=5)", DISK_READ, "TransportError", NOTHING,
        DONE),
    Row("mass_storage.in cbw(0x12) times(1) csw(merged)", INQUIRY, "-EOVERFLOW", NOTHING,
        RECOVER),
    Row("mass_storage.in phase(status) cbw(0x28) times(1) stall", DISK_READ, "all", NOTHING),
    Row("mass_storage.in phase(status) cbw(0x28) times(1) zlp", DISK_READ, "all", NOTHING),
    Row("mass_storage.in phase(data) cbw(0x28) times(1) stall", DISK_READ, "-EOVERFLOW",
        NOTHING, RECOVER),
    Row("mass_storage.in phase(data) cbw(0x28) times(1) corrupt(100)", DISK_READ,
        "4096 changed bytes", NOTHING),
    Row("mass_storage.out phase(data) cbw(0x2a) times(1) corrupt(100)", DISK_WRITE,
        "4096 changed bytes", NOTHING),
    # --- host ---
    Row("host.in nth(1) layout(each:100)", READ, "-EOVERFLOW", "100 bytes"),
    Row("host.out nth(1) layout([100][500])", WRITE, "all", "first 100 bytes"),
    Row("host.in nth(1) short(100)", READ, "-EOVERFLOW", "100 bytes"),
    Row("host.out nth(1) short(100)", WRITE, "100 bytes", "first 100 bytes"),
    Row("host.out nth(1) zlp", WRITE, "all", "0 bytes"),
    Row("host.in nth(1) stall", READ, "-EPIPE", "all", CLEAR),
    Row("host.out nth(1) stall", WRITE, "-EPIPE", "all of number 2", CLEAR),
    Row("host.in nth(1) nak(20ms)", READ, "all", "all"),
    Row("host.in nth(1) delay(20ms)", READ, "all", "all"),
    Row("host.in nth(1) corrupt(5)", READ, "600 changed bytes", "all"),
    Row("host.out nth(1) corrupt(5)", WRITE, "all", "600 changed bytes"),
    Row("host.in nth(1) disconnect", READ, "-ENODEV", "EndpointDisabled", AGAIN),
    Row("host.in nth(1) bus_reset", READ, "all of number 2", "EndpointDisabled"),
    Row("host.out nth(1) unlink(10ms); talk.out nth(1) nak(0.1s)", WRITE, "-ECONNRESET",
        "all of number 2"),
    # --- cable ---
    Row("cable.in nth(1) layout(each:100)", READ_EXACT, "-EOVERFLOW", "100 bytes"),
    Row("cable.out nth(1) layout([100][500])", WRITE, "all", "first 100 bytes"),
    Row("cable.in nth(1) short(100)", READ, "first 100 bytes", "all"),
    Row("cable.out nth(1) short(100)", WRITE, "100 bytes", "first 100 bytes"),
    Row("cable.in nth(1) babble(7)", READ, "-EOVERFLOW", "all"),
    Row("cable.in nth(1) stall", READ, "-EPIPE", "all"),
    Row("cable.out nth(1) stall", WRITE, "-EPIPE", "all of number 2"),
    Row("cable.in nth(1) delay(20ms)", READ, "all", "all"),
    Row("cable.in nth(1) corrupt(5)", READ, "600 changed bytes", "all"),
    Row("cable.out nth(1) corrupt(5)", WRITE, "all", "600 changed bytes"),
    Row("cable.in nth(1) drop", READ_SHORTLY, "-ETIMEDOUT", "all"),
    Row("cable.out nth(1) drop", WRITE_SHORTLY, "-ETIMEDOUT", "all of number 2"),
    Row("cable.in nth(1) disconnect(0.1s)", READ, "-ENODEV", "EndpointDisabled", AGAIN),
    Row("cable.in nth(1) bus_reset", READ, "-EPROTO", "EndpointDisabled", AGAIN),
    Row("cable.out nth(1) unlink(10ms); talk.out nth(1) nak(0.1s)", WRITE, "-ECONNRESET",
        "all of number 2"),
    Row("cable.in nth(1) reorder(1)", TWO_READS, "2 then 1", "all"),
    Row("cable.in nth(1) actual(100)", READ, "first 100 bytes", "all"),
    Row("cable.in nth(1) actual(2000)", READ, "RemoteProtocolError", "all", AGAIN),
    Row("cable.out nth(1) actual(100)", WRITE, "100 bytes", "all"),
    Row("cable.in nth(1) status(-71)", READ, "-EPROTO", "all"),
    Row("cable.in nth(1) tcp_cut(1, 47, 100)", READ, "all", "all"),
    Row("cable.in nth(1) tcp_stall(20ms)", READ, "all", "all"),
    Row("cable.in nth(1) tcp_reset", READ, "-ENODEV", "all", AGAIN),
)  # fmt: skip


@contextmanager
def scene(row: Row) -> Iterator[TalkScene | DiskScene]:
    """The scene of a row."""
    kind = row.does.scene
    made = TalkScene(row.rule, Talk()) if kind is TalkScene else DiskScene(row.rule)
    with made:
        yield made


def play(row: Row) -> tuple[str, str]:
    """What host and function get, once the way back has been gone and all works again."""
    with scene(row) as on:
        host = row.does.call(on)
        row.back.call(on)
        on.works()
        if isinstance(on, TalkScene) and row.does.role:
            return host, on.function.first(row.does.role)
        return host, NOTHING


# --- the tables of docs/injection.md ------------------------------------------------------------


def _said(kind: type) -> str:
    """The first sentence of its docstring."""
    text = " ".join((kind.__doc__ or "").split())
    return text.partition(". ")[0].rstrip(".")


def _places(action: type[Action]) -> str:
    if action is PacketSize:
        return "function"
    ways: dict[str, list[str]] = {}
    for place in action.moments:
        seam, _, way = place.partition(".")
        ways.setdefault(seam, []).append(way.upper())
    return ", ".join(
        seam if len(ways[seam]) == 2 else f"{seam} {ways[seam][0]}"
        for seam in SEAMS
        if seam in ways
    )


def tables() -> Mapping[str, str]:
    """Each generated part of the page by its name."""
    return {
        "conditions": table(
            ("when", "the rule acts on"),
            ((f"`{kind.usage}`", _said(kind)) for kind in CONDITIONS.values()),
        ),
        "actions": table(
            ("what", "it does", "at"),
            ((f"`{kind.usage}`", _said(kind), _places(kind)) for kind in ACTIONS.values()),
        ),
        "layouts": table(
            ("family", "a transfer becomes"),
            ((f"`{name}`", said.rstrip(".")) for name, said in FAMILIES.items()),
        ),
        "plans": table(
            ("name", "rules", "the bug", "read of it"),
            (
                (name, f"`{plan.rules}`", plan.bug, plan.reference)
                for name, plan in CATALOGUE.items()
            ),
        ),
        **{
            f"outcomes at the {seam}": table(
                ("rule", "the host does", "the host gets", "the function gets", "to go on"),
                (
                    (f"`{r.rule}`", r.does.text, r.host, r.function, r.back.text)
                    for r in ROWS
                    if r.seam == seam
                ),
            )
            for seam in SEAMS
        },
    }


def filled(page: str) -> str:
    """The page with every generated part as it is now."""
    return pages.filled(page, tables())


if __name__ == "__main__":
    pages.print_or_fill(tables(), sys.argv[1:])
