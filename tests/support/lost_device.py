"""A server whose accelerator fails for good at one prompt, or whose model thread ends there:
python -m tests.support.lost_device DATA_DIR (device | thread).
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from service.server import run_server
from service.settings import Settings
from tests.support.gated_generator import FailingGenerator
from tests.support.tiny import tiny_generator


class EndedThread(FailingGenerator):
    ERROR = SystemExit("the thread ends")


class LostDevice(FailingGenerator):
    ERROR = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")


if __name__ == "__main__":
    settings = Settings(data_dir=Path(sys.argv[1]), port=0)
    generator = {"device": LostDevice, "thread": EndedThread}[sys.argv[2]]
    sys.exit(run_server(settings, generator(tiny_generator().backbone)))
