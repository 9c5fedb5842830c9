"""The bench in the lab: gadgets of ours beside the kernel's own, on real UDCs, as ratios.

``make bench-kernel`` boots a kernel and runs ``python -m bench.kernel`` in it. All figures of an
emulated kernel are small; their ratios are what counts.
"""
