"""The command for the GPU's cell kernel: what it concludes, and what it reads from the assembler."""

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


def test_the_conclusion(monkeypatch):
    class Gpu:
        platform, device_kind = "gpu", "H100"

    faster = [timed("xla-1", 1.2), timed("xla-8", 1.0), timed("mosaic-1", 1.1), timed("mosaic-8", 0.5)]
    assert "not been timed on a GPU" in cell_kernel.verdict(faster)
    monkeypatch.setattr(jax, "devices", lambda: [Gpu])
    assert cell_kernel.verdict(faster).startswith("None should choose mosaic on H100: mosaic takes 0.50 to 0.50")
    slower = [*faster, timed("mosaic-8", 1.3, "d")]
    assert cell_kernel.verdict(slower).startswith("None should choose xla on H100: mosaic takes 0.50 to 1.30")
    assert "(most at d highest training)" in cell_kernel.verdict(slower)
    wrong = [*faster, {"check": "3d", "error": "off"}]
    assert cell_kernel.verdict(wrong) == "None should choose xla: failed here: 3d"


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
