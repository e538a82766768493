"""Evaluation: parity with reference numbers, and how well the method works."""
