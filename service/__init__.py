"""Atelier: a self-hosted service for style-personalised images."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("atelier-style")
except PackageNotFoundError:  # run from its source, as `make gpu` is on a machine without a network
    __version__ = "not installed"
