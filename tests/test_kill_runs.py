"""The script that kills runs, a little of everything that it does."""

import os
import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "scripts" / "kill_runs.py"


def test_what_is_killed_or_refused_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    what = ["moments", "renames", "twins", "disk", "decisions", "--kills", "2", "--most", "1"]
    own = os.environ | {"TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, str(SCRIPT), *what], check=False, capture_output=True, text=True, env=own)
    assert done.returncode == 0, done.stdout + done.stderr
    table = re.findall(r"^\| (.+) \| (\d+) \| (\d+) \| (\d+) \|$", done.stdout, re.MULTILINE)
    assert len(table) >= 7  # one more where a file system can be mounted
    assert all(int(same) == int(ends) > 0 and int(hit) > 0 for _, hit, ends, same in table), done.stdout
    assert dict((what, int(hit)) for what, hit, *_ in table)["run, SIGKILL at a random moment"] == 2
