"""InsTaG: a talking 3D Gaussian head from a few seconds of video."""

from instag.version import __version__

__all__ = ["__version__"]
