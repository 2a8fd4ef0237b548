"""Shared set-up: the CPU, and imports of the helpers beside the tests."""

import sys
from pathlib import Path

import mlx.core as mx

sys.path.insert(0, str(Path(__file__).parent))
mx.set_default_device(mx.cpu)
