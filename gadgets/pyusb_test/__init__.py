"""The device that PyUSB's own tests are written for: loopbacks of three transfer types."""
