"""The USB/IP wire protocol 1.1.1 (Documentation/usb/usbip_protocol.rst), without any networking."""
