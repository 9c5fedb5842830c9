"""The twin of Linux's tools/usb/ffs-test.c: a bulk source and a bulk sink."""
