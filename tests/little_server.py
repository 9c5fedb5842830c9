"""A small USB/IP server on plain sockets and threads, right in everything, made to be overridden.

It shares nothing with the package but the structures of the PDUs, so that a tester which passes it
is not merely of one mind with our own server.
"""

# ruff: noqa: ARG002 - what a method here does not care for, one that overrides it does

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import threading
from dataclasses import replace
from typing import Self

from usbip_vudc.urb import IsoPacket
from usbip_vudc.usb.ch9 import DescriptorType, Speed
from usbip_vudc.usb.descriptors import (
    Configuration,
    ConfigurationDescriptor,
    DeviceDescriptor,
    Endpoint,
    EndpointDescriptor,
    Interface,
    InterfaceDescriptor,
)
from usbip_vudc.wire.pdu import (
    CmdSubmit,
    CmdUnlink,
    OpHeader,
    OpRepDevlist,
    OpRepImport,
    OpStatus,
    RetSubmit,
    RetUnlink,
    UsbDevice,
    UsbInterface,
)

BUSID = "3-2"
IN, OUT, ISO = 0x81, 0x02, 0x83
ISO_SIZE = 64

DEVICE = DeviceDescriptor(bcdUSB=0x0200, bMaxPacketSize0=64, idVendor=0x1D6B, idProduct=0x0104)


def _endpoint(address: int, kind: int, size: int) -> Endpoint:
    return Endpoint(
        EndpointDescriptor(bEndpointAddress=address, bmAttributes=kind, wMaxPacketSize=size)
    )


def _interface(alternate: int, *endpoints: Endpoint) -> Interface:
    return Interface(
        InterfaceDescriptor(
            bInterfaceNumber=0, bAlternateSetting=alternate, bNumEndpoints=0, bInterfaceClass=0xFF
        ),
        endpoints,
    )


CONFIGURATION = Configuration(
    ConfigurationDescriptor(),
    (
        _interface(0, _endpoint(IN, 2, 512), _endpoint(OUT, 2, 512)),
        _interface(1, _endpoint(ISO, 1, ISO_SIZE)),
    ),
).with_counts()
DESCRIPTORS = {DescriptorType.DEVICE: DEVICE.pack(),
               DescriptorType.CONFIGURATION: CONFIGURATION.pack()}  # fmt: skip

EXPORTED = UsbDevice(
    path="/sys/little/3-2", busid=BUSID, busnum=3, devnum=2, speed=Speed.HIGH,
    idVendor=DEVICE.idVendor, idProduct=DEVICE.idProduct, bcdDevice=DEVICE.bcdDevice,
    bDeviceClass=0, bDeviceSubClass=0, bDeviceProtocol=0, bConfigurationValue=1,
    bNumConfigurations=1, bNumInterfaces=1,
)  # fmt: skip


class HangUp(Exception):
    """Close the connection."""


class Session:
    """One host's connection, and what it has pending."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.pending: list[int] = []
        self.halted = False

    def receive(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            piece = self.sock.recv(length - len(data))
            if not piece:
                raise HangUp
            data += piece
        return data

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)


class Little:
    """Serves one device until the context ends; a subclass does one thing wrong."""

    def __enter__(self) -> Self:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self.listener.getsockname()[1]
        self.taken = threading.Lock()
        self.open: set[socket.socket] = set()
        self.threads: list[threading.Thread] = []
        self._start(self.accept)
        return self

    def __exit__(self, *_: object) -> None:
        self.die()
        for sock in list(self.open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(5)
            assert not thread.is_alive()

    def die(self) -> None:
        """Take no more connections."""
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def _start(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args)  # type: ignore[arg-type]
        self.threads.append(thread)
        thread.start()

    # --- connections -------------------------------------------------------------------------

    def accept(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            self.open.add(sock)
            self.welcome(sock)

    def welcome(self, sock: socket.socket) -> None:
        self._start(self.greet, sock)

    def greet(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(HangUp, OSError):
            self.operation(Session(sock))
        self.open.discard(sock)

    # --- operations ----------------------------------------------------------------------------

    def operation(self, session: Session) -> None:
        version, code, _ = struct.unpack(">HHI", session.receive(8))
        if not self.knows(version):
            raise HangUp
        if code == 0x8005:
            session.send(self.devlist())
        elif code == 0x8003:
            self.on_import(session, session.receive(32))
        else:
            self.unknown_operation(session)

    def knows(self, version: int) -> bool:
        return version == 0x0111

    def unknown_operation(self, session: Session) -> None:
        raise HangUp

    def devlist(self) -> bytes:
        return OpRepDevlist(((EXPORTED, (UsbInterface(0xFF, 0, 0),)),)).pack()

    def is_ours(self, busid: bytes) -> bool:
        return busid == BUSID.encode().ljust(32, b"\0")

    def refuse(self, session: Session, status: OpStatus) -> None:
        session.send(OpRepImport(status).pack())

    def on_import(self, session: Session, busid: bytes) -> None:
        if not self.is_ours(busid):
            self.refuse(session, OpStatus.NODEV)
        elif not self.take():
            self.refuse(session, OpStatus.DEV_BUSY)
        else:
            clean = False
            try:
                session.send(self.granted())
                self.commands(session)
            except (HangUp, OSError):
                clean = True
            finally:
                self.give_back(session, clean=clean)

    def take(self) -> bool:
        return self.taken.acquire(timeout=0.02)

    def give_back(self, session: Session, *, clean: bool) -> None:
        self.taken.release()

    def granted(self) -> bytes:
        return OpHeader(0x0003).pack() + EXPORTED.pack()

    # --- commands ------------------------------------------------------------------------------

    def header(self, session: Session) -> bytes:
        return session.receive(48)

    def commands(self, session: Session) -> None:
        while True:
            data = self.header(session)
            command = int.from_bytes(data[:4], "big")
            if command == 1:
                self.submit(session, CmdSubmit.parse(data))
            elif command == 2:
                self.unlink(session, CmdUnlink.parse(data))
            else:
                self.unknown_command(session)

    def unknown_command(self, session: Session) -> None:
        raise HangUp

    def bad_header(self, session: Session, cmd: CmdSubmit) -> bool:
        """Whether a CMD_SUBMIT is passed over in silence; it may hang up, too."""
        packets = cmd.number_of_packets
        if (
            cmd.direction > 1
            or cmd.ep > 15
            or not 0 <= cmd.transfer_buffer_length <= 1 << 24
            or not -1 <= packets <= 1024
            or (packets > 0 and not cmd.ep)
        ):
            raise HangUp
        return False

    def submit(self, session: Session, cmd: CmdSubmit) -> None:
        if self.bad_header(session, cmd):
            return
        address = cmd.ep | cmd.direction << 7
        payload = self.payload(session, cmd, address)
        if not cmd.ep:
            self.control(session, cmd, payload)
        elif address == IN:
            self.bulk_in(session, cmd)
        elif address == ISO:
            self.isochronous(session, cmd)
        elif address == OUT:
            self.answer(session, cmd, 0, actual=len(payload))
        else:
            self.absent(session, cmd)

    def payload(self, session: Session, cmd: CmdSubmit, address: int) -> bytes:
        return b"" if cmd.direction else session.receive(cmd.transfer_buffer_length)

    def absent(self, session: Session, cmd: CmdSubmit) -> None:
        self.answer(session, cmd, -errno.EPROTO)

    def bulk_in(self, session: Session, cmd: CmdSubmit) -> None:
        if session.halted:
            self.answer(session, cmd, -errno.EPIPE)
        elif cmd.seqnum in session.pending:
            self.reused(session)
        else:
            session.pending.append(cmd.seqnum)

    def reused(self, session: Session) -> None:
        raise HangUp

    def control(self, session: Session, cmd: CmdSubmit, payload: bytes) -> None:
        kind, request, value, _, length = struct.unpack("<BBHHH", cmd.setup)
        if (kind, request) == (0x80, 6) and value >> 8 in DESCRIPTORS:
            data = DESCRIPTORS[DescriptorType(value >> 8)][:length]
            self.data_stage(session, cmd, data)
        elif (kind, request) in ((0x00, 9), (0x01, 11)):
            self.answer(session, cmd, 0)
        elif (kind, request) in ((0x02, 1), (0x02, 3)):
            session.halted = request == 3
            self.answer(session, cmd, 0)
        else:
            self.stall(session, cmd)

    def data_stage(self, session: Session, cmd: CmdSubmit, data: bytes) -> None:
        self.answer(session, cmd, 0, data[: cmd.transfer_buffer_length])

    def stall(self, session: Session, cmd: CmdSubmit) -> None:
        self.answer(session, cmd, -errno.EPIPE)

    def answer(
        self, session: Session, cmd: CmdSubmit, status: int, data: bytes = b"", *, actual: int = 0
    ) -> None:
        pdu = RetSubmit(
            seqnum=cmd.seqnum, status=status, actual_length=len(data) or actual,
            number_of_packets=cmd.number_of_packets,
        )  # fmt: skip
        session.send(self.sent(cmd, pdu, data))

    def sent(self, cmd: CmdSubmit, pdu: RetSubmit, data: bytes) -> bytes:
        """The bytes of a reply."""
        return pdu.pack() + data

    # --- isochronous ---------------------------------------------------------------------------

    def isochronous(self, session: Session, cmd: CmdSubmit) -> None:
        if self.no_packets(session, cmd):
            return
        raw = session.receive(16 * cmd.number_of_packets)
        packets = [IsoPacket.parse(raw[at : at + 16]) for at in range(0, len(raw), 16)]
        if not self.may_be(cmd, packets):
            raise HangUp
        # Each packet receives one byte less than the one before.
        done = [replace(p, actual_length=max(p.length - n, 0)) for n, p in enumerate(packets)]
        self.iso_answer(session, cmd, done)

    def no_packets(self, session: Session, cmd: CmdSubmit) -> bool:
        if cmd.number_of_packets < 1:
            self.answer(session, cmd, -errno.EINVAL)
            return True
        return False

    def may_be(self, cmd: CmdSubmit, packets: list[IsoPacket]) -> bool:
        return all(p.offset + p.length <= cmd.transfer_buffer_length for p in packets)

    def iso_answer(self, session: Session, cmd: CmdSubmit, done: list[IsoPacket]) -> None:
        total = sum(packet.actual_length for packet in done)
        pdu = RetSubmit(seqnum=cmd.seqnum, actual_length=total, number_of_packets=len(done))
        session.send(pdu.pack() + bytes(total) + b"".join(p.pack() for p in done))

    # --- unlinks -------------------------------------------------------------------------------

    def unlink(self, session: Session, cmd: CmdUnlink) -> None:
        if cmd.unlink_seqnum in session.pending:
            session.pending.remove(cmd.unlink_seqnum)
            self.unlinked(session, cmd, -errno.ECONNRESET)
        else:
            self.unlinked(session, cmd, 0)

    def unlinked(self, session: Session, cmd: CmdUnlink, status: int) -> None:
        session.send(RetUnlink(seqnum=cmd.seqnum, status=status).pack())
