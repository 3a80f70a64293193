"""The images, built from the Dockerfile as it is, and containers of them that are confined as their pods are."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import tomli_w

from tests.support.programs import CONTAINERS, require

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "scripts"))

from build_images import IMAGES, build_command  # noqa: E402 - lies in scripts/
from pip_settings import read_settings  # noqa: E402 - lies in scripts/

REGISTRY = "localhost/"  # no registry is asked for an image of this name
TAG = "test"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
PIP_FILES = (Path("/etc/pip.conf"), Path("/etc/xdg/pip"), Path.home() / ".config/pip")
# crun, podman's default, refuses machines with both versions of cgroups. Not every root may raise limits.
RUNTIME = ("--runtime", shutil.which("runc", path="/usr/sbin:/usr/bin:/sbin:/bin") or "runc")
LIMITS = ("--ulimit=nofile=20000:20000", "--ulimit=nproc=20000:20000")
CONFINED = ("--read-only", "--cap-drop=all", "--security-opt=no-new-privileges", "--user=12345:0", "--tmpfs=/tmp")


def podman(*words, **options):
    return subprocess.run(["podman", *RUNTIME, *words], text=True, check=False, **options)


def build(target):
    """Build the image of a target of the Dockerfile and return its name. Layers that are there are used again."""
    image = f"{REGISTRY}{IMAGES[target]}:{TAG}"
    command = build_command("podman", target, image, TAG, "test", [])
    _build(command[:-1], command[-1])
    return image


def build_services():
    """Build the image with the servers that tests of a cluster need, and return its name."""
    image = f"{REGISTRY}train-delay-test-services:{TAG}"
    folder = REPOSITORY / "tests" / "cluster" / "manifests"
    _build(["podman", "build", "--tag", image, f"--file={folder / 'services.Dockerfile'}"], folder)
    return image


def run(image, *words, network="none", volumes=(), environment=(), confined=True):
    """Run a command in a container and return the finished process, with both outputs in one."""
    options = [*_options(network, volumes, environment, confined), "--rm"]
    return podman("run", *options, image, *words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def start(image, *words, network="none", volumes=(), environment=(), confined=True):
    """Start a container and return its id."""
    options = [*_options(network, volumes, environment, confined), "--detach"]
    done = podman("run", *options, image, *words, capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def size_mb(image):
    return int(podman("image", "inspect", "--format={{.Size}}", image, capture_output=True).stdout) / 1e6


def _build(command, context):
    require(CONTAINERS)
    _bring_base_image()
    with tempfile.TemporaryDirectory() as folder:
        _must(*command, *RUNTIME, "--network=host", *_mounts(Path(folder)), str(context))


def _options(network, volumes, environment, confined):
    places = [f"--volume={here}:{there}:{mode}" for here, there, mode in volumes]
    variables = [f"--env={name}={value}" for name, value in environment]
    return [*LIMITS, f"--network={network}", *(CONFINED if confined else ()), *places, *variables]


def _bring_base_image():
    lines = (REPOSITORY / "Dockerfile").read_text().splitlines()
    name = next(line.partition("=")[2] for line in lines if line.startswith("ARG PYTHON_IMAGE="))
    if podman("image", "exists", name).returncode and podman("pull", "--quiet", name, capture_output=True).returncode:
        _make_base_image(name)


def _make_base_image(name):
    """Make the image that the Dockerfile asks for from Debian's packages: no registry of images can be reached."""
    with tempfile.TemporaryDirectory() as folder:
        root, packed = Path(folder) / "root", Path(folder) / "root.tar"
        packages = "ca-certificates,python3.11,python3.11-venv,python3-pip"
        _must("debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", str(root), *_mirror())
        for link in ("python3", "python"):
            (root / "usr/bin" / link).unlink(missing_ok=True)
            (root / "usr/bin" / link).symlink_to("python3.11")
        for mark in root.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):  # the official image has none
            mark.unlink()
        _must("tar", "--directory", str(root), "--numeric-owner", "--create", "--file", str(packed), ".")
        _must("podman", "import", "--change=ENV LANG=C.UTF-8", str(packed), f"{REGISTRY}{name}")


def _mirror():
    """The first address of Debian's packages that apt of this machine uses."""
    for path in (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list")):
        for line in path.read_text().splitlines() if path.is_file() else ():
            words = line.split()
            if words[:1] == ["URIs:"]:
                return words[1:2]
            if words[:1] == ["deb"]:
                return [word for word in words if "://" in word][:1]
    return []


def _mounts(folder):
    """Options that give a build this machine's settings of pip, for pip and for uv, and its certificates."""
    settings = read_settings(Path(sys.executable))
    words = [word for name in ("find-links", "extra-index-url") for word in settings.get(name, "").split()]
    words = [word.removeprefix("file://") for word in words]
    places = {Path(word.removesuffix("/simple")) for word in words if word.startswith("/")}
    places |= set(filter(Path.exists, (CERTIFICATES, *PIP_FILES)))
    for_uv = {"system-certs": True, "index-strategy": "unsafe-best-match"}
    if links := settings.get("find-links", "").split():
        for_uv["pip"] = {"find-links": links}
    if index := settings.get("index-url"):
        for_uv["index"] = [{"url": index, "default": True}]
    (folder / "uv.toml").write_text(tomli_w.dumps(for_uv))
    pairs = [(place, place) for place in sorted(places)] + [(folder / "uv.toml", Path("/etc/uv/uv.toml"))]
    return [f"--volume={here}:{there}:ro" for here, there in pairs]


def _must(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command[0]}: {(done.stdout + done.stderr)[-2000:]}"


if __name__ == "__main__":  # for a cluster that has no registry: build every image and print the names
    print(*map(build, IMAGES), build_services(), sep="\n")
