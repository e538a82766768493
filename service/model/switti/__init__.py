"""Switti: the second backbone. A scale-wise transformer over a vector-quantised image tokenizer."""
