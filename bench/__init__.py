"""``make bench``: our server under our host, beside a rival and the limits of this machine.

Ratios of one run are what counts: the servers are alive side by side, the cases interleaved, and
server and client share one CPU, so that another load on the machine slows all alike.
"""
