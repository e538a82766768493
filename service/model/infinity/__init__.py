"""Infinity, our own implementation: bit-wise scale-wise autoregression (FoundationVision/Infinity)."""
