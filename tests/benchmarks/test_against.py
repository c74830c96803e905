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


def test_a_failed_program_says_why(monkeypatch):
    monkeypatch.setattr(against, "PROGRAM", "raise SystemExit('no such option')")
    with (
        pytest.raises(RuntimeError, match="no such option"),
        against.started(against.ROOT, against.SIZES["tiny"]) as program,
    ):
        program.call()


def test_the_other_must_be_a_checkout(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        against.main([str(tmp_path)])
    assert stop.value.code == 2
    assert "there is no tlstm_jax in" in capsys.readouterr().err
