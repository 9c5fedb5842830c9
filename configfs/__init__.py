"""Gadgets on the UDCs of the kernel: configfs trees, FunctionFS, and what is bound where."""
