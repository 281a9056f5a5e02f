"""A short form of the fault campaign; `python -m tests.faults` is the long one."""

import subprocess
import sys

import pytest
from project import ROOT

FAULTS = ("killed", "SIGTERM", "Ctrl-C", "deleted", "clock back", "worker killed")


@pytest.mark.slow
def test_stages_stand_faults_at_random_moments(default_run):
    chosen = ["--stages", "extract_frames", "pretrain", "--faults", *FAULTS, "--runs", str(len(FAULTS))]
    command = [sys.executable, "-m", "tests.faults", "--project", default_run.folder, *chosen]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "runs with the same bytes / runs" in done.stdout
