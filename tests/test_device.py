"""Thermal and memory pressure, from made-up output of the system's commands; facts and
limits of a Mac."""

import sys
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import pytest

from dflash_mlx import Pair, device, load, stream_generate
from dflash_mlx.device import PAGE, WiredMemory, wired_bytes
from dflash_mlx.metal import verdicts
from dflash_mlx.store import cache_folder
from dflash_mlx.terminal import report
from dflash_mlx.terminal.chat import history
from tests.equipment.mac import Mac
from tests.equipment.tiny import make_drafter, make_model

MAC = {
    "notifyutil": "com.apple.system.thermalpressurelevel 2\n",
    "pmset": "\tCPU_Scheduler_Limit \t= 100\n\tCPU_Speed_Limit \t= 71\n",
    "sysctl -n kern.memorystatus_vm_pressure_level": "2\n",
    "sysctl -n vm.swapusage": "total = 3072.00M  used = 1021.50M  free = 2050.50M\n",
}
COOL = {
    "notifyutil": "com.apple.system.thermalpressurelevel 0\n",
    "pmset": "Note: No thermal warning level has been recorded\n",
    "sysctl -n kern.memorystatus_vm_pressure_level": "1\n",
    "sysctl -n vm.swapusage": "total = 0.00M  used = 0.00M  free = 0.00M\n",
}


def pressure_on_a_mac(monkeypatch, outputs):
    def run_command(*command):
        line = " ".join(command)
        return next(text for start, text in outputs.items() if line.startswith(start))

    monkeypatch.setattr(device.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(device, "run_command", run_command)
    monkeypatch.setattr(device, "LINUX_THROTTLED", "none/such")
    return device.pressure()


def test_pressure_on_a_mac(monkeypatch):
    cool = pressure_on_a_mac(monkeypatch, COOL)
    hot = pressure_on_a_mac(monkeypatch, MAC)
    assert cool == {"thermal_pressure": 0, "memory_pressure": 1, "swap_mb": 0}
    assert hot == {
        "thermal_pressure": 2,
        "cpu_speed_limit": 71,
        "memory_pressure": 2,
        "swap_mb": 1021.5,
    }
    assert device.pressure_warnings(cool, cool) == []
    lines = device.pressure_warnings(cool, hot)
    assert len(lines) == 4 and "level 2 of 4" in lines[0] and "71 %" in lines[1]
    assert "memory" in lines[2] and lines[3].startswith("102")
    assert device.pressure_warnings(hot, cool)[0] == lines[0]
    assert device.pressure_warnings(hot, hot) == lines[:3]


def test_pressure_on_linux(monkeypatch, tmp_path):
    monkeypatch.setattr(device.platform, "system", lambda: "Linux")
    for name, waited in (("cpu", 25.5), ("memory", 0.0)):
        (tmp_path / name).write_text(
            f"some avg10={waited} avg60=1.00 total=1\nfull x\n"
        )
    monkeypatch.setattr(device, "LINUX_CPU", str(tmp_path / "cpu"))
    monkeypatch.setattr(device, "LINUX_MEMORY", str(tmp_path / "memory"))
    monkeypatch.setattr(device, "LINUX_THROTTLED", f"{tmp_path}/count*".lstrip("/"))
    (tmp_path / "count0").write_text("3\n")
    (tmp_path / "count1").write_text("4\n")
    found = device.pressure()
    assert found == {"cpu_waiting": 25.5, "memory_waiting": 0, "throttled": 7}
    assert len(device.pressure_warnings(found, found)) == 1
    calm = found | {"cpu_waiting": 0.0}
    assert device.pressure_warnings(calm, found) == []
    assert (
        "throttled 2 times"
        in device.pressure_warnings(calm, calm | {"throttled": 9})[0]
    )
    assert device.pressure_warnings(calm, calm | {"memory_waiting": 5.0})
    assert device.pressure_warnings({}, {}) == []


def test_missing_commands_and_files_give_no_text():
    assert device.run_command("no-such-command-of-any-machine") == ""
    assert device.run_command("echo", "hi") == "hi\n"
    assert device.read_text("/no/such/file") == ""


def test_a_macs_facts_are_the_gpus_whatever_the_default_device(mac):
    """mx.device_info() describes the default device; the CPU's has no memory sizes."""
    assert "memory_size" not in mx.device_info() and mx.device_info(mx.gpu)
    assert device.memory_bytes() == mac.gpu["max_recommended_working_set_size"]
    assert device.native_bfloat16() and device.processor() == "Apple M3 Max"
    assert "Apple M3 Max, applegpu_g15s" in verdicts.machine()
    assert "64.0 GiB" in report.metal() and report.examine()["memory"].startswith("48")


def test_a_model_loads_on_a_mac_whose_default_device_is_the_cpu(mac):
    pair, _ = load("tiny")
    assert pair.drafter is not None and not pair.kernels and not mac.limits


@pytest.mark.parametrize(
    "chip, native", [("g13g", False), ("g14s", False), ("g15g", True), ("g17p", True)]
)
def test_the_gpus_of_m1_and_m2_emulate_bfloat16(monkeypatch, chip, native):
    mac = Mac(architecture=f"applegpu_{chip}").install(monkeypatch)
    assert device.native_bfloat16()  # the default device is the CPU
    mac.use_gpu(monkeypatch)
    assert device.native_bfloat16() == native


def test_kernels_run_where_the_default_device_is_a_metal_gpu(mac, monkeypatch):
    assert not device.runs_on_metal()
    mac.use_gpu(monkeypatch)
    assert device.runs_on_metal()
    monkeypatch.setattr(mx.metal, "is_available", lambda: False)
    assert not device.runs_on_metal()


def test_a_macs_files_lie_in_its_library(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    library = Path.home() / "Library"
    assert cache_folder() == library / "Caches/dflash-mlx"
    assert history.data_folder() == library / "Application Support/dflash-mlx"


def test_a_mac_is_described_without_linuxs_calls(mac, monkeypatch):
    monkeypatch.setattr(device.platform, "system", lambda: "Darwin")
    monkeypatch.delattr(device.os, "sched_getaffinity", raising=False)
    facts = device.describe()
    assert facts["machine"].startswith("Darwin ") and facts["cores"] > 0
    assert (facts["processor"], facts["memory_gib"]) == ("Apple M3 Max", 48.0)


def test_the_wired_limit_that_a_user_set_is_read(monkeypatch):
    monkeypatch.setattr(device.platform, "system", lambda: "Darwin")
    for text, limit in (("20480\n", 20 * device.GIB), ("0\n", None), ("", None)):
        monkeypatch.setattr(device, "run_command", lambda *_, text=text: text)
        assert device.wired_limit() == limit
    assert "weights" in report.wired_limit()


@pytest.fixture
def gpu(mac, monkeypatch):
    """A Mac on which Metal computes, as far as the wired limit is concerned."""
    monkeypatch.setattr(device, "runs_on_metal", lambda: True)
    return mac


def test_the_weights_of_target_and_drafter_are_wired_and_nothing_else(gpu):
    pair = Pair.of(make_model("qwen3"), make_drafter())
    both = wired_bytes(pair.model, pair.drafter)
    bytes_of_both = device.model_bytes(pair.model) + device.model_bytes(pair.drafter)
    assert bytes_of_both <= both and both % PAGE == 0
    assert wired_bytes(pair.model, pair.model, None) < both
    gpu.wired = 123  # set by the program that calls us
    with pair.wired():
        assert gpu.wired == both
    assert gpu.limits == [both, 123]


def test_an_answer_is_wired_until_it_ends(gpu):
    pair, tokenizer = load("tiny", kernels="off")
    answer = stream_generate(pair, tokenizer, "What is 12 + 34?", max_tokens=4)
    next(answer)
    assert gpu.wired == wired_bytes(pair.model, pair.drafter)
    answer.close()
    assert gpu.wired == 0


def test_a_model_larger_than_the_recommended_size_is_wired_in_part(monkeypatch):
    """MLX refuses a larger limit."""
    mac = Mac(max_recommended_working_set_size=PAGE).install(monkeypatch)
    monkeypatch.setattr(device, "runs_on_metal", lambda: True)
    with pytest.raises(ValueError, match="larger than the maximum"):
        mx.set_wired_limit(2 * PAGE)
    with Pair.of(make_model("qwen3")).wired():
        assert mac.wired == PAGE
    assert mac.wired == 0


def test_the_wired_limit_is_set_back_whatever_fails(gpu, monkeypatch):
    def fail(*stream):
        raise RuntimeError("[METAL] Command buffer execution failed: hang")

    wired, model = WiredMemory(), make_model("qwen3")
    with pytest.raises(KeyError), wired.use(model):
        raise KeyError
    assert gpu.wired == 0
    monkeypatch.setattr(mx, "synchronize", fail)
    with pytest.raises(RuntimeError, match="hang"), wired.use(model):
        pass
    assert gpu.wired == 0 and len(gpu.limits) == 4
    monkeypatch.undo()


def test_answers_that_interleave_set_the_wired_limit_back(gpu):
    wired, small, large = WiredMemory(), make_model("qwen3"), make_model("qwen3_moe")
    one, other = wired_bytes(small), wired_bytes(large)
    first, second = wired.use(small), wired.use(large)
    first.__enter__()
    assert gpu.wired == one
    second.__enter__()
    assert gpu.wired == one + other
    first.__exit__(None, None, None)
    assert gpu.wired == one + other  # the other one still computes
    with wired.use(small):
        assert gpu.wired == one + other
    second.__exit__(None, None, None)
    assert gpu.wired == 0


def test_nothing_is_wired_where_the_cpu_computes_or_the_user_says_no(gpu, monkeypatch):
    with replace(Pair.of(make_model("qwen3")), wire=False).wired():
        pass
    monkeypatch.setattr(device, "runs_on_metal", lambda: False)
    with Pair.of(make_model("qwen3")).wired():
        pass
    assert not gpu.limits
