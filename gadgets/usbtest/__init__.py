"""The device that Linux's usbtest and testusb judge a USB stack with: sources and sinks."""
