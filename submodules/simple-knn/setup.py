"""Installs `nearest_neighbours` alone; InsTaG's own setup.py installs it with everything else."""

from setuptools import setup

setup(
    name="instag-nearest-neighbours",
    version="0.1.0",
    description="Mean squared distance to the nearest neighbours of 3D points (distCUDA2's contract), scipy and torch",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=["nearest_neighbours"],
    install_requires=["torch>=2.6", "scipy>=1.11"],
)
