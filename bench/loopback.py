"""The limit of this machine: 1 MiB blocks one way over TCP on loopback, from Python to Python."""

from __future__ import annotations

import socket

from usbip_vudc.memory import page_aligned


def main() -> None:
    """Send blocks of zeros to whoever connects, until it leaves."""
    block = page_aligned(1 << 20)
    block[:] = bytes(1 << 20)  # touched, so that it is memory and not the zero page
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(f"listening on 127.0.0.1:{listener.getsockname()[1]}", flush=True)
        while True:
            peer, _ = listener.accept()
            with peer:
                try:
                    while True:
                        peer.sendall(block)
                except OSError:
                    continue


if __name__ == "__main__":
    main()
