"""A server whose accelerator fails for good at one prompt: python -m tests.support.lost_device DATA_DIR."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from service.server import run_server
from service.settings import Settings
from tests.support.gated_generator import FailingGenerator
from tests.support.tiny import tiny_generator


class LostDevice(FailingGenerator):
    ERROR = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")


if __name__ == "__main__":
    settings = Settings(data_dir=Path(sys.argv[1]), port=0)
    sys.exit(run_server(settings, LostDevice(tiny_generator().backbone)))
