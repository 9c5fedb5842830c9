"""The device that python-functionfs's own tests are written for: many bulk pairs and an echo."""
