"""Frames in, numbers out: one family of metrics a file."""
