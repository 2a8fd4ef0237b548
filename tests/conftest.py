"""Setup of all tests: environment, CPU, folder of measurements, emulated Metal."""

import signal

import mlx.core as mx
import pytest

from tests.equipment import environment

environment.isolate()  # huggingface_hub reads the environment at import
mx.set_default_device(mx.cpu)

from dflash_mlx import device, load  # noqa: E402
from dflash_mlx.metal import kernel  # noqa: E402
from dflash_mlx.speculation.costs import ASSUMED  # noqa: E402
from dflash_mlx.tuning import calibrate  # noqa: E402
from tests import emulator  # noqa: E402

pytest_plugins = ["tests.equipment.full"]

# A shell makes background processes ignore SIGINT, which tests send.
signal.signal(signal.SIGINT, signal.default_int_handler)

# mx.device_info() of an M3 Max with 64 GB.
APPLE = {
    "architecture": "applegpu_g15s",
    "device_name": "Apple M3 Max",
    "max_buffer_length": 38_654_705_664,
    "max_recommended_working_set_size": 51_539_607_552,
    "memory_size": 68_719_476_736,
    "resource_limit": 499_000,
}


@pytest.fixture(autouse=True, scope="session")
def keep_measurements_apart(tmp_path_factory):
    """Keep measurements in a home folder of this session, also in started processes.

    The costs of the embedded pair are measured at the start.
    """
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        load("tiny")
        yield


@pytest.fixture
def metal(monkeypatch):
    """Make Metal available: mx.fast.metal_kernel runs on the emulator.

    All other operations run on the CPU.
    """
    if reason := emulator.missing_requirement():
        pytest.skip(reason)
    kernel.compiled.cache_clear()
    monkeypatch.setattr(mx.fast, "metal_kernel", emulator.metal_kernel)
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    monkeypatch.setattr(device, "runs_on_metal", lambda: True)
    monkeypatch.setattr(mx, "device_info", lambda *device: dict(APPLE))
    monkeypatch.setattr(mx, "set_wired_limit", lambda limit: 0)
    # The emulator's speed is not a GPU's.
    monkeypatch.setattr(calibrate, "measure", lambda pair: ASSUMED)
    yield
    kernel.compiled.cache_clear()


@pytest.fixture
def uncalibrated(monkeypatch):
    """Load pairs without measuring the costs of their passes, which takes seconds."""
    monkeypatch.setattr(calibrate, "measure", lambda pair: ASSUMED)
