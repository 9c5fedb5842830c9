"""A tester of USB mass-storage devices: the bulk-only transport by section, and a verdict for each.

It drives any device that pyusb can open, ours over USB/IP or whatever libusb sees, with CBWs that
no operating system sends. It shares the words of the transport with our own device and host
(usbip_vudc/usb/), and no behaviour.
"""
