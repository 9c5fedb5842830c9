"""Proxy: a man in the middle on the cable, between any USB/IP host and any USB/IP server.

`relay` and `injected` are its sans-I/O core, without and with a plan; `driver` moves the bytes,
`export` puts it in front of a device of a server, and `server` in front of another server.
"""
