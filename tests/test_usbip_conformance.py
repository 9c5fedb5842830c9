"""The tester of USB/IP servers: right servers pass every rule, and each rule is failed by one."""

# ruff: noqa: ARG002 - each wrong server overrides a method whose arguments it does not care for

from __future__ import annotations

import contextlib
import errno
import json
import logging
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.conformance_page import filled
from tests.little_server import (
    BUSID,
    DESCRIPTORS,
    EXPORTED,
    HangUp,
    Little,
    Session,
)
from usbip_vudc.cli import main
from usbip_vudc.conformance.known import KNOWN
from usbip_vudc.conformance.rule import Rule
from usbip_vudc.conformance.rules import RULES, choose
from usbip_vudc.conformance.running import examine
from usbip_vudc.conformance.subject import Subject
from usbip_vudc.errors import SchemeError
from usbip_vudc.registry import GadgetOptions, load_gadget
from usbip_vudc.serving import serving
from usbip_vudc.urb import URB_DMA_MAP_SG, IsoPacket
from usbip_vudc.usb.ch9 import DescriptorType, Speed
from usbip_vudc.verdicts import FAIL, PASS, SKIP, Verdict
from usbip_vudc.wire.pdu import (
    CmdSubmit,
    CmdUnlink,
    OpHeader,
    OpRepDevlist,
    OpStatus,
    RetSubmit,
    UsbInterface,
)

HOST = "127.0.0.1"
QUICK = 0.25
"""Seconds: so long a silent server is waited for, here where both ends are in one process."""

ISO = {rule.name for rule in RULES if rule.name.startswith("iso-")}
WRONG: dict[str, type[Little]] = {}


def wrong(rule: str) -> Callable[[type[Little]], type[Little]]:
    """Say which rule a server breaks."""

    def note(server: type[Little]) -> type[Little]:
        assert rule not in WRONG
        WRONG[rule] = server
        return server

    return note


def verdicts_of(server: Little, *names: str, timeout: float = QUICK) -> list[Verdict]:
    return list(examine(Subject(HOST, server.port, BUSID, timeout=timeout), choose(names)))


# --- operations ---------------------------------------------------------------------------------


@wrong("devlist")
class OneByteMore(Little):
    def devlist(self) -> bytes:
        return super().devlist() + b"\0"


@wrong("devlist-busid")
class ListsAnother(Little):
    def devlist(self) -> bytes:
        return OpRepDevlist(((replace(EXPORTED, busid="3-1"), (UsbInterface(0, 0, 0),)),)).pack()


@wrong("import")
class GivesAnother(Little):
    def granted(self) -> bytes:
        return OpHeader(0x0003).pack() + replace(EXPORTED, busid="3-1").pack()


@wrong("import-unknown")
class RefusesWithADevice(Little):
    def refuse(self, session: Session, status: OpStatus) -> None:
        super().refuse(session, status)
        session.send(bytes(312))


@wrong("import-near")
class ComparesPrefixes(Little):
    def is_ours(self, busid: bytes) -> bool:
        return BUSID.encode().startswith(busid.rstrip(b"\0"))


@wrong("import-unterminated")
class ComparesOnlySoFar(Little):
    def is_ours(self, busid: bytes) -> bool:
        return busid.startswith(BUSID.encode())


@wrong("import-busy")
class GivesItTwice(Little):
    def take(self) -> bool:
        return True

    def give_back(self, session: Session, *, clean: bool) -> None:
        """Nobody counts."""


@wrong("import-split")
class ReceivesOnce(Little):
    def operation(self, session: Session) -> None:
        request = session.sock.recv(40)
        if len(request) == 8:
            session.send(self.devlist())
        elif len(request) == 40:
            self.on_import(session, request[8:])


@wrong("version")
class AnyVersion(Little):
    def knows(self, version: int) -> bool:
        return True


@wrong("unknown-operation")
class ListsWhateverIsAsked(Little):
    def unknown_operation(self, session: Session) -> None:
        session.send(self.devlist())


@wrong("submit-before-import")
class Agrees(Little):
    def knows(self, version: int) -> bool:
        return version in (0, 0x0111)

    def unknown_operation(self, session: Session) -> None:
        session.send(OpHeader(0x0003).pack())


@wrong("half-operation")
class DiesOfHalves(Little):
    def operation(self, session: Session) -> None:
        if len(session.sock.recv(8, socket.MSG_PEEK)) < 8:
            self.die()
        super().operation(session)


@wrong("silent-connection")
class OneAtATime(Little):
    def welcome(self, sock: socket.socket) -> None:
        self.greet(sock)


@wrong("many-connections")
class EightAtMost(Little):
    def welcome(self, sock: socket.socket) -> None:
        if len(self.open) > 8:
            self.open.discard(sock)
            sock.close()
        else:
            super().welcome(sock)


# --- URBs ---------------------------------------------------------------------------------------


@wrong("descriptor")
class NumbersRepliesItself(Little):
    def sent(self, cmd: CmdSubmit, pdu: RetSubmit, data: bytes) -> bytes:
        return super().sent(cmd, replace(pdu, seqnum=0), data)


@wrong("short-transfer")
class Pads(Little):
    def sent(self, cmd: CmdSubmit, pdu: RetSubmit, data: bytes) -> bytes:
        return super().sent(cmd, pdu, data.ljust(cmd.transfer_buffer_length, b"\0"))


@wrong("never-more")
class SendsAllItHas(Little):
    def data_stage(self, session: Session, cmd: CmdSubmit, data: bytes) -> None:
        self.answer(session, cmd, 0, DESCRIPTORS[DescriptorType(cmd.setup[3])])


@wrong("base-fields")
class EchoesTheHeader(Little):
    def sent(self, cmd: CmdSubmit, pdu: RetSubmit, data: bytes) -> bytes:
        return super().sent(cmd, replace(pdu, devid=cmd.devid, direction=1), data)


@wrong("packet-count")
class CountsOnePacket(Little):
    def sent(self, cmd: CmdSubmit, pdu: RetSubmit, data: bytes) -> bytes:
        return super().sent(cmd, replace(pdu, number_of_packets=1), data)


@wrong("stall")
class NeverStalls(Little):
    def stall(self, session: Session, cmd: CmdSubmit) -> None:
        self.answer(session, cmd, 0)


@wrong("out-reply")
class SendsThePayloadBack(Little):
    def sent(self, cmd: CmdSubmit, pdu: RetSubmit, data: bytes) -> bytes:
        return super().sent(cmd, pdu, data or bytes(cmd.transfer_buffer_length))


@wrong("pipelined")
class OneHeaderASegment(Little):
    def header(self, session: Session) -> bytes:
        data = super().header(session)
        if data[3] == 1 and data[15]:
            session.sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                session.sock.recv(65536)
            session.sock.setblocking(True)
        return data


@wrong("split")
class HeadersComeWhole(Little):
    def header(self, session: Session) -> bytes:
        data = session.sock.recv(48)
        if len(data) < 48:
            raise HangUp
        return data


@wrong("seqnum-any")
class CountsFromOne(Little):
    def submit(self, session: Session, cmd: CmdSubmit) -> None:
        if cmd.seqnum > 0xFFFF:
            raise HangUp
        super().submit(session, cmd)


@wrong("sg-flag")
class NoSg(Little):
    def data_stage(self, session: Session, cmd: CmdSubmit, data: bytes) -> None:
        if cmd.transfer_flags & URB_DMA_MAP_SG:
            self.answer(session, cmd, -errno.EINVAL)
        else:
            super().data_stage(session, cmd, data)


@wrong("sg-flag-empty")
class NoSgOfNothing(Little):
    def submit(self, session: Session, cmd: CmdSubmit) -> None:
        if cmd.transfer_flags & URB_DMA_MAP_SG and not cmd.transfer_buffer_length:
            raise HangUp
        super().submit(session, cmd)


@wrong("wlength-in")
class BelievesWLength(Little):
    def data_stage(self, session: Session, cmd: CmdSubmit, data: bytes) -> None:
        self.answer(session, cmd, 0, data)


@wrong("wlength-out")
class ReceivesWLength(Little):
    def payload(self, session: Session, cmd: CmdSubmit, address: int) -> bytes:
        return session.receive(int.from_bytes(cmd.setup[6:], "little")) if not address else b""


@wrong("ep0-beside-pending")
class OneUrbAtATime(Little):
    def bulk_in(self, session: Session, cmd: CmdSubmit) -> None:
        session.sock.recv(1, socket.MSG_PEEK)
        while session.sock.recv(4096):
            pass
        raise HangUp


@wrong("halted")
class HaltIsAnEmptyTransfer(Little):
    def bulk_in(self, session: Session, cmd: CmdSubmit) -> None:
        if session.halted:
            self.answer(session, cmd, 0)
        else:
            super().bulk_in(session, cmd)


# --- unlinks ------------------------------------------------------------------------------------


@wrong("unlink-unknown")
class AnswersOnlyWhatIsPending(Little):
    def unlink(self, session: Session, cmd: CmdUnlink) -> None:
        if cmd.unlink_seqnum in session.pending:
            super().unlink(session, cmd)


@wrong("unlink-completed")
class AlwaysConnReset(Little):
    def unlinked(self, session: Session, cmd: CmdUnlink, status: int) -> None:
        super().unlinked(session, cmd, -errno.ECONNRESET)


@wrong("unlink-pending")
class AlwaysZero(Little):
    def unlinked(self, session: Session, cmd: CmdUnlink, status: int) -> None:
        super().unlinked(session, cmd, 0)


@wrong("unlink-race")
class SaysBothInARace(Little):
    def unlink(self, session: Session, cmd: CmdUnlink) -> None:
        self.unlinked(session, cmd, -errno.ECONNRESET)


@wrong("unlink-race-pending")
class AnswersWhatItUnlinks(Little):
    def unlinked(self, session: Session, cmd: CmdUnlink, status: int) -> None:
        super().unlinked(session, cmd, status)
        if status:
            session.send(RetSubmit(seqnum=cmd.unlink_seqnum, status=status).pack())


@wrong("unlink-queue")
class UnlinksTheFirstOnly(Little):
    def unlink(self, session: Session, cmd: CmdUnlink) -> None:
        if session.pending and session.pending[0] != cmd.unlink_seqnum:
            self.unlinked(session, cmd, 0)
        else:
            super().unlink(session, cmd)


@wrong("unlink-twice")
class ForgetsNothing(Little):
    def unlink(self, session: Session, cmd: CmdUnlink) -> None:
        found = cmd.unlink_seqnum in session.pending
        self.unlinked(session, cmd, -errno.ECONNRESET if found else 0)


@wrong("unlink-unlink")
class EnoentForStrangers(Little):
    def unlinked(self, session: Session, cmd: CmdUnlink, status: int) -> None:
        super().unlinked(session, cmd, status or -errno.ENOENT)


@wrong("stale-replies")
class KeepsOneReplyBack(Little):
    kept = b""

    def granted(self) -> bytes:
        kept, self.kept = self.kept, RetSubmit(seqnum=7).pack()
        return super().granted() + kept


# --- isochronous --------------------------------------------------------------------------------


@wrong("iso-reply")
class DoesNotPack(Little):
    def iso_answer(self, session: Session, cmd: CmdSubmit, done: list[IsoPacket]) -> None:
        length = cmd.transfer_buffer_length
        pdu = RetSubmit(seqnum=cmd.seqnum, actual_length=length, number_of_packets=len(done))
        session.send(pdu.pack() + bytes(length) + b"".join(p.pack() for p in done))


@wrong("iso-count-none")
class NoPacketsNoTrouble(Little):
    def no_packets(self, session: Session, cmd: CmdSubmit) -> bool:
        if cmd.number_of_packets < 1:
            self.answer(session, cmd, 0)
            return True
        return False


@wrong("iso-count-1025")
class AnyNumberOfPackets(Little):
    def bad_header(self, session: Session, cmd: CmdSubmit) -> bool:
        return False


@wrong("iso-lies")
class BelievesPackets(Little):
    def may_be(self, cmd: CmdSubmit, packets: list[IsoPacket]) -> bool:
        return True

    def iso_answer(self, session: Session, cmd: CmdSubmit, done: list[IsoPacket]) -> None:
        self.answer(session, cmd, 0)


# --- hosts that leave, and PDUs that no host sends ----------------------------------------------


@wrong("close-pending")
class WaitsForItsUrbs(Little):
    def give_back(self, session: Session, *, clean: bool) -> None:
        if not session.pending:
            super().give_back(session, clean=clean)


class LosesTheDevice(Little):
    """Where a host leaves within a PDU."""

    lost = False

    def give_back(self, session: Session, *, clean: bool) -> None:
        if not self.lost:
            super().give_back(session, clean=clean)


@wrong("close-half-header")
class LosesItInAHeader(LosesTheDevice):
    def header(self, session: Session) -> bytes:
        first = session.receive(1)
        try:
            return first + session.receive(47)
        except HangUp:
            self.lost = True
            raise


@wrong("close-half-payload")
class LosesItInAPayload(LosesTheDevice):
    def payload(self, session: Session, cmd: CmdSubmit, address: int) -> bytes:
        try:
            return super().payload(session, cmd, address)
        except HangUp:
            self.lost = True
            raise


def silent_about(which: Callable[[CmdSubmit], bool]) -> type[Little]:
    """A server that passes over such headers."""

    class Silent(Little):
        def bad_header(self, session: Session, cmd: CmdSubmit) -> bool:
            return which(cmd) or super().bad_header(session, cmd)

    return Silent


WRONG["devid-wrong"] = silent_about(lambda cmd: cmd.devid != EXPORTED.devid)
WRONG["direction-wrong"] = silent_about(lambda cmd: cmd.direction > 1)
WRONG["endpoint-above-15"] = silent_about(lambda cmd: cmd.ep > 15)
WRONG["endpoint-absent-in"] = silent_about(lambda cmd: cmd.ep == 15 and cmd.direction == 1)
WRONG["endpoint-absent-out"] = silent_about(lambda cmd: cmd.ep == 15 and not cmd.direction)
WRONG["packets-on-ep0"] = silent_about(lambda cmd: cmd.number_of_packets > 0)
WRONG["length-negative"] = silent_about(lambda cmd: cmd.transfer_buffer_length < 0)
WRONG["length-huge"] = silent_about(lambda cmd: cmd.transfer_buffer_length > 1 << 24)


@wrong("seqnum-reuse")
class DiesOfReuse(Little):
    def reused(self, session: Session) -> None:
        self.die()
        raise HangUp


@wrong("unknown-command")
class PassesOverCommands(Little):
    def unknown_command(self, session: Session) -> None:
        """It was 48 bytes, was it not?"""


# --- the claims ---------------------------------------------------------------------------------


def test_a_right_server_passes_every_rule() -> None:
    rules = choose((), rough=True)
    with Little() as server:
        found = list(examine(Subject(HOST, server.port, BUSID, timeout=5), rules))
    assert {v.name: (v.result, v.why) for v in found} == {r.name: (PASS, "") for r in rules}


@pytest.mark.parametrize("rule", [rule.name for rule in RULES])
def test_a_server_that_breaks_a_rule_fails_it(rule: str) -> None:
    with WRONG[rule]() as server:
        (verdict,) = verdicts_of(server, rule)
    assert verdict.result == FAIL, verdict
    assert verdict.why


QUIET = {
    "ep0-beside-pending", "halted", "unlink-pending", "unlink-race-pending", "unlink-queue",
    "unlink-twice", "close-pending", "seqnum-reuse",
}  # fmt: skip
"""What needs an endpoint that answers NAK, which a source of endless data has not."""


@pytest.mark.parametrize(
    ("gadget", "speed", "skipped"),
    [("storage", Speed.FULL, ISO), ("storage", Speed.HIGH, ISO), ("storage", Speed.SUPER, ISO),
     ("serial", Speed.LOW, ISO), ("serial", Speed.FULL, ISO), ("serial", Speed.HIGH, ISO),
     ("serial", Speed.SUPER, ISO), ("composite", Speed.SUPER, ISO), ("keyboard", Speed.LOW, ISO),
     ("usbtest", Speed.FULL, QUIET), ("usbtest", Speed.HIGH, QUIET),
     ("usbtest", Speed.SUPER, QUIET)],
)  # fmt: skip
def test_our_server_passes_every_rule_that_can_be_tried(
    gadget: str, speed: Speed, skipped: set[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    # Bulk endpoints at low speed are what Linux takes for interrupt ones.
    made = replace(
        load_gadget(gadget, GadgetOptions(size=1 << 20)), deliberately_illegal=speed is Speed.LOW
    )
    with serving(made, speed=speed) as port:
        subject = Subject(HOST, port, "1-1")
        subject.reach()
        found = list(examine(subject, choose((), rough=True)))
    assert {v.name: v.why for v in found if v.result == FAIL} == {}
    assert {v.name for v in found if v.result == SKIP} == skipped


def test_a_device_that_a_rule_has_cost_is_not_asked_further() -> None:
    with LosesItInAHeader() as server:
        found = verdicts_of(server, "close-half-header", "close-half-payload")
    assert [v.result for v in found] == [FAIL, SKIP]
    assert found[1].why == "the device was lost after close-half-header"


def test_a_device_that_is_brought_back_is_asked_further() -> None:
    with LosesItInAHeader() as server:

        def recover() -> None:
            server.lost = False
            server.taken.release()

        subject = Subject(HOST, server.port, BUSID, timeout=QUICK)
        rules = choose(("close-half-header", "close-half-payload"))
        assert [v.result for v in examine(subject, rules, recover=recover)] == [FAIL, PASS]


def test_a_device_without_a_quiet_endpoint_is_asked_what_it_can_answer() -> None:
    class Talks(Little):
        def bulk_in(self, session: Session, cmd: CmdSubmit) -> None:
            self.answer(session, cmd, 0, bytes(cmd.transfer_buffer_length))

    with Talks() as server:
        (verdict,) = verdicts_of(server, "unlink-pending")
    assert verdict.result == SKIP
    assert verdict.why == "needs an IN endpoint that answers NAK; all have data at once"


def test_every_rule_has_a_name_of_its_own_and_says_where_it_is_written() -> None:
    names = [rule.name for rule in RULES]
    assert len(set(names)) == len(names)
    assert set(WRONG) == set(names)
    for rule in RULES:
        assert rule.source.startswith(("usbip_protocol.rst", "drivers/usb/", "tools/usb/usbip/"))


def test_what_is_known_of_kernels_is_of_rules_that_there_are() -> None:
    for known in KNOWN.values():
        assert set(known) <= {rule.name for rule in RULES}


def test_rules_are_chosen_by_name_or_by_how_much_they_matter() -> None:
    must, should = choose(("must",), rough=True), choose(("should",), rough=True)
    assert {rule.name for rule in must + should} == {rule.name for rule in RULES}
    assert not any(rule.rough for rule in choose(()))
    assert [rule.name for rule in choose(("length-huge",))] == ["length-huge"]
    with pytest.raises(SchemeError, match="'unlink-rice' is unknown; do you mean unlink-race"):
        choose(("unlink-rice",))


class SaysMoreThanTheDevice(Little):
    def granted(self) -> bytes:
        return super().granted() + b"\0"


class NeverClears(Little):
    """It acknowledges what it does not do."""

    def control(self, session: Session, cmd: CmdSubmit, payload: bytes) -> None:
        halted = session.halted
        super().control(session, cmd, payload)
        session.halted = session.halted or halted


class ListsWhoKnowsWhat(Little):
    def devlist(self) -> bytes:
        strange = replace(EXPORTED, busid="\x1b[31m3-2\x01")
        return OpRepDevlist(((strange, (UsbInterface(0, 0, 0),)),)).pack()


@pytest.mark.parametrize(
    ("server", "rule", "why"),
    [
        (SaysMoreThanTheDevice, "import", "more bytes came than there should be: 00"),
        (NeverClears, "halted", "-EPIPE again after CLEAR_FEATURE"),
        (ListsWhoKnowsWhat, "devlist-busid", r"not in the list: \x1b[31m3-2\x01"),
    ],
)
def test_what_else_is_wrong_is_said(server: type[Little], rule: str, why: str) -> None:
    with server() as wrong_server:
        (verdict,) = verdicts_of(wrong_server, rule, timeout=5)
    assert verdict.result == FAIL
    assert why in verdict.why


def test_a_neighbour_whose_busid_is_alike_is_let_alone() -> None:
    gadgets = [load_gadget("keyboard", GadgetOptions()) for _ in range(19)]
    with serving(*gadgets) as port:
        for busid in ("1-12", "1-1"):  # 1-1 begins it, and it begins 1-19
            subject = Subject(HOST, port, busid)
            (verdict,) = examine(subject, choose(("import-near",)))
            assert (verdict.result, verdict.why) == (PASS, "")


def test_a_seqnum_that_is_used_twice_may_be_refused() -> None:
    class Refuses(Little):
        def bulk_in(self, session: Session, cmd: CmdSubmit) -> None:
            if cmd.seqnum in session.pending:
                self.answer(session, cmd, -errno.EINVAL)
            else:
                super().bulk_in(session, cmd)

    with Refuses() as server:
        (verdict,) = verdicts_of(server, "seqnum-reuse", timeout=5)
    assert (verdict.result, verdict.why) == (PASS, "")


# --- the command --------------------------------------------------------------------------------


def run(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(main, ("conformance", *arguments))
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture
def little() -> Iterator[Little]:
    with Little() as server:
        yield server


def test_the_command_gives_a_verdict_for_each_rule(little: Little) -> None:
    where = (HOST, BUSID, "-t", str(little.port), "--rules", "unlink-race,descriptor")
    status, table, _ = run(*where)
    assert status == 0
    assert "unlink-race" in table
    assert "stub_recv_cmd_unlink()" in table
    assert "2 pass, 0 fail, 0 skip" in table
    status, ktap, _ = run(*where, "--ktap")
    assert ktap.splitlines()[2:] == ["1..2", "ok 1 descriptor", "ok 2 unlink-race"]
    status, text, _ = run(*where, "--json")
    told = json.loads(text)
    assert (status, told["ok"], told["busid"]) == (0, True, BUSID)


def test_the_exit_status_tells_a_broken_rule_from_nothing_tried(little: Little) -> None:
    with AlwaysZero() as server:
        status, out, _ = run(HOST, BUSID, "-t", str(server.port), "--rules", "unlink-pending")
    assert status == 1
    assert "RET_UNLINK status 0, expected -104" in " ".join(out.split())
    with serving(load_gadget("serial", GadgetOptions())) as port:
        assert run(HOST, "1-1", "-t", str(port), "--rules", "iso-reply")[0] == 4
    del little


def test_what_is_asked_for_wrongly_is_one_clear_line(little: Little) -> None:
    with socket.create_server((HOST, 0)) as reserved:
        free = reserved.getsockname()[1]
    port = str(little.port)
    for arguments, wanted in (
        ((HOST, "3-2", "-t", str(free)), "Connection refused; is a USB/IP server running there?"),
        ((HOST, "9-9", "-t", port), f"{HOST} port {port} has no busid '9-9'"),
        ((HOST, "x" * 40, "-t", port), "at most 31 bytes"),
        ((HOST, "3-2", "-t", port, "--rules", "unlinks"), "rule 'unlinks' is unknown"),
        ((), "HOST and BUSID say what to test"),
    ):
        status, _, told = run(*arguments)
        assert status in (1, 2)
        assert wanted in told.splitlines()[-1]


def test_what_is_no_usbip_server_at_all_is_told_by_its_first_words() -> None:
    class Ssh(Little):
        def operation(self, session: Session) -> None:
            session.receive(8)
            session.send(b"SSH-2.0-OpenSSH_9.2p1\r\n")

    with Ssh() as server:
        where = (HOST, BUSID, "-t", str(server.port), "--rules", "devlist,stall")
        status, out, _ = run(*where, "--json")
    assert status == 1
    first, second = json.loads(out)["verdicts"]
    assert first["why"].startswith("version 0x5353, expected 0x0111; afterwards IMPORT is answered")
    assert second["why"] == "the device was lost after devlist"


def test_a_device_that_somebody_has_is_not_tested(little: Little) -> None:
    little.taken.acquire()
    where = (HOST, BUSID, "-t", str(little.port), "--timeout", "0.1")
    status, _, told = run(*where)
    assert status == 1
    assert "detach it where it is in use" in told
    little.taken.release()


def test_what_is_known_before_an_interrupt_is_told(
    little: Little, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(subject: Subject, chosen: Sequence[Rule]) -> Iterator[Verdict]:
        yield from examine(subject, chosen[:1])
        raise KeyboardInterrupt

    monkeypatch.setattr("usbip_vudc.cli.conformance.examine", interrupt)
    status, out, told = run(HOST, BUSID, "-t", str(little.port), "--ktap")
    assert status == 130
    assert out.splitlines()[2:] == ["1..1", "ok 1 devlist"]
    assert "interrupted; the rest was not tried" in told


def test_the_rules_can_be_read_without_a_server() -> None:
    status, table, _ = run("--list", "--rules", "length-huge")
    assert status == 0
    assert "2 GiB" in table
    assert "(--rough)" in table


def test_the_page_has_the_rules_and_the_verdicts_as_they_are() -> None:
    page = (Path(__file__).parent.parent / "docs" / "conformance.md").read_text()
    assert filled(page) == page, "run: python -m tests.conformance_page docs/conformance.md"
