"""Human interface devices: a keyboard and a mouse, boot protocol and all (HID 1.11)."""
