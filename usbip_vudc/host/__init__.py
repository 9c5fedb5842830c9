"""The host's end of the cable: importing a device and submitting URBs to it."""
