"""The science: post-training quantization of diffusion denoisers."""
