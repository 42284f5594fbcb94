"""A Slurm of one node, this machine: munge, slurmctld and slurmd on loopback, in one folder, without accounting.

python tests/workflow/one_node.py COMMAND...     # runs a command on it, and ends it; needs Debian's slurm-wlm and munge
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from getpass import getuser
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
SBIN = os.pathsep.join(["/usr/sbin", "/sbin"])  # where Debian has the daemons; not on every user's path

CONFIGURATION = """\
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
KillWait=30
OverTimeLimit=0
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory}
PartitionName=cpu Nodes={host} Default=YES MaxTime=INFINITE
PartitionName=gpu Nodes={host} MaxTime=INFINITE
"""


def missing() -> list[str]:
    """What of Slurm is not installed here."""
    return [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]


@contextmanager
def one_node(folder: Path, cpus: int = 2) -> Iterator[dict[str, str]]:
    """A running Slurm with the partitions `cpu` and `gpu`; the environment in which its commands find it.

    `folder` is empty, and short: munge's socket in it has at most 107 characters. At the end all jobs are cancelled and
    the daemons are stopped.
    """
    for name in ("state", "spool", "bin"):
        (folder / name).mkdir(parents=True)
    folder.chmod(0o755)  # as munge wants it
    key, configuration = folder / "munge.key", folder / "slurm.conf"
    key.touch(0o600)
    key.write_bytes(secrets.token_bytes(128))
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    controller_port, node_port = _free_ports(2)
    configuration.write_text(
        CONFIGURATION.format(
            host=socket.gethostname().partition(".")[0],
            user=getuser(),
            folder=folder,
            cpus=cpus,
            memory=pages * size // 2**20,
            controller_port=controller_port,
            node_port=node_port,
        )
    )
    srun = (
        folder / "bin" / "srun"
    )  # Snakemake's plugin starts it without SLURM_CONF; a cluster has /etc/slurm/slurm.conf
    srun.write_text(f'#!/bin/sh\nSLURM_CONF={configuration} exec {shutil.which("srun")} "$@"\n')
    srun.chmod(0o755)
    path = os.pathsep.join([str(srun.parent), _path()])
    environment = {**os.environ, "PATH": path, "SLURM_CONF": str(configuration)}
    munged = ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket"]
    munged += [f"--{name}-file={folder}/munge.{name}" for name in ("pid", "seed", "log")]
    with ExitStack() as stack:

        def start(*command: str) -> None:
            log = stack.enter_context((folder / f"{command[0]}.log").open("w"))
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
            stack.callback(_stop, process)

        start(*munged)
        _wait_for(lambda: (folder / "munge.socket").exists(), "munged", folder)
        start("slurmctld", "-D")
        start("slurmd", "-D")
        stack.callback(_cancel_all, environment)
        _wait_for(lambda: _says(environment, "sinfo", "-h", "-o", "%T") == "idle", "slurmd", folder)
        yield environment


def _path() -> str:
    return os.pathsep.join([os.environ["PATH"], SBIN])


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _says(environment: dict[str, str], *command: str) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout.strip()


def _wait_for(condition, what: str, folder: Path, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            logs = "\n".join(f"{log.name}:\n{log.read_text()[-2000:]}" for log in sorted(folder.glob("*.log")))
            raise RuntimeError(f"{what} did not come up within {seconds:.0f} s\n{logs}")
        time.sleep(0.2)


def _cancel_all(environment: dict[str, str]) -> None:
    subprocess.run(["scancel", f"--user={getuser()}"], env=environment, timeout=60, check=False)
    until = time.monotonic() + 60
    while _says(environment, "squeue", "-h") and time.monotonic() < until:
        time.sleep(0.5)


def _stop(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


if __name__ == "__main__":
    if absent := missing():
        sys.exit(f"{', '.join(absent)}: not found; install Slurm, on Debian `apt-get install slurm-wlm munge`")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # which ends the daemons, too
    with tempfile.TemporaryDirectory(prefix="slurm-") as made, one_node(Path(made)) as its_environment:
        sys.exit(subprocess.run(sys.argv[1:] or ["sinfo"], env=its_environment, check=False).returncode)
