"""The HTTP surface: parse, submit, respond; no logic."""
