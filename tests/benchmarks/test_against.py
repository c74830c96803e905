"""The comparison with another checkout; here the other one is the same."""

import json

import pytest

from benchmarks import against


@pytest.mark.slow
def test_both_are_timed(tmp_path, capsys):
    out = tmp_path / "out.json"
    arguments = [str(against.ROOT), "--sizes", "tiny", "tiny-3d", "--repetitions", "2", "--out", str(out)]
    assert against.main(arguments) == 0
    first, second = json.loads(out.read_text())["rows"]
    assert (first["what"][:5], second["what"][:8]) == ("tiny:", "tiny-3d:")
    for row in (first, second):
        assert row["ours_temp_bytes"] == row["theirs_temp_bytes"] > 0
        assert row["ratio"] == row["ours_ms"] / row["theirs_ms"]
    assert "ours / theirs" in capsys.readouterr().out


@pytest.mark.slow
def test_runs_are_timed(tmp_path):
    out = tmp_path / "out.json"
    run = ["memorization", "--length", "1", "--features", "4", "--samples", "30", "--check-every", "10"]
    assert against.main([str(against.ROOT), "--repetitions", "1", "--out", str(out), "--run", *run]) == 0
    (row,) = json.loads(out.read_text())["rows"]
    assert row["what"] == " ".join(run)
    assert row["ours_ms"] > 0


@pytest.mark.parametrize(
    ("lines", "code", "message"),
    [(1, 0, "has 1 epoch and needs 2"), (2, 3, "failed: no such option")],
)
def test_a_run_must_have_epochs_to_time(monkeypatch, lines, code, message):
    def ended(words, **options):
        folder = against.Path(words[-1])
        folder.mkdir()
        (folder / "metrics.jsonl").write_text('{"seconds": 1.0}\n' * lines)
        return against.subprocess.CompletedProcess(words, code, "", "no such option")

    monkeypatch.setattr(against.subprocess, "run", ended)
    with pytest.raises(against.CommandError, match=message):
        against.epoch(against.ROOT, ["memorization"])


def test_a_failed_program_says_why(monkeypatch):
    monkeypatch.setattr(against, "PROGRAM", "raise SystemExit('no such option')")
    with (
        pytest.raises(against.CommandError, match="no such option"),
        against.started(against.ROOT, against.SIZES["tiny"]) as program,
    ):
        program.call()


def test_the_other_must_be_a_checkout(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        against.main([str(tmp_path)])
    assert stop.value.code == 2
    assert "there is no tlstm_jax in" in capsys.readouterr().err
