"""One trained PyTorch model, served as many: the Python API.

    import paretoserve as ps

    catalog = ps.build("recipes.yaml")
    catalog["int8"].report
    scores = ps.load("catalog", "int8")(images)

Importing this package imports neither torch nor onnxruntime nor ray.
"""

from importlib.metadata import version

from paretoserve.api import BuildFailed, Catalog, Model, Variant, build, load, open_catalog

__version__ = version("paretoserve")

__all__ = [
    "BuildFailed",
    "Catalog",
    "Model",
    "Variant",
    "__version__",
    "build",
    "load",
    "open_catalog",
]
