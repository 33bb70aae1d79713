"""From a TensorFlow model to a measured GPU inference service."""
