"""usbip-vudc: a USB gadget emulator for testing USB drivers, USB/IP code and gadget firmware."""

__all__ = ("__version__",)

__version__ = "0.1.0"
