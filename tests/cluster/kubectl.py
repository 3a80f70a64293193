"""kubectl against the cluster of `KUBECONFIG`, and ports of its Services on this machine."""

import contextlib
import json
import shutil
import subprocess

import yaml

from tests.support.answers import answers
from tests.support.patience import wait_until
from tests.support.ports import free_port

KUBECTL = shutil.which("kubectl") or "kubectl"


class KubectlError(Exception):
    """kubectl refused: its last line."""


def kubectl(*words, stdin=""):
    """Run kubectl and return what it prints."""
    done = subprocess.run([KUBECTL, *words], input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        raise KubectlError(f"kubectl {' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def get(*words):
    """The object or list that `kubectl get …` finds."""
    return json.loads(kubectl("get", *words, "--output=json"))


def apply(documents):
    kubectl("apply", "--filename=-", stdin=yaml.safe_dump_all(documents))


@contextlib.contextmanager
def forwarded(namespace, target, port, path):
    """Address on this machine of a port of a Service or Deployment; it answers GET `path`."""
    here = free_port()
    words = [KUBECTL, "port-forward", f"--namespace={namespace}", target, f"{here}:{port}"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        address = f"http://127.0.0.1:{here}"
        wait_until(lambda: answers(address + path) is not None, f"{target} in {namespace}", process)
        yield address
    finally:
        process.terminate()
        process.wait()
