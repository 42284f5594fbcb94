"""What the rules share: the profile, and every node's settings, written while this file is parsed."""

import fcntl
import os
import sys
from hashlib import sha256
from pathlib import Path

from rmlr.settings import Study
from rmlr.source import code_digest

sys.path.insert(0, f"{workflow.basedir}/workflow")
os.environ["PATH"] = os.pathsep.join(
    [str(Path(sys.executable).parent), os.environ["PATH"]]
)  # jobs find `rmlr`

from progress import listen, show_progress, summary

STAGES = (
    "draw prepare detector features text train predict evaluate table figure".split()
)
STUDY = Study.load(Path("params.yaml"))
PROFILE = config.get("profile", STUDY.profile)
RESULTS = f"results/{PROFILE}"
CODE = {stage: code_digest(stage) for stage in STAGES}
CODE["table"] += sha256(
    b"".join(file.read_bytes() for file in sorted(Path("paper").glob("*.csv")))
).hexdigest()[:16]
NODES = STUDY.nodes(PROFILE, CODE)
CHOSEN = STUDY.profiles[PROFILE]

# The drawn world, or the folder of real data in the same layout.
RAW = f"{RESULTS}/world/draw" if CHOSEN.world else config.get("raw", "data/raw")
ALL_RUNS = {
    f"{group}/{name}": run
    for group, runs in STUDY.runs.items()
    for name, run in runs.items()
}
LONG_AGO = 946684800  # 1 January 2000: older than whatever a stage writes


def lock():
    """Whether this process may write: it holds the project's lock until it dies, however it dies."""
    global lock_file
    Path(".snakemake").mkdir(exist_ok=True)
    lock_file = open(".snakemake/rmlr.lock", "a+")
    try:
        fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    lock_file.truncate(0)
    lock_file.write(f"{os.getpid()}")
    lock_file.flush()
    return True


def want(path, content, *, made):
    """Write an input file of a rule: old when `made`, what the rule has made, came of it; else new, so the rule runs again."""
    path = Path(path)
    if not path.exists() or path.read_text() != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    os.utime(path, (LONG_AGO, LONG_AGO) if made else None)


def same(one, other):
    """Whether both files exist and are equal."""
    one, other = Path(one), Path(other)
    return one.is_file() and other.is_file() and one.read_bytes() == other.read_bytes()


def settings(node):
    """The settings file of a node, given by its folder below results/PROFILE."""
    return f"{RESULTS}/settings/{node}.yaml"


def copy_marker(table):
    return f"{RESULTS}/settings/copies/{table}.txt"


def write_settings():
    for node, section in NODES.items():
        content = section.dump()
        copy = Path(RESULTS, node, "settings.yaml")
        want(
            settings(node), content, made=copy.is_file() and copy.read_text() == content
        )
    for table in STUDY.tables:
        pairs = [
            (f"{RESULTS}/tables/{table}/{table}.{kind}", f"results/{table}.{kind}")
            for kind in ("csv", "md")
        ]
        want(
            copy_marker(table),
            f"results/{table}.*\n",
            made=all(same(*pair) for pair in pairs),
        )


IS_MAIN = workflow.is_main_process
MAY_WRITE = IS_MAIN and lock()
if MAY_WRITE:
    write_settings()
    study_log = listen(RESULTS)


wildcard_constraints:
    profile=PROFILE,
    dataset="|".join(CHOSEN.train),
    backbone="|".join(CHOSEN.backbones),
    encoder="|".join(CHOSEN.encoders),
    split="train|val|test",
    group="|".join(STUDY.runs),
    run="[^/]+",
    seed="|".join(map(str, CHOSEN.seeds)),
    table="|".join(STUDY.tables),
    figure="|".join(STUDY.figures),


onstart:
    if not MAY_WRITE:
        sys.exit(
            f"Process {Path('.snakemake/rmlr.lock').read_text()} is at work on this study; wait for it, or stop it."
        )
    if not (
        workflow.output_settings.verbose or workflow.output_settings.printshellcmds
    ):
        show_progress(study_log, workflow.cores)


onsuccess:
    print(summary(RESULTS, [Path("results", f"{table}.md") for table in STUDY.tables]))
