"""Result lines for tests."""

import json

from experiments.reporting import lines, summary
from experiments.rivals import RIVALS
from experiments.running.models import PRESETS, ModelOptions
from experiments.running.options import to_record

PRESET_OF = dict(zip(summary.model_names(), PRESETS, strict=True))


SYMBOLS = {"num_symbols": 65, "samples": 75_000, "epochs": 2, "vocabulary": "205 items, sha256 0"}
"""Options of some tasks, which the others ignore."""


def size(setting):
    """The options of a task that a setting stands for."""
    name, _, number = setting.partition(" n=")
    if name in ("memorization", "addition"):
        return {"task": name, {"memorization": "length", "addition": "digits"}[name]: int(number)}
    if name.startswith("enwik8"):
        return {"task": "language", "data": name}
    data, _, permuted = name.partition(" ")
    return {"task": "mnist", "data": data, "permutation": "784 items, sha256 0" if permuted else None}


def line(setting="memorization n=20", model="2D tLSTM+CN", depth=4, seed=0, end=0.5, samples=1000, **options):
    """A result line; ``end`` is None before the first test, and more than 0.99 is solved.

    ``model`` is a name in the paper, or that of a rival with its options, which has its default depth.
    """
    finished, parameters = options.pop("finished", True), options.pop("parameters", 12345)
    step_seconds, summary_too = options.pop("step_seconds", None), options.pop("summary_too", {})
    base, _, words = model.removesuffix(")").partition(" (")
    if base in RIVALS:
        given = {"model": base, "rival_options": tuple(filter(None, words.split(", ")))}
    else:
        given = {"preset": PRESET_OF[model.removesuffix(" (unshared)")], "depth": depth}
    chosen = ModelOptions(**given, features=100).resolved(ModelOptions())
    options = {**size(setting), **to_record(chosen), **SYMBOLS, "seed": seed, "batch_size": 15, **options}
    options = json.loads(json.dumps(options))  # as it is read back
    info = lines.tasks.find(options["task"])
    watched = f"{'test' if info.until_solved else 'validation'}_{info.measure}"
    history = [] if end is None else [{"epoch": n, "samples": samples * n // 2, watched: end * n / 2} for n in (1, 2)]
    if step_seconds is not None:  # with as much again for the compilation of the first
        for n, record in enumerate(history):
            record |= {"step": 10 * record["epoch"], "seconds": step_seconds * 10 * (2 - n)}
    found = {"headline": f"ended with {end}", "samples": samples, f"test_{info.measure}": end, "device": "abacus"}
    found |= {"jax": "0.1", "solved": info.until_solved and end is not None and end > 0.99}
    found |= summary_too
    record = {
        "id": lines.checksum(options),
        **lines.description(options),
        "options": options,
        "finished": finished,
        "summary": found if finished else None,
        "history": history,
        "parameters": parameters if finished else None,
        "samples": samples if history else 0,
        "seconds": 60.0,
        "date": "2026-01-02",
    }
    made = lines.Line.from_json(record)
    assert made.setting == setting
    assert made.model == model
    return made


def group(*members):
    (found,) = summary.by_configuration(members)
    return found
