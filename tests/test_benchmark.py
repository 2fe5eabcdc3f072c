import subprocess
import sys
from pathlib import Path


def test_the_benchmark_of_the_losses_prints_its_tables():
    script = Path(__file__).parents[1] / "scripts/benchmark.py"
    command = [sys.executable, script, "losses", "--size", "64", "--rounds", "1"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    assert (
        result.stdout.count("\n### ") == 4 and "| exact structured loss / sampled, 9000 pairs a box |" in result.stdout
    )
