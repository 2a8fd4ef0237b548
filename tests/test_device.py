"""Thermal and memory pressure, from made-up output of the system's commands."""

from dflash_mlx import device

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
