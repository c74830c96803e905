"""The suite for a GPU, its parts made up: what it runs first, and what it concludes."""

import json
from pathlib import Path

import jax
import pytest

from benchmarks import cell_kernel, depth, gpu_suite, gpu_verdict, kernel_times, memory, populations, speed

PDL = "--xla_gpu_enable_pdl=true"


def part(name, *rows, status="done", **facts):
    """A part as in suite.json."""
    return {"name": name, "status": status, "seconds": 35.0, "results": {"rows": [*rows]} if rows else None, **facts}


def timed(size="a", **times):
    """Rows of a size, by contender, with what every command writes of them."""
    names = {name.replace("_", "-"): ms for name, ms in times.items()}
    xla = [ms for name, ms in names.items() if name.startswith("xla")]
    facts = {"size": size, "precision": "default", "pass": "training", "compile_seconds": 4.0}
    return [
        {**facts, "contender": name, "median_ms": ms, "ratio_to_xla": ms / min(xla) if xla else None}
        for name, ms in names.items()
    ]


def complete():
    """All parts that the last three lines are made of, by name; the kernel is right and faster."""
    parts = [
        part("kernel-check", {"check": "2d", "distance": 1e-7}, {"check": "3d", "distance": 1e-6}),
        part("kernel-depth", {"model": "2d-mosaic", "depth": 10, "median_ms": 1.0}),
        part("kernel-10x10", *timed("memorization-10", xla_8=5.0, mosaic_8=3.0, floor=2.5)),
        part("unroll", *timed(xla_1=2.0, mosaic_1=1.9, xla_3=1.5, mosaic_3=0.9, xla_8=1.4, mosaic_8=0.7)),
        part("kernel-3x3", *timed("d", xla_8=12.0, mosaic_8=6.0)),
        part("flags-none", *timed(xla=1.5, mosaic=0.8), xla_flags=""),
        part("flags-graph", status="skipped", error="needs jax 0.12"),
        part("flags-pdl", *timed(xla=1.48, mosaic=0.6), xla_flags=PDL),
    ]
    return {each["name"]: each for each in parts}


def verdict(parts, platform="gpu"):
    lines = gpu_verdict.verdict(list(parts.values()), platform, "H100")
    assert len(lines) == 3
    assert not any("\n" in line for line in lines)
    return lines


def test_three_lines():
    kernel, unroll, flags = verdict(complete())
    ratios = "it takes 0.50 to 0.60 of xla's time (most at memorization-10 default training)"
    assert kernel == f"kernel: None on H100 should choose mosaic: {ratios}"
    times = ", ".join(f"{n} {ms} ms and 4.0 s to compile" for n, ms in ((8, "0.700"), (3, "0.900"), (1, "1.90")))
    assert unroll == f"unroll: None on H100 should choose 8: mosaic at size a: {times}"
    assert flags == (
        f"flags: XLA_FLAGS on H100 should have {PDL}: mosaic at size a: pdl 0.600 ms, none 0.800 ms; "
        "pdl takes 0.75 of the time without; flags-graph was skipped: needs jax 0.12"
    )


def test_a_kernel_that_fails_a_check_is_not_chosen():
    """Nor are the other two choices made for it."""
    parts = complete()
    wrong = {"check": "3d", "error": "d['xs'] is off by 0.1 of its norm"}
    error = "None should choose xla on H100: failed here: check 3d"  # the command's last line
    parts["kernel-check"] = part("kernel-check", wrong, status="failed", error=error)
    kernel, unroll, flags = verdict(parts)
    assert kernel == "kernel: None on H100 should choose xla: failed here: check 3d"
    assert unroll.startswith("unroll: None on H100 should choose 8: xla at size a: 8 1.40 ms and")
    # 0.987 of the time: less than what differs from process to process.
    assert flags.startswith("flags: XLA_FLAGS on H100 should have nothing added: xla at size a: pdl 1.48 ms")


@pytest.mark.parametrize(
    ("name", "row", "where"),
    [
        ("kernel-depth", {"model": "2d-mosaic", "depth": 10, "error": "Mismatch: off"}, "check 2d-mosaic with L=10"),
        ("kernel-3x3", {"contender": "mosaic-8", "size": "d", "error": "Mismatch: off"}, "mosaic-8 at d"),
    ],
)
def test_a_kernel_that_is_wrong_where_it_is_timed_is_not_chosen(name, row, where):
    kernel, *_ = verdict({**complete(), name: part(name, row, status="failed", error="last line")})
    assert kernel == f"kernel: None on H100 should choose xla: failed here: {where}"


def test_what_xla_fails_at_does_not_speak_against_the_kernel():
    parts = complete()
    parts["kernel-3x3"]["results"]["rows"].append({"contender": "floor", "size": "d", "error": "no"})
    assert verdict(parts)[0].startswith("kernel: None on H100 should choose mosaic: ")


def test_a_slower_kernel_is_not_chosen():
    parts = {**complete(), "kernel-3x3": part("kernel-3x3", *timed("d", xla_8=6.0, mosaic_8=6.6))}
    assert verdict(parts)[0] == (
        "kernel: None on H100 should choose xla: mosaic takes 0.50 to 1.10 of xla's time (most at d default training)"
    )


CUT = part("kernel-check", {"check": "2d", "distance": 1e-7}, status="cut off")
CRASHED = part("kernel-check", {"check": "2d", "distance": 1e-7}, status="failed", error="Segmentation fault")


@pytest.mark.parametrize(
    ("check", "reason"),
    [
        (None, "kernel-check was not run"),
        (part("kernel-check", status="skipped", error="3 s were left"), "kernel-check was skipped: 3 s were left"),
        (part("kernel-check", status="failed", error="error: no"), "kernel-check failed: error: no"),
        (CRASHED, "kernel-check failed: Segmentation fault"),
        (CUT, "kernel-check was cut off after 35 s"),
    ],
)
def test_a_kernel_whose_checks_did_not_finish_is_not_chosen(check, reason):
    parts = complete()
    del parts["kernel-check"]
    kernel, unroll, _ = verdict(parts if check is None else {**parts, "kernel-check": check})
    assert kernel.startswith("kernel: not measured: ")
    assert reason in kernel
    assert "should choose 8: xla at size a" in unroll


def test_what_was_not_measured():
    kernel, unroll, flags = verdict({})
    assert kernel.startswith("kernel: not measured: the kernel has not been timed on a GPU here; kernel-check was not")
    assert unroll == "unroll: not measured: unroll was not run"
    assert flags == "flags: not measured: flags-none was not run"

    parts = complete()
    parts["unroll"] = part("unroll", status="failed", error="RuntimeError: no memory")
    parts["flags-none"] = part("flags-none", status="cut off")
    kernel, unroll, flags = verdict(parts)
    assert kernel.startswith("kernel: None on H100 should choose mosaic: it takes 0.50 to 0.60")
    assert kernel.endswith("; unroll failed: RuntimeError: no memory")
    assert unroll == "unroll: not measured: unroll failed: RuntimeError: no memory"
    assert flags.startswith("flags: not measured: flags-none was cut off after 35 s; flags-graph was skipped")

    failing = {"size": "a", "contender": "mosaic", "error": "XlaRuntimeError: no"}
    parts = {**complete(), "flags-none": part("flags-none", failing, status="failed", xla_flags="")}
    assert "mosaic in flags-none: XlaRuntimeError: no" in verdict(parts)[2]
    parts = {**complete(), "unroll": part("unroll", *timed(xla_8=1.4, mosaic_8=0.7))}
    assert verdict(parts)[1] == "unroll: not measured: mosaic was timed with unroll=8 alone"
    parts = {**complete(), "unroll": part("unroll", *timed(floor=0.5))}
    assert verdict(parts)[1] == "unroll: not measured: mosaic was not timed"
    parts = {name: each for name, each in complete().items() if name in ("flags-none", "kernel-check")}
    assert verdict(parts)[2] == "flags: not measured: xla was timed in flags-none alone"


def test_without_a_device_for_the_kernel():
    rows = [{"check": "2d", "unavailable": "the kernels need jax 0.11 or later, this is jax 0.10.2"}]
    kernel, *_ = verdict({"kernel-check": part("kernel-check", *rows)})
    assert kernel.startswith("kernel: None on H100 should choose xla: the kernel cannot run here: the kernels need jax")
    assert verdict(complete(), "cpu")[0] == "kernel: not measured: the kernel has not been timed on a GPU here"


def test_the_suite_ends_with_the_three_lines(tmp_path, monkeypatch, capsys):
    """Also in its file, and without asking for the device itself, which the parts need."""
    names, results = [*complete()], {name: each["results"] for name, each in complete().items()}
    order = [name for name in gpu_suite.PARTS if name in names and name != "flags-graph"]

    def execute(command, flags, log, seconds):
        Path(command[-1]).write_text(json.dumps(results[order.pop(0)]))
        return "done", "printed"

    monkeypatch.setattr(gpu_suite, "probe", lambda: {"platform": "gpu", "device_kind": "H100", "jax": "0.11.2"})
    monkeypatch.setattr(gpu_suite, "execute", execute)
    monkeypatch.setattr(jax, "devices", lambda: pytest.fail("the GPU was taken"))
    monkeypatch.delenv("XLA_FLAGS")
    in_order = [name for name in gpu_suite.PARTS if name in names]
    assert gpu_suite.main(["--out", str(tmp_path), "--parts", *in_order]) == 0
    *_, suite, empty, kernel, unroll, flags = capsys.readouterr().out.splitlines()
    assert (suite, empty) == (str(tmp_path / "suite.json"), "")
    assert [kernel, unroll, flags] == verdict(complete())
    assert json.loads((tmp_path / "suite.json").read_text())["verdict"] == [kernel, unroll, flags]


def test_what_answers_the_open_questions_comes_first():
    """Correctness, depth, and the largest size in 180 seconds; all that is concluded in 500."""
    parts = list(gpu_suite.PARTS.values())
    options = [parse(part) for part in parts]
    check, deep, largest = options[:3]
    assert (check.parts, check.models) == (["checks"], list(cell_kernel.MODELS))
    assert {*deep.models} == {"2d-mosaic", "wavefront-shared", "cudnn"}
    assert ({*deep.depths}, deep.precision, deep.passes) == ({1, 10}, ["default"], ["training"])
    assert (largest.parts, largest.sizes, largest.precision) == (["times"], ["memorization-10"], ["default"])
    assert sum(part.seconds for part in parts[:3]) <= 180
    needed = {gpu_verdict.CHECKS, gpu_verdict.DEPTH, *gpu_verdict.TIMES, *(f"flags-{name}" for name in gpu_suite.FLAGS)}
    first = parts[: len(needed)]
    assert {part.name for part in first} == needed
    assert sum(part.seconds for part in first) <= 500
    assert gpu_verdict.NO_FLAGS in needed
    for part, each in zip(parts, options, strict=True):
        if part.name.startswith(gpu_verdict.FLAGS):
            assert each.contenders == ["xla", "mosaic"]
    times = [each for part, each in zip(parts, options, strict=True) if part.name in gpu_verdict.TIMES]
    assert {size for each in times for size in each.sizes} == {"a", "d", "memorization-10"}
    assert len(parse(gpu_suite.PARTS[gpu_verdict.UNROLL]).unroll) > 1


def parse(part, smoke=False):
    """The options of a part, as its command reads them."""
    modules = (speed, depth, memory, kernel_times, populations, cell_kernel)
    parsers = {module.MODULE.rpartition(".")[2]: module.parse for module in modules}
    return parsers[part.module](part.command(Path("part.json"), smoke)[3:])


def test_options_of_the_suite():
    """Every part's options, with and without --smoke, are some that its command knows."""
    for each in gpu_suite.PARTS.values():
        for smoke in (False, True):
            assert parse(each, smoke).out == Path("part.json")


def test_the_suite_refuses_a_machine_without_a_gpu(tmp_path, capsys):
    assert gpu_suite.main(["--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error == "error: this is a cpu and no GPU: --smoke tries the suite here\n"


@pytest.mark.slow
def test_gpu_suite(tmp_path, monkeypatch, capsys):
    """A part that works, one that fails, one that takes too long, and one for which no time is left."""
    parts = (
        gpu_suite.PARTS["flags-pdl"],
        gpu_suite.Part("fails", "speed", "--no-such-option", 60),
        gpu_suite.Part("slow", "memory", "", 0.1),
        gpu_suite.Part("late", "memory", "", 60),
    )
    monkeypatch.setattr(gpu_suite, "PARTS", {part.name: part for part in parts})
    run = gpu_suite.run
    monkeypatch.setattr(
        gpu_suite, "run", lambda part, folder, smoke, left: run(part, folder, smoke, (part.name != "late") * left)
    )
    assert gpu_suite.main(["--out", str(tmp_path), "--smoke"]) == 1
    suite = json.loads((tmp_path / "suite.json").read_text())
    assert suite["environment"]["platform"] == "cpu"
    assert [part["status"] for part in suite["parts"]] == ["done", "failed", "cut off", "skipped"]
    assert suite["parts"][1]["error"] == "error: unrecognized arguments: --no-such-option"
    assert suite["parts"][3]["error"] == "0 s were left"
    results = suite["parts"][0]["results"]
    assert {row["contender"] for row in results["rows"]} == {"auto", "floor"}
    assert results["environment"]["xla_flags"] == suite["parts"][0]["xla_flags"]
    assert PDL in results["environment"]["xla_flags"]
    assert "floor at" in (tmp_path / "suite.log").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["suite.json", "suite.log"]
    lines = capsys.readouterr().out.splitlines()[-3:]
    assert [line.partition(": not measured: ")[0] for line in lines] == ["kernel", "unroll", "flags"]
