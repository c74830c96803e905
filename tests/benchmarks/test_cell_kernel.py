"""The command for the GPU's cell kernel: what it concludes, and what it reads from the assembler."""

import json

import jax
import pytest

from benchmarks import cell_kernel, pallas, ptxas
from benchmarks.tasks import PRECISIONS, SIZES, Task
from tlstm_jax.fused import coverage

PTXAS = """\
ptxas input.ptx, line 270; info    : Potential out of bound access
ptxas info    : Compiling entry function 'tlstm_forward_mosaic_gpu_kernel' for 'sm_90a'
ptxas info    : Function properties for tlstm_forward_mosaic_gpu_kernel
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 36 registers, used 2 barriers, 1 bytes smem
ptxas info    : Compiling entry function 'tlstm_backward_mosaic_gpu_kernel' for 'sm_90a'
    8 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 255 registers, used 2 barriers, 1 bytes smem
"""


def test_registers_and_spills():
    forward, backward = ptxas.resources(PTXAS)
    assert forward == ("tlstm_forward", "sm_90a", 36, 0)
    assert str(backward) == "tlstm_backward (sm_90a): 255 registers, 12 bytes spilled"


def test_what_is_written_past_python(capfd):
    """As libraries do, and nothing else is lost."""
    import os

    print("before", flush=True)
    with ptxas.reported() as found:
        os.write(1, PTXAS.encode())
    print("after", flush=True)
    assert [kernel.registers for kernel in found] == [36, 255]
    assert capfd.readouterr().out == "before\nafter\n"


def timed(contender, ratio, size="a"):
    return {
        "contender": contender,
        "size": size,
        "precision": "highest",
        "pass": "training",
        "ratio_to_xla": ratio,
    }


RIGHT = {"check": "2d", "distance": 1e-7}


def test_the_conclusion():
    faster = [RIGHT, timed("xla-1", 1.2), timed("xla-8", 1.0), timed("mosaic-1", 1.1), timed("mosaic-8", 0.5)]
    assert cell_kernel.verdict(faster, "cpu") == (None, "the kernel has not been timed on a GPU here")
    assert cell_kernel.verdict([RIGHT], "gpu") == (None, "the kernel has not been timed on a GPU here")
    choice, reason = cell_kernel.verdict(faster, "gpu")
    assert (choice, reason[:36]) == ("mosaic", "it takes 0.50 to 0.50 of xla's time ")
    choice, reason = cell_kernel.verdict([*faster, timed("mosaic-8", 1.3, "d")], "gpu")
    assert choice == "xla"
    assert reason == "mosaic takes 0.50 to 1.30 of xla's time (most at d highest training)"
    choice, reason = cell_kernel.verdict(faster[1:], "gpu")
    assert choice is None
    assert reason.endswith("but was not checked")
    wrong = [*faster, {"check": "3d", "error": "off"}, {**timed("mosaic-8", None, "d"), "error": "no memory"}]
    assert cell_kernel.verdict(wrong, "gpu") == ("xla", "failed here: check 3d, mosaic-8 at d")
    others = [*faster, {**timed("floor", None), "error": "no memory"}]
    assert cell_kernel.verdict(others, "gpu").choice == "mosaic"
    refused = [{"check": "2d", "unavailable": "too old"}, {**timed("mosaic-8", None), "unavailable": "too old"}]
    assert cell_kernel.verdict(refused, "gpu") == ("xla", "the kernel cannot run here: too old")


def test_checks_and_times_can_run_alone(tmp_path, capsys, monkeypatch):
    """Each check is in the file as soon as it is done, since a command may be stopped during the next."""
    out, written = tmp_path / "file.json", []

    def check(name):
        written.append(json.loads(out.read_text())["rows"] if out.exists() else [])
        return {"check": name, "distance": 1e-7}

    monkeypatch.setattr(cell_kernel, "check", check)
    monkeypatch.setattr(cell_kernel, "race", lambda entries, limits, queue: [timed(name, None) for name in entries])
    arguments = ["--models", "2d", "3d", "--sizes", "tiny", "--precision", "highest", "--passes", "training"]

    def rows(*parts):
        assert cell_kernel.main([*arguments, "--parts", *parts, "--out", str(out)]) == 0
        return [row.get("check") or row["contender"] for row in json.loads(out.read_text())["rows"]]

    assert rows("checks") == ["2d", "3d"]
    assert [len(each) for each in written] == [0, 1]
    times = ["xla-1", "mosaic-1", "xla-8", "mosaic-8", "floor"]
    monkeypatch.setattr(cell_kernel, "outcome", lambda row: row.get("error") or "not timed")
    assert rows("times") == times
    assert rows("times", "checks") == ["2d", "3d", *times]
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "None should choose xla on cpu: the kernel has not been timed on a GPU here"


def test_options(tmp_path, capsys):
    options = cell_kernel.parse(["--quick", "--out", str(tmp_path / "file.json")])
    assert options.out == tmp_path / "file.json"
    assert (options.sizes, options.unroll) == (["tiny"], [1])
    with pytest.raises(SystemExit):
        cell_kernel.parse(["--unroll", "0"])
    assert "--unroll" in capsys.readouterr().err


def test_where_it_runs(monkeypatch):
    task = Task(SIZES["a"], PRECISIONS["highest"], training=True)
    monkeypatch.setattr(jax, "__version__", "0.10.2")
    assert "jax 0.11" in pallas.unavailable(task)
    monkeypatch.setattr(jax, "__version__", "0.11.0")
    assert pallas.unavailable(task) == "no GPU here"
    monkeypatch.setattr(coverage, "compute_capability", lambda: 8.0)
    assert "9.0" in pallas.unavailable(task)
    monkeypatch.setattr(coverage, "compute_capability", lambda: coverage.LEAST_CAPABILITY)
    assert pallas.unavailable(task) is None
    assert "512" in pallas.unavailable(Task(SIZES["wikipedia-2"], PRECISIONS["highest"], training=True))
