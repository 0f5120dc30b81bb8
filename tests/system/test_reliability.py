"""Real processes that are killed, stopped and given hostile files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def reliability(part: str, folder: Path, *words: str) -> dict:
    """Run a part of the benchmark in small; it fails by itself where a run ends differently."""
    result = folder / "result.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "reliability.py"), part, *words]
    done = subprocess.run(
        [*command, "--folder", str(folder / "runs"), "--json", str(result)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return json.loads(result.read_text())[part]


@pytest.mark.slow
def test_runs_killed_at_random_moments_end_as_if_they_had_not_been(tmp_path):
    rows = reliability("kills", tmp_path)["cases"]
    kills = [kill for row in rows for kill in row["kills"]]
    assert len(kills) == 20
    # Without a checkpoint a run would only begin anew.
    assert all(kill["newest"] for kill in kills)
    assert {"else", "a save"} <= {kill["during"] for kill in kills}
    assert rows[3]["kills"][1]["during"] in ("an evaluation", "a save")
    assert {(row["method"], row["workers"]) for row in rows} == {
        (method, workers)
        for method in ("MaskedMoCo", "MaskedSimCLR", "ADIOS", "classifier")
        for workers in (0, 2)
    }
    assert [row["different"] for row in rows] == [[]] * 8
    assert {row["stop"]["signal"] for row in rows} == {"SIGTERM", "SIGINT"}
    assert all(row["stop"]["seconds"] < 30 for row in rows)


@pytest.mark.slow
def test_processes_stop_together_resume_exactly_and_do_not_outlive_one_another(tmp_path):
    found = reliability("processes", tmp_path)
    assert found["different"] == []
    assert found["stop_seconds"] < 30
    assert found["seconds_to_end_after_a_death"] < 60
    assert "RuntimeError" in found["cause"]
    assert found["on_one_process"].startswith("2 × 4 images per step became 1 × 8; the order of")


@pytest.mark.slow
def test_a_folder_of_hostile_files_is_trained_on(tmp_path):
    files = reliability("files", tmp_path)["files"]
    broken = ("truncated", "header only", "empty", "text", "random bytes", "decompression bomb")
    skipped = [kind for kind, outcome in files.items() if outcome.startswith("skipped: ")]
    assert set(skipped) - {"unreadable"} == {*broken, "link to nowhere", "link to itself"}
    assert len(files) == 20
