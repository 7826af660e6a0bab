"""nerfstudio-ext: photos in, a 3D scene out, walk through it in the browser."""

__version__ = "0.1.0"
