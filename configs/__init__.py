"""YAML presets: each holds only what differs from the defaults in `instag/config.py`."""
