"""``python -m usbip_vudc`` is ``usbip-vudc``."""

from usbip_vudc.cli import main

main(prog_name="usbip-vudc")
