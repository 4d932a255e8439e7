"""The version, alone in a file so that everything that writes provenance can import it without importing the method."""

__version__ = "0.1.0"
