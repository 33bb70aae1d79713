"""FP32 ONNX to FP16 or INT8 ONNX whose precision stands in the graph, where any runtime reads it."""
