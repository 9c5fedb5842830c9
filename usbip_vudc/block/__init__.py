"""A block device driven so that its commands have the SG list asked for, and what came of it."""
