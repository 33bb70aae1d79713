"""From a TensorFlow model to a measured GPU inference service."""

__version__ = "0.1.0"
