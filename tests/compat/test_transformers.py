"""mmpretrain beside a transformers that its multimodal models do not know."""

import os
import subprocess
import sys


def test_models_are_there_beside_a_transformers_that_is_too_new(tmp_path):
    (tmp_path / "transformers").mkdir()
    (tmp_path / "transformers" / "__init__.py").write_text("__version__ = '5.17.0'\n")
    facts = tmp_path / "transformers-5.17.0.dist-info"
    facts.mkdir()
    told = "Metadata-Version: 2.1\nName: transformers\nVersion: 5.17.0\n"
    (facts / "METADATA").write_text(told)
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", "import mmsalmask, mmsalmask.algorithms; print('imported')"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "imported", done.stderr[-500:]
