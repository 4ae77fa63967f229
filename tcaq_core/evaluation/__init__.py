"""How far a quantized model is from its full-precision self."""
