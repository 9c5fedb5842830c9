"""The main job, shown end to end: what ``usbip-vudc demo`` runs."""
