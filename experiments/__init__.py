"""The experiments of the paper, run from a checkout: `python -m experiments.NAME --help`.

The modules here are the commands, which ``python -m experiments`` lists, and ``tasks``, the registry of tasks. Below
are ``common`` (shared with benchmarks), ``datasets``, ``running`` (training runs) and ``reporting`` (results); each
imports only those before it.
"""
