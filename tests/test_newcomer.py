"""The newcomer's page, executed from top to bottom: clone, first verdict, own model, own experiment in one file."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest

from lab import models

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "newcomer.md"
BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.M | re.S)


def steps() -> list[tuple[str, str, str]]:
    """Language, what stands behind it, and text of every block of the page."""
    return [(language, rest.strip(), text) for language, rest, text in BLOCK.findall(PAGE.read_text(encoding="utf-8"))]


def script() -> str:
    """All of it as one shell script; of the installation nothing is downloaded, the packages of this environment are seen."""
    lines = ["set -eu"]
    for language, rest, text in steps():
        if language == "python":
            lines.append(f"mkdir -p {Path(rest).parent}\ncat > {rest} <<'END_OF_FILE'\n{text}END_OF_FILE")
        elif rest == "install":
            begun = text.replace("python -m pip install -c constraints.txt -e .",
                                 f"echo '{sysconfig.get_path('purelib')}' > \"$(python -c 'import sysconfig as s; print(s.get_path(\"purelib\"))')/seen.pth\"\n"
                                 "python -m pip uninstall -q -y setuptools\n"  # an old one comes with some Pythons
                                 "python -m pip install -q --no-deps --no-index --no-build-isolation -e .")
            assert begun != text
            lines.append(begun.replace("python3 -m venv", f"'{sys.executable}' -m venv"))
        else:
            lines.append(text)
    return "\n".join(lines)


def test_the_page_has_every_step_of_the_path() -> None:
    found = steps()
    assert [rest for _, rest, _ in found][0] == "install" and any(language == "python" for language, _, _ in found)
    told = "".join(text for language, _, text in found if language == "sh")
    assert all(word in told for word in ("lab run performance", "$MODEL", "LAB_EXPERIMENTS_DIR", "lab report"))


@pytest.mark.slow
def test_a_newcomer_gets_from_the_clone_to_an_experiment_of_their_own(tmp_path: Path) -> None:
    own = tmp_path / "my model.gguf"
    own.symlink_to(models.find(models.DEFAULT).path)
    env = {k: v for k, v in os.environ.items() if k not in ("LAB_HOME", "PYTHONPATH", "VIRTUAL_ENV", "LAB_EXPERIMENTS_DIR")}
    began = time.monotonic()
    done = subprocess.run(["bash", "-c", script()], cwd=tmp_path, text=True, capture_output=True, timeout=540,
                          env={**env, "REPOSITORY": str(ROOT), "MODEL": str(own), "COLUMNS": "200"})
    print(done.stdout, done.stderr, f"{time.monotonic() - began:.0f} s", sep="\n")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Verdict") == 3 and "my model" in done.stdout
    made = json.loads((tmp_path / "llm-lab" / "system_prompt.json").read_text())
    assert made["state"] == "finished" and len(made["trials"]) == 3 and made["verdict"]["decision"]
    assert "Does a system prompt slow the first token?" in (tmp_path / "llm-lab" / "system_prompt.html").read_text()
    assert str(tmp_path / "llm-lab" / "mlruns") in made["store"]
