"""Atelier: a self-hosted service for style-personalised images."""

from importlib.metadata import version

__version__ = version("atelier-style")
