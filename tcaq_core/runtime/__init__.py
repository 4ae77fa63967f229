"""How a quantized layer is stored and executed."""
