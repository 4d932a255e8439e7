"""Packaging: one `pip install .` installs the method, the preprocessing and our kernel packages.

Ranges only; the exact versions that the scripts and CI use stand in constraints.txt.
"""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = "0.1.0"

# import name -> folder. `data_utils` and the submodules keep the field's folder names, but not its import names:
# a top-level `data_utils`, or a second `diff_gaussian_rasterization`, would clash in users' environments.
PACKAGE_DIR = {
    "instag": "instag",
    "instag.data_utils": "data_utils",
    "instag.configs": "configs",
    "gaussian_rasterization": "submodules/diff-gaussian-rasterization/gaussian_rasterization",
    "nearest_neighbours": "submodules/simple-knn/nearest_neighbours",
}


def packages() -> list[str]:
    """Import names of everything that is installed."""
    names = []
    for name, folder in PACKAGE_DIR.items():
        names.append(name)
        names += [f"{name}.{child}" for child in find_packages(str(ROOT / folder))]
    return sorted(set(names))


CORE = [
    "torch>=2.6",
    "numpy>=1.26",
    "scipy>=1.11",
    "numba>=0.60",
    "safetensors>=0.4",
    "pyyaml>=6",
    "tyro>=0.9",
    "tqdm>=4.65",
    "tensorboard>=2.14",
    "av>=14.1",
    "pocketsphinx>=5.0.4,<6",
]
# mediapipe 0.10.14 is the last release without a numpy pin; it brings opencv-contrib-python, which owns `cv2/`.
PREPROCESS = ["mediapipe==0.10.14"]
GPU = ["cuda-core>=0.3", "cuda-bindings>=12.8", "nvidia-cuda-nvrtc>=12"]
HUGGINGFACE = ["transformers>=4.40"]
DEV = ["pytest>=8", "ruff>=0.6", "mypy>=1.10"]

setup(
    name="instag",
    version=VERSION,
    description="A talking 3D Gaussian head from a few seconds of video (InsTaG, CVPR 2025), open, fast, tested",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.13",
    packages=packages(),
    package_dir=PACKAGE_DIR,
    package_data={
        "": ["*.cu", "*.cuh", "*.json", "*.yaml", "*.md", "py.typed"],
        "instag": ["weights/*.safetensors", "weights/*.md"],
    },
    install_requires=CORE,
    extras_require={
        "preprocess": PREPROCESS,
        "gpu": GPU,
        "hf": HUGGINGFACE,
        "dev": DEV,
        "all": PREPROCESS + HUGGINGFACE + DEV,
    },
    entry_points={"console_scripts": ["instag=instag.cli:console"]},
)
