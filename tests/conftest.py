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
from tests.equipment.mac import Mac  # noqa: E402

pytest_plugins = ["tests.equipment.full"]

# A shell makes background processes ignore SIGINT, which tests send.
signal.signal(signal.SIGINT, signal.default_int_handler)


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
    """A Mac on which mx.fast.metal_kernel runs on the emulator.

    All other operations run on the CPU, which stays the default device.
    """
    if reason := emulator.missing_requirement():
        pytest.skip(reason)
    kernel.compiled.cache_clear()
    monkeypatch.setattr(mx.fast, "metal_kernel", emulator.metal_kernel)
    mac = Mac().install(monkeypatch)
    monkeypatch.setattr(device, "runs_on_metal", lambda: True)
    # The emulator's speed is not a GPU's.
    monkeypatch.setattr(calibrate, "measure", lambda pair, **_: ASSUMED)
    yield mac
    kernel.compiled.cache_clear()


@pytest.fixture
def mac(monkeypatch):
    """A Mac whose default device is the CPU, without an emulator for kernels."""
    return Mac().install(monkeypatch)


@pytest.fixture
def uncalibrated(monkeypatch):
    """Load pairs without measuring the costs of their passes, which takes seconds."""
    monkeypatch.setattr(calibrate, "measure", lambda pair, **_: ASSUMED)
