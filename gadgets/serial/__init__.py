"""Serial ports: where the bytes go (profiles) and how they travel (packets)."""
