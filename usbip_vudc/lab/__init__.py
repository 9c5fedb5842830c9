"""The lab: a real kernel, booted under virtme-ng on this machine's own file system."""
