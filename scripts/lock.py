"""Pin the newest versions that requirements*.in allow, for every supported Python and platform: `make lock`.

    .venv/bin/python scripts/lock.py             # newest versions
    .venv/bin/python scripts/lock.py --keep      # those of the present locks wherever they still fit

A lock holds no word of where the packages came from: neither an index nor a folder of this machine.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

from pip_settings import for_uv, read_settings

REPOSITORY = Path(__file__).resolve().parents[1]
# Left out: each build of torch brings the CUDA libraries that it was made for, and its CPU build none.
CUDA = re.compile(r"^(nvidia-[\w-]+|cuda-[\w-]+|triton)==", re.MULTILINE)


def compile_lock(asked: str, *options: str, environment: dict[str, str]) -> None:
    """Resolve `asked` into the lock of the same name."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    oldest = project["requires-python"].removeprefix(">=").partition(",")[0]
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal", "--python-version", oldest]
    command += ["--custom-compile-command", "make lock", "--output-file", f"{Path(asked).with_suffix('.txt')}", asked]
    subprocess.run([*command, *options], cwd=REPOSITORY, env=environment, check=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Pin what requirements*.in ask for.")
    parser.add_argument("--keep", action="store_true", help="upgrade nothing that still fits")
    upgrade = [] if parser.parse_args(argv).keep else ["--upgrade"]
    environment = for_uv(read_settings(Path(sys.executable)), os.environ)
    # The lock is the same on every machine: no constraints of this one, and no wheels of its own, such as a +cpu build.
    environment = {name: value for name, value in environment.items() if name not in ("UV_FIND_LINKS", "UV_CONSTRAINT")}
    compile_lock("requirements.in", *upgrade, environment=environment)
    cuda = CUDA.findall((REPOSITORY / "requirements.txt").read_text("utf-8"))
    compile_lock("requirements.in", *(f"--no-emit-package={name}" for name in cuda), environment=environment)
    # An environment comes with its pip.
    compile_lock("requirements-dev.in", *upgrade, "--no-emit-package=pip", environment=environment)
    compile_lock("deploy/requirements/cluster.in", *upgrade, "--no-annotate", environment=environment)
    return 0


if __name__ == "__main__":
    sys.exit(main())
