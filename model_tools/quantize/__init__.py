"""FP32 ONNX to FP16 or INT8 ONNX whose precision stands in the graph, as any runtime and TensorRT 11 need it."""
