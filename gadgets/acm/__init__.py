"""The serial gadget: CDC 1.2 with the Abstract Control Model of PSTN 1.2."""
