"""The models that the tLSTM is compared with: beside the numbers of their own papers, and at equal core parameters."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from experiments.reporting import summary
from experiments.reporting.lines import Line
from experiments.reporting.measurements import Rows
from experiments.reporting.paper import Quoted
from experiments.reporting.summary import Group
from experiments.rivals import RIVALS, Rival
from experiments.tasks import TaskInfo

EQUAL = 1.1
"""The factor within which numbers of core parameters count as equal."""


class Entry(NamedTuple):
    """A model of a contest.

    Args:
        group: the runs of the configuration that represents the model, see :func:`tuned`.
        core: the number of its core parameters.
        tried: the number of the model's configurations that were run to the end.
    """

    group: Group
    core: int
    tried: int

    @property
    def name(self) -> str:
        """The model's name."""
        return self.group.first.model


class Contest(NamedTuple):
    """Models with equal numbers of core parameters, trained on a task with equal batch sizes and equal limits.

    Args:
        setting: the task with its size.
        batch_size: the sequences in a batch.
        limit: the number of epochs, or of training samples after which a run that has not solved its task gives up.
        entries: the models, the best first.
    """

    setting: str
    batch_size: int
    limit: int
    entries: tuple[Entry, ...]

    @property
    def info(self) -> TaskInfo:
        """The registry's record of the task."""
        return self.entries[0].group.info

    @property
    def core(self) -> int:
        """The median of the numbers of core parameters."""
        return round(statistics.median(entry.core for entry in self.entries))

    @property
    def title(self) -> str:
        """The setting, the size and the training."""
        until = (
            f"{self.limit:,} samples"
            if self.info.until_solved
            else f"{self.limit} epoch{'s' if self.limit > 1 else ''}"
        )
        size = f"about {self.core / 1000:,.0f}K core parameters"
        return f"{self.setting}, {size}, batches of {self.batch_size}, at most {until}"

    @property
    def num_rivals(self) -> int:
        """The number of models that are not the paper's own."""
        return sum(is_rival(entry.group.first) for entry in self.entries)

    @property
    def absent(self) -> list[str]:
        """The models that can be trained on the task and have no result here."""
        present = {entry.group.first.options["model"] for entry in self.entries}
        return [name for name, rival in RIVALS.items() if self.info.name in rival.tasks and name not in present]


def is_rival(line: Line) -> bool:
    """Whether a run's model is a rival: not one of the paper's own."""
    return line.options.get("model") in RIVALS


def core_parameters(line: Line) -> int:
    """The number of core parameters of a finished run's model, all but those of its head.

    Building the layer to count them takes up to seconds, so the head's parameters are subtracted from all parameters
    where the result is the same.
    """
    model, classes = line.model_options, line.info.classes(line.options)
    rival = model.rival
    special = rival is not None and (rival.outside_core or rival.num_constraints is not Rival.num_constraints)
    if (
        special or model.rival_options
    ):  # the head may be wider, or not all of the rest may be core; slow, since it builds the layer
        return model.core_size(line.info.in_features(line.options))
    return (line.parameters or 0) - (line.features + 1) * classes


def contests(lines: Iterable[Line]) -> list[Contest]:
    """Every comparison at equal parameters that the runs allow, in the order of the runs.

    Runs are compared if they share the task, the batch size and the limit of training, and if their models' numbers of
    core parameters are equal within the factor :data:`EQUAL`. A run that has solved its task within the limit may have
    had another limit. Configurations with a run that was cut short are left out.
    """
    found = []
    for members in summary.grouped(lines, shared).values():
        groups = [group for group in summary.by_configuration(members) if group.complete]
        rivals = [group for group in groups if is_rival(group.first)]
        for most in dict.fromkeys(limit(line) for group in rivals for line in group.lines):
            sizes = [(core_parameters(group.first), group) for group in groups if within(group, most)]
            for least, largest in clusters([core for core, group in sizes if is_rival(group.first)]):
                equal = [(core, group) for core, group in sizes if largest / EQUAL <= core <= least * EQUAL]
                entries = sorted(entries_of(equal), key=lambda entry: entry.group.rank)
                if len(entries) > 1:
                    first = members[0]
                    found.append(Contest(first.setting, first.options["batch_size"], most, tuple(entries)))
    return found


def shared(line: Line) -> tuple[object, ...]:
    """A key that is equal for runs that may be in one contest."""
    options = line.options
    return line.setting, options.get("batch_size"), options.get("epochs"), line.info.classes(options)


def limit(line: Line) -> int:
    """The largest number of epochs, or of samples, of a run."""
    return int(line.options["samples" if line.info.until_solved else "epochs"])


def within(group: Group, most: int) -> bool:
    """Whether each run of a group had the limit ``most``, or solved its task within it."""
    return all(limit(line) == most or (line.solved and line.samples <= most) for line in group.lines)


def clusters(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """The smallest and the largest size of each group of sizes that are equal within :data:`EQUAL`.

    >>> clusters([368, 120, 124, 9, 127])
    [(9, 9), (120, 127), (368, 368)]
    """
    found: list[tuple[int, int]] = []
    for size in sorted(sizes):
        if found and size <= found[-1][0] * EQUAL:
            found[-1] = (found[-1][0], size)
        else:
            found.append((size, size))
    return found


def entries_of(sized: Sequence[tuple[int, Group]]) -> list[Entry]:
    """An entry for each model that has a result."""
    models: dict[str, list[tuple[int, Group]]] = {}
    for core, group in sized:
        models.setdefault(group.first.model, []).append((core, group))
    entries = []
    for same in models.values():
        chosen = tuned([group for _, group in same])
        if chosen is not None:
            entries.append(Entry(chosen, next(core for core, group in same if group is chosen), len(same)))
    return entries


def tuned(groups: Iterable[Group]) -> Group | None:
    """The complete group that represents a model: of its configurations, the one that was best with the first seed.

    With more seeds it may be worse than another that was tried with one seed.
    """
    complete = [group for group in groups if group.complete]
    first = min((line.seed for group in complete for line in group.lines), default=0)
    tried = [Group((line,)) for group in complete for line in group.lines if line.seed == first]
    best = summary.best(tried)
    return None if best is None else next(group for group in complete if best.first in group.lines)


def step_milliseconds(line: Line) -> float | None:
    """The time of a training step of a finished run, evaluations included; None if the run did not record it.

    It is the median over the run's evaluations without the first, whose time includes the compilation.
    """
    records = [record for record in line.history if {"seconds", "step"} <= record.keys()]
    times = [1000 * record["seconds"] * record["epoch"] / record["step"] for record in records]
    return statistics.median(times[1:] or times) if times else None


def step_time(group: Group) -> str:
    """The time of a training step with the device, for example "12 ms (cpu)"; "" if it was not recorded."""
    times = [found for line in group.finished if (found := step_milliseconds(line)) is not None]
    if not times:
        return ""
    told = group.finished[0].summary or {}
    together = f", {told['trained_together']} runs together" if "trained_together" in told else ""
    median = statistics.median(times)
    return f"{median:.{0 if median >= 10 else 1}f} ms ({told['device']}{together})"


def measured(group: Group | None, name: str = "") -> str:
    """A group's result, parameters, epochs and time of a training step; "not run" without a group."""
    if group is None:
        return "not run"
    first = group.finished[0]
    epochs = "" if group.info.until_solved else len_epochs(group)
    time = f"{found} a step" if (found := step_time(group)) else ""
    parts = (f"{first.parameters:,} parameters", epochs, time)
    return f"{f'{name}: ' if name else ''}{summary.outcome(group)}, {', '.join(filter(None, parts))}"


def len_epochs(group: Group) -> str:
    """The number of epochs of a group's runs, or their range."""
    found = sorted({(line.summary or {}).get("epochs", line.history[-1]["epoch"]) for line in group.finished})
    return f"{' to '.join(dict.fromkeys(str(number) for number in (found[0], found[-1])))} epoch{'s' * (found != [1])}"


def beside(quoted: Quoted, lines: Sequence[Line]) -> Group | None:
    """Our runs of a quoted model in one setting; if any have the published options, only these count.

    The paper's sLSTM with one layer is an LSTM, too.
    """
    one_layer = ("sLSTM", 1) if quoted.model == "lstm" else None
    same = [
        line for line in lines if line.options.get("model") == quoted.model or (line.model, line.depth) == one_layer
    ]
    published = [line for line in same if {*quoted.options} <= {*line.options.get("rival_options", ())}]
    return tuned(summary.by_configuration(published or same))


def described(quoted: Quoted, group: Group | None) -> str:
    """Our result beside a model that the paper quotes, with the model's options if they differ from the published."""
    named = group is not None and tuple(group.first.options.get("rival_options", ())) != quoted.options
    return measured(group, group.first.model if group is not None and named else "")


def table(contest: Contest) -> Rows:
    """The models of a contest, the best first."""
    info = contest.info
    until = ["samples until solved"] if info.until_solved else []
    header = ["model", "L", "M", "core parameters", "all", "lr", "configurations", f"test {info.measure_title}"]
    rows = [[*header, *until, "seeds", "time of a step"]]
    for entry in contest.entries:
        group, first = entry.group, entry.group.first
        rows.append(
            [
                f"**{entry.name}**" if "tLSTM" in entry.name else entry.name,
                str(first.depth),
                str(first.features),
                f"{entry.core:,}",
                f"{first.parameters:,}",
                f"{first.options['learning_rate']:g}",
                str(entry.tried),
                summary.spread(group.values, info.format),
                *([summary.samples_until_solved(group)] if info.until_solved else []),
                summary.count_seeds(group),
                step_time(group),
            ]
        )
    return rows
