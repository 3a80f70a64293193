"""A real S3 server: Ceph's RADOS gateway, with a monitor and a disk server of its own in a folder.

Debian and Ubuntu have the packages, and only root can start the programs. It takes half a minute.
"""

import os
import subprocess
import tempfile
from pathlib import Path
from uuid import uuid4

from tests.support.answers import answers
from tests.support.patience import wait_until
from tests.support.ports import free_port
from tests.support.programs import CEPH, require
from tests.support.run_folder import once, start_server

DISK = 4 << 30  # bytes at most
COMMAND_S = 60  # for one command of an administrator

# prose: allow length – a configuration
CONFIGURATION = """
[global]
fsid = {fsid}
mon_initial_members = a
mon_host = v1:127.0.0.1:{monitor}
ms_bind_msgr2 = false
ms_bind_ipv6 = false
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 8
osd_pool_default_pgp_num = 8
osd_pool_default_pg_autoscale_mode = off
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 1000
osd_crush_chooseleaf_type = 0
mon_data = {folder}/mon
osd_data = {folder}/osd
run_dir = {folder}
admin_socket = {folder}/$name.asok
keyring = {folder}/keyring
log_file = {folder}/$name.log
[mon.a]
mon_addr = v1:127.0.0.1:{monitor}
[osd]
osd_objectstore = bluestore
bluestore_block_size = {disk}
bluestore_block_create = true
osd_class_update_on_start = false
osd_crush_update_on_start = false
osd_memory_target = 1073741824
[client.rgw.tests]
rgw_frontends = beast endpoint=127.0.0.1:{gateway}
rgw_data = {folder}/rgw
rgw_thread_pool_size = 32
"""
# prose: allow lexical_illusions – a configuration


def ceph_server(access_key: str, secret_key: str) -> str:
    """Address of the gateway of this test run, with a user of these keys. Without Ceph, the test is skipped."""
    require(CEPH)
    made: dict[str, str] = once("ceph", _start)
    _user(made["configuration"], access_key, secret_key)
    return made["url"]


def _start(made: Path) -> dict[str, str]:
    # The paths of its sockets must be short.
    folder = Path(tempfile.mkdtemp(prefix="ceph-"))
    for name in ("mon", "osd", "rgw"):
        (folder / name).mkdir()
    monitor, gateway, fsid = free_port(), free_port(), str(uuid4())
    configuration = folder / "ceph.conf"
    configuration.write_text(
        CONFIGURATION.format(fsid=fsid, folder=folder, monitor=monitor, gateway=gateway, disk=DISK)
    )
    environment = os.environ | {"CEPH_CONF": str(configuration)}

    def tried(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=COMMAND_S, check=False, cwd=folder
        )

    def run(*command: str) -> str:
        done = tried(*command)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def start(name: str, *command: str, scratch: Path | None = None) -> subprocess.Popen[bytes]:
        return start_server(command, made / f"{name}.log", environment, scratch=scratch, cwd=folder)

    keyring = str(folder / "keyring")
    run("ceph-authtool", "--create-keyring", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
    run("monmaptool", "--create", "--addv", "a", f"[v1:127.0.0.1:{monitor}]", "--fsid", fsid, str(folder / "monmap"))
    run("ceph-mon", "--mkfs", "-i", "a", "--monmap", str(folder / "monmap"), "--keyring", keyring)
    start("mon", "ceph-mon", "-f", "-i", "a", scratch=folder)
    # On a busy machine, a monitor that has just started refuses its first commands (EPERM).
    wait_until(lambda: tried("ceph", "mon", "stat").returncode == 0, "Ceph's monitor", every_s=0.5)
    disk = str(uuid4())
    run("ceph", "osd", "new", disk)
    run("ceph-osd", "--mkfs", "-i", "0", "--osd-uuid", disk, "--monmap", str(folder / "monmap"), "--no-mon-config")
    run("ceph", "osd", "crush", "add", "osd.0", "1", "root=default", "host=tests")
    start("osd", "ceph-osd", "-f", "-i", "0")
    is_up = ["timeout", "10", "sh", "-c", "ceph osd stat | grep -q '1 up'"]  # it may refuse at first
    wait_until(
        lambda: subprocess.run(is_up, env=environment, capture_output=True, check=False).returncode == 0,
        "Ceph's disk server",
        every_s=0.5,
    )
    process = start("gateway", "radosgw", "-f", "-n", "client.rgw.tests")
    url = f"http://127.0.0.1:{gateway}"
    wait_until(lambda: answers(url) is not None, "Ceph's gateway", process, made / "gateway.log")
    return {"url": url, "configuration": str(configuration)}


def _user(configuration: str, access_key: str, secret_key: str) -> None:
    """Make the user with this access key, if there is none."""
    command = ["radosgw-admin", "-n", "client.rgw.tests", "user", "create", f"--uid={access_key}"]
    command += ["--display-name=tests", f"--access-key={access_key}", f"--secret-key={secret_key}"]
    subprocess.run(
        command, env=os.environ | {"CEPH_CONF": configuration}, capture_output=True, timeout=COMMAND_S, check=False
    )
