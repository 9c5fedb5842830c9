"""The commands that look at, make and remove gadgets in configfs."""
