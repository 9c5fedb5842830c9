"""InjectedRelay: a relay that does to the URBs that pass it what a plan says. Sans-I/O.

The device knows URBs by numbers of ours, so that one may become several, or be ours alone. To the
host the rules of the protocol hold all the while: RET_UNLINK says -ECONNRESET for a URB that
gets no RET_SUBMIT any more, and 0 for one that has had it.
"""

from __future__ import annotations

import errno
from functools import partial
from itertools import count
from typing import Final

from usbip_vudc.injection.actions import AFTER, BEFORE
from usbip_vudc.injection.injector import Injector
from usbip_vudc.injection.transfer import Transfer
from usbip_vudc.proxy.effects import apply_after, apply_before
from usbip_vudc.proxy.ends import Reply, Submit, joined
from usbip_vudc.proxy.passing import Answer, Part, Urb, cut, join
from usbip_vudc.proxy.relay import Cut, Pause, Recorder, Relay, Trail, forget_oldest
from usbip_vudc.usb.ch9 import Direction, SetupPacket, Speed, StandardRequest
from usbip_vudc.wire.pdu import CmdSubmit, CmdUnlink, RetUnlink

__all__ = ("InjectedRelay",)

_PORT_RESET: Final = SetupPacket(0x23, StandardRequest.SET_FEATURE, 4).pack()
"""SetPortFeature(PORT_RESET), which USB/IP servers execute for the device's own port
(drivers/usb/usbip/stub_rx.c)."""


class InjectedRelay(Relay):
    """Passes on what the plan leaves alone, and does the rest.

    ``injector`` decides, at the cable's seam; ``device_recorder`` sees the URBs that the device
    gets.
    """

    def __init__(
        self,
        injector: Injector,
        *,
        speed: Speed = Speed.HIGH,
        recorder: Recorder | None = None,
        device_recorder: Recorder | None = None,
    ) -> None:
        super().__init__(speed=speed, recorder=recorder)
        injector.begins("")  # a new connection: whatever command was under way has ended
        self._injector = injector
        self._device_trail = Trail(device_recorder, self._endpoints)
        self._numbers = (number % 0xFFFF_FFFF + 1 for number in count())
        self._urbs: dict[int, Urb] = {}
        self._parts: dict[int, Part] = {}
        self._withdrawn: dict[int, Part] = {}
        self._device_unlinks: dict[int, Part] = {}
        self._held: dict[int, Answer] = {}
        self._cut: tuple[int, ...] = ()

    def closed(self) -> None:
        """The connection is over: what is pending ends with it."""
        for urb in self._urbs.values():
            self._injector.finished(urb.transfer, 0)
        self._trail.lost(urb.pdu.head for urb in self._urbs.values())
        self._device_trail.lost(part.head for part in self._parts.values())

    # --- between the ends ----------------------------------------------------------------------

    def holds(self, seqnum: int) -> bool:
        """Whether a URB of the host is pending under this number."""
        return seqnum in self._urbs

    def expected(self, seqnum: int) -> CmdSubmit | None:
        """The URB that the device got under this number."""
        part = self._parts.get(seqnum) or self._withdrawn.get(seqnum)
        return part.head if part is not None else None

    def submit(self, pdu: Submit) -> None:
        """CMD_SUBMIT: ask the plan, and pass on what is left of it."""
        if self.ending is not None:
            return
        self.urbs += 1
        self._trail.submit(pdu)
        urb = Urb(pdu, self._transfer(pdu), pdu.iso)
        self._urbs[urb.seqnum] = urb
        for action in self._injector.actions(urb.transfer, BEFORE):
            apply_before(action, urb)
        self.ending = urb.ending
        if self.ending is None and not urb.dropped:
            if urb.stalled:
                self._answer(urb, Answer.failed(-errno.EPIPE, urb))
            else:
                self._forward(urb)
        urb.pdu.payload = b""  # on its way, or nobody's

    def unlink(self, head: CmdUnlink, raw: bytes) -> None:  # noqa: ARG002 - the numbers change
        """CMD_UNLINK: of all parts at the device, or answered here where there is none."""
        urb = self._urbs.get(head.unlink_seqnum)
        if urb is None:
            self._ret_unlink(head.seqnum, 0)
        elif urb.open:
            urb.unlinks.append(head.seqnum)
            self._withdraw(urb)
        else:
            self._taken_back(urb, [head.seqnum])

    def reply(self, pdu: Reply) -> None:
        """RET_SUBMIT: the host is answered with the last one of its URB."""
        seqnum = pdu.head.seqnum
        part = self._parts.pop(seqnum, None)
        if part is None:
            self._withdrawn.pop(seqnum, None)  # too late: the host has been told already
            return
        part.reply = pdu
        self._device_trail.complete(part.head, pdu)
        self._settled(part)

    def unlinked(self, head: RetUnlink, raw: bytes) -> None:  # noqa: ARG002
        """RET_UNLINK: the part is over; where it had completed its reply was here before."""
        part = self._device_unlinks.pop(head.seqnum, None)
        if part is None or self._parts.pop(part.head.seqnum, None) is None:
            return
        # 0 says that it had completed: usbip-host may yet send its reply (stub_tx.c sends
        # those in a queue of their own).
        self._withdrawn[part.head.seqnum] = part
        forget_oldest(self._withdrawn)
        self._device_trail.unlinked(part.head, head.status)
        if part.urb is not None:
            part.urb.unlinked = True
        self._settled(part)

    # --- the plan ------------------------------------------------------------------------------

    def _transfer(self, pdu: Submit) -> Transfer:
        head = pdu.head
        is_control = not head.ep
        direction = Direction.IN if head.direction else Direction.OUT
        return Transfer(
            seam=self._injector.seam,
            address=head.ep | direction if head.ep else 0,
            direction=direction,
            length=head.transfer_buffer_length,
            max_packet_size=self._endpoints.of(head).max_packet_size,
            data=pdu.payload,
            setup=SetupPacket.parse(head.setup) if is_control else None,
            is_iso=head.number_of_packets > 0,
        )

    # --- towards the device --------------------------------------------------------------------

    def _forward(self, urb: Urb) -> None:
        if urb.reset_first:
            self._reset_port(urb.pdu.head.devid)
        for pdu in cut(urb, self._numbers):
            part = Part(pdu.head, urb)
            urb.parts.append(part)
            self._send(part, pdu)
        urb.open = len(urb.parts)
        if urb.unlink_after is not None:
            self.timers.call_later(urb.unlink_after, partial(self._take_back, urb))

    def _send(self, part: Part, pdu: Submit) -> None:
        self._parts[part.head.seqnum] = part
        self._device_trail.submit(pdu)
        self.to_device.extend(joined(pdu))

    def _reset_port(self, devid: int) -> None:
        """A URB of our own, whose reply is nobody's; the device takes what follows after it."""
        number = next(self._numbers)
        head = CmdSubmit(seqnum=number, devid=devid, direction=0, ep=0, setup=_PORT_RESET)
        self._send(Part(head, None), Submit(head, head.pack()))

    def _withdraw(self, urb: Urb) -> None:
        """Unlink every part that is still at the device, once."""
        if urb.unlinking:
            return
        urb.unlinking = True
        for part in urb.parts:
            if part.head.seqnum in self._parts:
                seqnum = next(self._numbers)
                self._device_unlinks[seqnum] = part
                head = CmdUnlink(
                    seqnum=seqnum, devid=part.head.devid, unlink_seqnum=part.head.seqnum
                )
                self.to_device.append(head.pack())

    def _take_back(self, urb: Urb) -> None:
        """Time is up for a URB that is to be unlinked."""
        if urb.open and self._urbs.get(urb.seqnum) is urb:
            self._withdraw(urb)

    # --- towards the host ----------------------------------------------------------------------

    def _settled(self, part: Part) -> None:
        """A part is over; after the last one the URB is."""
        urb = part.urb
        if urb is None:
            return
        urb.open -= 1
        if urb.open or self.ending is not None:
            return
        if urb.unlinked and urb.unlinks:
            self._taken_back(urb, urb.unlinks)
            return
        failed = Answer.failed(-errno.ECONNRESET, urb) if urb.unlinked else None
        self._answer(urb, failed or join(urb))
        if urb.unlinks and urb.seqnum in self._held:
            self._taken_back(urb, urb.unlinks)
        else:
            for seqnum in urb.unlinks:
                self._ret_unlink(seqnum, 0)

    def _answer(self, urb: Urb, answer: Answer) -> None:
        """Ask the plan about a reply, and let it go, now or later."""
        if urb.is_in:
            urb.transfer.data = answer.payload
            if not answer.status:
                self._endpoints.learn(urb.pdu.head, answer.payload)
        for action in self._injector.actions(urb.transfer, AFTER):
            apply_after(action, urb, answer)
        self.ending = answer.ending
        if self.ending is not None:
            return
        self._held[urb.seqnum] = answer
        if answer.delay:
            self.timers.call_later(answer.delay, partial(self._delayed, urb, answer))
        elif not answer.overtaken:
            self._emit(urb, answer)

    def _delayed(self, urb: Urb, answer: Answer) -> None:
        if self._held.get(urb.seqnum) is answer:
            answer.delay = 0.0
            if not answer.overtaken:
                self._emit(urb, answer)

    def _emit(self, urb: Urb, answer: Answer) -> None:
        del self._urbs[urb.seqnum], self._held[urb.seqnum]
        self._injector.finished(urb.transfer, answer.actual)
        reply = answer.reply(urb.seqnum)
        self._trail.complete(urb.pdu.head, reply)
        if answer.cut and answer.cut != self._cut:
            self._cut = answer.cut
            self.to_host.append(Cut(answer.cut))
        if answer.pause:
            data = b"".join(joined(reply))
            half = len(data) // 2
            self.to_host.extend((data[:half], Pause(answer.pause), data[half:]))
        else:
            self.to_host.extend(joined(reply))
        self._overtake()

    def _overtake(self) -> None:
        """A reply has left: those that waited to be overtaken are one nearer."""
        waiting = [(seqnum, a) for seqnum, a in self._held.items() if a.overtaken and not a.delay]
        for _, answer in waiting:
            answer.overtaken -= 1
        for seqnum, answer in waiting:
            if not answer.overtaken and self._held.get(seqnum) is answer:
                self._emit(self._urbs[seqnum], answer)

    def _taken_back(self, urb: Urb, unlinks: list[int]) -> None:
        """The URB gets no reply any more; whoever asked for it back is told so."""
        del self._urbs[urb.seqnum]
        self._held.pop(urb.seqnum, None)
        self._injector.finished(urb.transfer, 0)
        self._trail.unlinked(urb.pdu.head, -errno.ECONNRESET)
        for number, seqnum in enumerate(unlinks):
            self._ret_unlink(seqnum, 0 if number else -errno.ECONNRESET)

    def _ret_unlink(self, seqnum: int, status: int) -> None:
        self.to_host.append(RetUnlink(seqnum=seqnum, status=status).pack())
