"""The counter of kernels, on HLO written by hand; compiling for a GPU needs packages that these tests do without."""

import pytest

from benchmarks import gpu_kernels as gk

SCAN = """\
HloModule jit_train, is_scheduled=true, entry_computation_layout={(f32[15,8]{1,0})->f32[15,8]{1,0}}

FileNames
1 "<frozen runpy>"
2 "/somewhere/cell.py"

FunctionNames
1 "step"

FileLocations
1 {file_name_id=1 function_name_id=1 line=7 end_line=7 column=4 end_column=93}
2 {file_name_id=2 function_name_id=1 line=196 end_line=196 column=4 end_column=93}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}


%fused_tanh (p.0: f32[15,8]) -> f32[15,8] {
  %p.0 = f32[15,8]{1,0} parameter(0)
  %dot.1 = f32[15,8]{1,0} dot(%p.0, %p.0), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %tanh.1 = f32[15,8]{1,0} tanh(%dot.1), metadata={op_name="jit(train)/while/body/tanh" stack_frame_id=2}
}

%scan_body (arg: (s32[], f32[15,8], f32[50,15,8])) -> (s32[], f32[15,8], f32[50,15,8]) {
  %arg = (s32[], f32[15,8]{1,0}, f32[50,15,8]{2,1,0:T(8,128)}) parameter(0)
  %i = s32[] get-tuple-element(%arg), index=0
  %h = f32[15,8]{1,0} get-tuple-element(%arg), index=1
  %ys = f32[50,15,8]{2,1,0} get-tuple-element(%arg), index=2
  %gemm.1 = f32[15,8]{1,0} fusion(%h), kind=kCustom, calls=%fused_tanh, metadata={op_name="jit(train)/while/body/dot" \
stack_frame_id=2}, backend_config={"fusion_backend_config":{"kind":"__triton_nested_gemm_fusion"}}
  %blas = (f32[15,8]{1,0}, s8[64]{0}) custom-call(%gemm.1), custom_call_target="__cublas$gemm"
  %gemm.2 = f32[15,8]{1,0} get-tuple-element(%blas), index=0
  %tanh.2 = f32[15,8]{1,0} fusion(%gemm.2), kind=kLoop, calls=%fused_tanh
  %write-start = ((f32[50,15,8]{2,1,0}, s32[]), f32[50,15,8]{2,1,0}, u32[]) fusion-start(%ys, %i), kind=kLoop, \
calls=%fused_tanh
  %write-done = f32[50,15,8]{2,1,0} fusion-done(%write-start)
  %moved = f32[15,8]{1,0} copy(%tanh.2)
  %called = f32[15,8]{1,0} call(%moved), to_apply=%callee
  %chosen = f32[15,8]{1,0} conditional(%i, %called, %called), branch_computations={%cheap, %dear}
  %count = s32[] fusion(%i), kind=kLoop, calls=%fused_tanh
  ROOT %result = (s32[], f32[15,8]{1,0}, f32[50,15,8]{2,1,0}) tuple(%count, %chosen, /*index=2*/%write-done)
}

%callee (p.1: f32[15,8]) -> f32[15,8] {
  %p.1 = f32[15,8]{1,0} parameter(0)
  ROOT %fusion.1 = f32[15,8]{1,0} fusion(%p.1), kind=kLoop, calls=%fused_tanh
}

%cheap (p.2: f32[15,8]) -> f32[15,8] {
  ROOT %p.2 = f32[15,8]{1,0} parameter(0)
}

%dear (p.3: f32[15,8]) -> f32[15,8] {
  %p.3 = f32[15,8]{1,0} parameter(0)
  ROOT %sort.1 = f32[15,8]{1,0} sort(%p.3), dimensions={0}, to_apply=%scan_condition
}

%scan_condition (arg.1: (s32[], f32[15,8], f32[50,15,8])) -> pred[] {
  %arg.1 = (s32[], f32[15,8]{1,0}, f32[50,15,8]{2,1,0}) parameter(0)
  ROOT %less = pred[] fusion(%arg.1), kind=kLoop, calls=%fused_tanh
}

ENTRY %main.9 (x: f32[15,8]) -> f32[15,8] {
  %x = f32[15,8]{1,0} parameter(0), metadata={op_name="x"}
  %zero = s32[] constant(0)
  %i.0 = s32[] copy(%zero)
  %ys.0 = f32[50,15,8]{2,1,0} fusion(), kind=kLoop, calls=%fused_tanh
  %start = (s32[], f32[15,8]{1,0}, f32[50,15,8]{2,1,0}) tuple(%i.0, %x, %ys.0)
  %while.1 = (s32[], f32[15,8]{1,0}, f32[50,15,8]{2,1,0}) while(%start), condition=%scan_condition, body=%scan_body, \
metadata={op_name="jit(train)/while"}, backend_config={"known_trip_count":{"n":"50"},"known_init_step":{"init":"0",\
"step":"1"},"known_induction_variable":{"tuple_index":"0"},"dynamic_variables":[]}
  ROOT %last = f32[15,8]{1,0} get-tuple-element(%while.1), index=1
}
"""
KERNELS = ["gemm.1", "blas", "tanh.2", "write-start", "moved", "fusion.1", "sort.1", "count"]


def the_loop(text, **options):
    (loop,) = gk.Module(text, **options).program.all_loops()
    return loop


def test_what_one_timestep_launches():
    """Asynchronous pairs once, calls and the dearest branch by what they hold, neither a condition nor the free."""
    module = gk.Module(SCAN)
    loop = the_loop(SCAN)
    assert [kernel.name for kernel in loop.body.kernels] == KERNELS
    assert [kernel.name for kernel in module.program.kernels] == ["i.0", "ys.0"]
    assert module.program.launches == 2 + 50 * len(KERNELS)
    assert loop.report() == {
        "name": "while.1",
        "timesteps": 50,
        "kernels_per_timestep": 8,
        "copies_per_timestep": 1,
        "cycles_per_timestep": None,
    }


def test_an_unrolled_loop_makes_several_timesteps_an_iteration():
    """Half the trip count and a doubled body; the other timesteps that there are run outside of the loop."""
    unrolled = SCAN.replace('"n":"50"', '"n":"25"')
    for name in ("gemm.1", "tanh.2"):
        line = next(line for line in SCAN.splitlines(keepends=True) if line.startswith(f"  %{name} "))
        unrolled = unrolled.replace(line, line + line.replace(name, "second_" + name, 1))
    report = the_loop(unrolled, timesteps=51).report()
    assert report["timesteps"] == 50
    assert report["kernels_per_timestep"] == 5
    assert report["copies_per_timestep"] == 0.5


def test_a_loop_in_a_loop():
    """As with remat: both are reported, each without the other, and launches multiply."""
    outer = """\
%outer_body (arg.5: (s32[], f32[15,8], f32[50,15,8])) -> (s32[], f32[15,8], f32[50,15,8]) {
  %arg.5 = (s32[], f32[15,8]{1,0}, f32[50,15,8]{2,1,0}) parameter(0)
  %moved.2 = (s32[], f32[15,8]{1,0}, f32[50,15,8]{2,1,0}) copy(%arg.5)
  ROOT %while.2 = (s32[], f32[15,8]{1,0}, f32[50,15,8]{2,1,0}) while(%moved.2), condition=%scan_condition, \
body=%scan_body, backend_config={"known_trip_count":{"n":"5"}}
}

ENTRY"""
    text = SCAN.replace("body=%scan_body", "body=%outer_body").replace("ENTRY", outer)
    program = gk.Module(text, timesteps=500).program
    found = [(loop.trip_count, loop.steps, len(loop.body.kernels)) for loop in program.all_loops()]
    assert found == [(50, 10, 1), (5, 2, 8)]
    assert program.launches == 2 + 50 * (1 + 5 * 8)


def test_timesteps_that_are_left_over_are_in_no_iteration():
    """50 iterations of 8 timesteps leave 7 of 407 over, but those of 9 would be in iterations."""
    for timesteps, unroll, steps in ((400, 8, 8), (407, 8, 8), (457, 8, 8), (450, 9, 9), (450, None, 9)):
        (loop,) = gk.Module(SCAN, timesteps=timesteps, unroll=unroll).program.all_loops()
        assert (loop.trip_count, loop.steps) == (50, steps)


def test_slices_that_are_kernels_are_copies():
    """Read or written, whatever computes their indices; a fusion that also computes is none."""
    moving = """\
%moving (p.9: f32[50,15,8], p.10: s32[]) -> f32[15,8] {
  %p.9 = f32[50,15,8]{2,1,0} parameter(0)
  %p.10 = s32[] parameter(1)
  %last.1 = s32[] subtract(%p.10, %p.10)
  %slice.1 = f32[1,15,8]{2,1,0} dynamic-slice(%p.9, %last.1, %last.1, %last.1), dynamic_slice_sizes={1,15,8}
  ROOT %bitcast.1 = f32[15,8]{1,0} bitcast(%slice.1)
}

%scan_body"""
    text = SCAN.replace("%scan_body", moving, 1)
    for name in ("write-start", "tanh.2"):
        line = next(line for line in text.splitlines() if line.startswith(f"  %{name} "))
        text = text.replace(line, line.replace("calls=%fused_tanh", "calls=%moving"))
    assert "calls=%moving" in text
    assert the_loop(text).report()["copies_per_timestep"] == 3
    text = text.replace("dynamic-slice(%p.9, %last.1, %last.1, %last.1)", "negate(%p.9)")
    assert the_loop(text).report()["copies_per_timestep"] == 1


def test_unknown_trip_count():
    text = SCAN.replace('"known_trip_count":{"n":"50"},', "")
    assert the_loop(text).report()["timesteps"] is None
    assert gk.Module(text).program.launches is None


def test_tpu():
    """There a trip count stands in the condition only, scalars cost nothing, and buffers are not computed."""
    text = SCAN.replace('"known_trip_count":{"n":"50"},', "").replace("fusion(), kind=kLoop, calls=%fused_tanh", BUFFER)
    text = text.replace("  ROOT %less = pred[] fusion(%arg.1), kind=kLoop, calls=%fused_tanh\n", COMPARE)
    text = text.replace("calls=%fused_tanh", 'calls=%fused_tanh, backend_config={"estimated_cycles":"1000"}')
    loop = the_loop(text, scalars_are_free=True)
    assert [kernel.name for kernel in loop.body.kernels] == KERNELS[:-1]
    assert gk.Module(text, scalars_are_free=True).program.launches == 50 * len(KERNELS[:-1])
    assert loop.report()["cycles_per_timestep"] == 4000


BUFFER = 'custom-call(), custom_call_target="AllocateBuffer"'
COMPARE = """\
  %bound = s32[]{:T(128)} constant(50)
  %i.1 = s32[]{:T(128)} get-tuple-element(%arg.1), index=0
  ROOT %less = pred[]{:T(512)} compare(%i.1, %bound), direction=LT
"""


def test_breakdown():
    """Of a kernel without a name, that of what it computes."""
    module = gk.Module(SCAN)
    lines = [module.describe(kernel) for kernel in the_loop(SCAN).body.kernels]
    assert lines[0] == "fusion __triton_nested_gemm_fusion | f32[15,8] | dot tanh | dot | cell.py:196 | gemm.1"
    assert lines[1] == "custom-call __cublas$gemm | (f32[15,8], s8[64]) |  |  |  | blas"
    assert lines[2] == "fusion Loop | f32[15,8] | dot tanh | tanh | cell.py:196 | tanh.2"
    assert lines[4] == "copy | f32[15,8] |  |  |  | moved"


def test_table():
    result = {"size": "2D M=8 P=2", "implementation": "reference", "pass": "training", "launches": None, "outside": 2}
    result |= {"temp_bytes": 10, "compile_seconds": 0.5, "loops": [the_loop(SCAN).report(), the_loop(SCAN).report()]}
    result["launches_per_timestep"] = 13.56
    assert gk.row(result).split("  ")[0] == "2D M=8 P=2"
    assert "8 [50] + 8 [50]" in gk.row(result)
    assert "1 + 1" in gk.row(result)
    assert " 13.6 " in gk.row(result)
    assert len(gk.HEADER.split()) == 11


@pytest.mark.parametrize(
    "arguments",
    [
        ["--sizes", "100"],
        ["--sizes", "0x3"],
        ["--sizes", "100x-3"],
        ["--sizes"],
        ["--timesteps", "1.5"],
        ["--batch-size", "²"],
        ["--implementations", "quick"],
        ["--passes", "backward"],
        ["--platform", "rocm"],
        ["--dtype", "int8"],
        ["--out"],
        ["--unroll", "0"],
        ["--nonsense"],
    ],
)
def test_bad_options(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        gk.main(arguments)
    assert exit_.value.code == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "error: " in message
    assert arguments[0] in message


def test_defaults_and_sizes():
    options = gk.parse([])
    assert options.sizes == [(100, 10), (400, 7), (100, 5, 5)]
    assert (options.batch_size, options.timesteps) == (15, 50)
    assert "NVIDIA H100" in gk.Path(gk.TARGETS["cuda"]).read_text()
    assert gk.parse(["--sizes", "8x2", "8x2x2", "--platform", "tpu"]).sizes == [(8, 2), (8, 2, 2)]


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_missing_packages(platform, monkeypatch, capsys):
    """One line says what to install, before jax is touched."""
    monkeypatch.setattr(gk.importlib.metadata, "distributions", lambda: [])
    assert gk.main(["--platform", platform]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("error: ")
    assert "Python 3.12" in line
    for name, version in (gk.JAX | gk.PLUGINS[platform]).items():
        assert f"{name}=={version}" in line
        assert f"{name} -" in line


def test_versions_must_fit():
    wanted = gk.JAX | gk.PLUGINS["cuda"]
    assert gk.complaint("cuda", wanted) is None
    assert "jax 0.10.2" in gk.complaint("cuda", wanted | {"jax": "0.10.2"})
    assert "libtpu -" in gk.complaint("tpu", wanted)
