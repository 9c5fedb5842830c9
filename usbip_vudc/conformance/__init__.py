"""A tester of USB/IP servers: rules as data, a raw peer, and a verdict for each rule.

It speaks to any server over a plain socket and shares no state machine with our own, so that a
fault of ours cannot hide in both ends.
"""
