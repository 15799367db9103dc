"""Python runs this at its start where PYTHONPATH names this folder: a process waits to be killed when DETCLEAN_HOLD says.

It says PATTERN=NUMBER: the process waits as a file is about to get a path that matches, for the NUMBERth time. A training that goes on from
its checkpoint never waits.
"""

import os
import re
import time
from pathlib import Path
from typing import Any

pattern, _, number = os.environ.get("DETCLEAN_HOLD", "").rpartition("=")


def hold(rename: Any) -> Any:
    given = 0

    def replace(source: Any, target: Any, **more: Any) -> None:
        nonlocal given
        if re.search(pattern, str(target)):
            if given == 0 and Path(target).exists():  # an earlier process gave it
                given = int(number)
            given += 1
            while given == int(number):
                time.sleep(1)
        rename(source, target, **more)

    return replace


if pattern:
    os.replace = hold(os.replace)
