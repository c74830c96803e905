"""What the library costs, in time and memory, beside what it could be compared to.

================  ====================================================================================
command           what it says
================  ====================================================================================
``speed``         milliseconds of a pass, contenders side by side, and their compile times
``depth``         milliseconds of a timestep against L, and the latency of a stream
``memory``        temporaries of the compiled training pass against T
``gpu_kernels``   kernels launched in a timestep, on a machine without a GPU
``gpu_suite``     all of that worth knowing from a GPU, in one command and a few minutes
================  ====================================================================================

Each is run with ``python -m benchmarks.NAME`` from a checkout and explains itself with ``--help``. They
need jax, flax and numpy; PyTorch and matplotlib are used where they are installed.

``tasks.py`` says what is timed, ``networks.py`` which networks, ``contenders.py`` who competes,
``checking.py`` that all of them compute the same, ``measure.py`` how time is taken, ``record.py`` what
every result carries.
"""
