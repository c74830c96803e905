"""Benchmarks: time and memory of the library, beside those of the alternatives.

================  ====================================================================================
command           result
================  ====================================================================================
``speed``         milliseconds of a pass, contenders side by side, and their compile times
``depth``         milliseconds of a timestep against L, and the latency of a stream
``memory``        temporaries of the compiled training pass against T
``gpu_kernels``   kernels launched per timestep, counted without a GPU
``gpu_suite``     all measurements on a GPU, in one command that takes a few minutes
================  ====================================================================================

Each is run with ``python -m benchmarks.NAME`` from a checkout and explains itself with ``--help``. They
need jax, flax and numpy; PyTorch and matplotlib are used where they are installed.

``tasks.py`` defines the sizes and passes that are timed, ``networks.py`` the networks and ``contenders.py``
the contenders. ``checking.py`` checks that contenders compute what they claim to, ``measure.py`` times
them, and ``record.py`` records the environment with every result.
"""
