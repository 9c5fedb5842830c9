"""The serial gadget with FTDI's protocol: an FT232R, to which ftdi_sio of Linux binds by itself."""
