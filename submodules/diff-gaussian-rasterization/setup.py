"""Installs `gaussian_rasterization` alone; InsTaG's own setup.py installs it with everything else."""

from setuptools import setup

setup(
    name="instag-gaussian-rasterization",
    version="0.1.0",
    description="3D Gaussians to colour, depth, normal, alpha and extra attributes in one differentiable pass",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=["gaussian_rasterization", "gaussian_rasterization.cuda"],
    package_data={"gaussian_rasterization.cuda": ["*.cu", "*.cuh"]},
    install_requires=["torch>=2.6", "numpy>=1.26"],
    extras_require={
        "cpu": ["numba>=0.60"],
        "gpu": ["cuda-core>=0.3", "cuda-bindings>=12.8", "nvidia-cuda-nvrtc>=12"],
    },
)
