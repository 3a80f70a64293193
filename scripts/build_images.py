"""Build the images for a cluster: `make image`.

    python3 scripts/build_images.py --registry registry.example.org/ --tag 0.1.0
    python3 scripts/build_images.py --engine podman -- --network host

The engine is docker, podman or buildah, whichever works here. The options after `--` go to its command `build`.
Only the standard library is imported: nothing needs to be installed.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
IMAGES = {  # target of the Dockerfile → name of the image
    "trainer": "train-delay-transformer",
    "airflow": "train-delay-airflow",
    "mlflow": "train-delay-mlflow",
}
BUILD = {
    "docker": ("docker", "build"),
    "podman": ("podman", "build", "--format", "docker"),
    "buildah": ("buildah", "build", "--format", "docker", "--layers"),  # alone among the three, it keeps no layers
}


class BuildError(Exception):
    """No image was built: one line for the user."""


def choose_engine(wanted: str = "") -> str:
    """Return the engine of this name, or the first that works.

    Raises:
        BuildError: it does not work, or none does.
    """
    found = []
    for engine in [wanted] if wanted else list(BUILD):
        if engine not in BUILD:
            raise BuildError(f"ENGINE={engine} is none of {', '.join(BUILD)}")
        if not shutil.which(engine):
            continue
        found.append(engine)
        # It works only where the engine does: a docker client often has no server.
        info = subprocess.run([engine, "info"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if info.returncode == 0:
            return engine
    if found:
        raise BuildError(f"{' and '.join(found)} cannot work here: `{found[0]} info` says why")
    raise BuildError(f"no {wanted or 'docker, podman or buildah'} on the PATH; install one of the three")


def build_command(engine: str, target: str, image: str, tag: str, commit: str, options: Sequence[str]) -> list[str]:
    """Return the command that builds one target of the Dockerfile as `image`."""
    facts = {"IMAGE": image, "VERSION": tag, "GIT_COMMIT": commit}
    arguments = [word for name, value in facts.items() for word in ("--build-arg", f"{name}={value}")]
    return [*BUILD[engine], "--target", target, "--tag", image, *arguments, *options, str(REPOSITORY)]


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    options: list[str] = []
    if "--" in words:
        place = words.index("--")
        words, options = words[:place], words[place + 1 :]
    parser = argparse.ArgumentParser(description="Build the images for a cluster.")
    parser.add_argument("--registry", default="", help="prefix of the names, for example registry.example.org/")
    parser.add_argument("--tag", default="latest")
    parser.add_argument("--engine", default="", help="docker, podman or buildah; by default the first that works")
    parser.add_argument("--target", action="append", choices=IMAGES, help="build only this target; may be repeated")
    arguments = parser.parse_args(words)
    try:
        engine = choose_engine(arguments.engine)
        for target in arguments.target or IMAGES:
            _build(engine, target, arguments.registry, arguments.tag, options)
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _build(engine: str, target: str, registry: str, tag: str, options: Sequence[str]) -> None:
    if registry and not registry.endswith("/"):
        registry += "/"
    image = f"{registry}{IMAGES[target]}:{tag}"
    head = ["git", "-C", str(REPOSITORY), "rev-parse", "HEAD"]
    commit = subprocess.run(head, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
    print(f"{engine}: building {image}", flush=True)
    began = time.monotonic()
    if subprocess.run(build_command(engine, target, image, tag, commit, options), check=False).returncode:
        raise BuildError(f"{engine} could not build {image}; its last lines above say why")
    print(f"{engine}: built {image} in {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
