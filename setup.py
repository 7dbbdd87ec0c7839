"""Installs ``ultravid``; the shipped configs and the tools are part of it as ``ultravid/configs_py`` and ``ultravid/tools``."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
CONFIGS = sorted(
    str(p.relative_to(HERE / "configs_py")) for p in (HERE / "configs_py").rglob("*") if p.suffix in {".py", ".yaml"}
)

setup(
    name="ultravid",
    version="0.1.0",
    description="Train, evaluate and run detectors of lesions in ultrasound video",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    license_files=["LICENSE", "THIRD_PARTY_NOTICES.md"],
    python_requires=">=3.11",
    packages=[*find_packages(include=["ultravid", "ultravid.*"]), "ultravid.configs_py", "ultravid.tools"],
    package_dir={"ultravid.configs_py": "configs_py", "ultravid.tools": "tools"},
    entry_points={"console_scripts": ["ultravid = ultravid.cli:main"]},
    package_data={
        "ultravid.configs_py": CONFIGS,
        "ultravid": ["py.typed"],
        "ultravid.serving": ["page/static/*"],
    },
    install_requires=[
        # The exact versions that the two commands install stand in requirements.lock.
        "torch>=2.9",
        "torchvision>=0.24",
        "fvcore>=0.1.5.post20221221",
        "iopath>=0.1.10",  # fvcore's
        "hydra-core>=1.3.2",
        "omegaconf>=2.3",
        "tensorboard>=2.16",
        "cloudpickle>=3.0",
        "numpy>=2.1",
        "scipy>=1.14",
        "opencv-python-headless>=4.11",
        "pillow>=11.0",  # compressed TIFF
        "simplejpeg>=1.9",
        "av>=14.0",  # movies
        "pydicom>=3.0",
        "pylibjpeg>=2.0",  # pydicom's decoders, and those it calls
        "pylibjpeg-openjpeg>=2.4",
        "pylibjpeg-rle>=2.1",
        "defusedxml>=0.7.1",
        "PyYAML>=6.0.1",
        "rich>=13.7",
        "tabulate>=0.9",
    ],
    extras_require={
        "wandb": ["wandb>=0.19"],
        "timm": ["timm>=1.0.9"],  # backbones: modeling.TimmBackbone
        "serve": ["fastapi>=0.115", "uvicorn>=0.32", "websockets>=13", "python-multipart>=0.0.12"],  # tools/serve.py
        "dicom-sr": ["highdicom>=0.25"],  # structured reports and secondary captures of tools/predict.py
        "onnx": ["onnx>=1.17", "onnxscript>=0.3", "onnxruntime>=1.20"],  # tools/export.py --format onnx
        "search": ["optuna>=4.2"],  # tools/experiment.py --search optuna
        "s3": ["boto3>=1.34"],  # s3:// addresses, by iopath
        "mlflow": ["mlflow-skinny>=3.1", "sqlalchemy>=2", "alembic>=1.13"],  # the two are for its sqlite store
        # Lossless JPEG in DICOM. Apart, for it is under the GPL; baseline JPEG needs it not.
        "lossless-jpeg": ["pylibjpeg-libjpeg>=2.3"],
        "bench": [  # what benchmarks/config.py and benchmarks/engine.py compare with; detectron2 is not on PyPI
            *("hydra-zen>=0.13", "fiddle[flags]>=0.3"),
            *(
                "lightning>=2.5",
                "accelerate>=1.10",
                "mmengine>=0.10.7",
                "setuptools<81",
            ),  # mmengine imports pkg_resources
        ],
        "docs": ["zensical>=0.0.73", "mkdocs-material>=9.7", "mkdocstrings-python>=2"],  # `make docs`
        "dev": [
            "pytest>=9",
            "pytest-xdist>=3.8",
            "hypothesis>=6.100",
            "ruff>=0.12",
            "mypy>=1.15",
            "import-linter>=2.3",
            "pycocotools>=2.0.8",
            "httpx>=0.27",  # FastAPI's test client
            "jsonschema>=4.21",  # validates what tools/config_schema.py writes
            "playwright>=1.49",  # drives a Chromium that is installed
            "types-defusedxml>=0.7",
            "types-PyYAML>=6.0.12",
            "types-tabulate>=0.9",
        ],
    },
)
