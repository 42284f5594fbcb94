"""Shared by all rules: the profile's graph, and the settings files of its nodes."""

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, f"{workflow.basedir}/workflow")

from rmlr.fetch.place import Place
from rmlr.fetch.sources import DEFAULT
from rmlr.study.device import visible_gpus
from rmlr.study.plan import Study

from graph import Graph
from progress import listen, show_progress, summary
from wanted import Wanted, only_one


envvars:
    "PATH",


os.environ.update(PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")  # jobs find `rmlr`

GRAPH = Graph.of(Study.load(Path("params.yaml")), config)
RESULTS, CHOSEN = GRAPH.results, GRAPH.chosen
MAY_WRITE = workflow.is_main_process and only_one(Path(".snakemake/rmlr.lock"))
REPORTED = GRAPH.reported() if any(argument.startswith("--report") for argument in sys.argv) else []
config.update(samples=GRAPH.study.statement.samples)  # for the report's captions
config.update(brief=next((file for file in REPORTED if file.endswith("brief.html")), ""))

if GRAPH.fetches:
    workflow.global_resources.setdefault("download", 3)  # at a time
    os.environ.update(HF_HUB_CACHE=str(Place(Path(GRAPH.raw)).hub.resolve()))
    if GRAPH.hub_is_whole():
        os.environ.update(HF_HUB_OFFLINE="1")  # a revision means the commit that was fetched, today and later
elif not CHOSEN.world and Place(DEFAULT).hub.is_dir():
    os.environ.setdefault(
        "HF_HUB_CACHE", str(Place(DEFAULT).hub.resolve())
    )  # `rmlr fetch` put weights for own data there
WANTED = Wanted(GRAPH, may_write=MAY_WRITE)  # what another process makes is left alone
INPUTS = WANTED.inputs
if MAY_WRITE:
    here = visible_gpus()
    if here and workflow.nodes is None:  # this machine's GPUs do not limit what runs on a cluster
        # a job takes its own (rmlr/study/device.py); with this, the others need not start to wait
        workflow.global_resources.setdefault("gpu", len(here))
    study_log = listen(RESULTS)


def by_data(drawn, vcoco, hicodet=None):
    """A resource of a job, by the data that it reads: the drawn world, V-COCO, or HICO-DET (like V-COCO if not given)."""

    def value(wildcards):
        if CHOSEN.world:
            return drawn
        if "detector" in wildcards.keys():
            dataset = CHOSEN.detectors[wildcards.detector].dataset
        elif "run" in wildcards.keys():
            dataset = GRAPH.runs[f"{wildcards.group}/{wildcards.run}"].dataset
        else:
            dataset = wildcards.get("dataset", "vcoco")
        return vcoco if hicodet is None or dataset == "vcoco" else hicodet

    return value


def gpus(wildcards):
    """GPUs of a job: on this machine one, if there is one; of a cluster one for real photos, none for the drawn world."""
    return 1 if workflow.local_exec or not CHOSEN.world else 0


wildcard_constraints:
    profile=GRAPH.profile,
    dataset="|".join(CHOSEN.train),
    detector="|".join(CHOSEN.detectors),
    backbone="|".join(CHOSEN.backbones),
    encoder="|".join(CHOSEN.encoders),
    split="train|val|test",
    group="|".join(GRAPH.study.runs),
    run="[^/]+",
    seed="|".join(map(str, CHOSEN.seeds)),
    fold="|".join(CHOSEN.fold_names) or "()",  # of a run's training, with the slash before it; nothing without folds
    table="|".join(GRAPH.tables),
    figure="|".join(GRAPH.figures),


onstart:
    if not MAY_WRITE:
        sys.exit(f"Process {Path('.snakemake/rmlr.lock').read_text()} is at work here; wait for it, or stop it.")
    WANTED.save()
    if not workflow.local_exec:
        # as Ctrl-C, which takes the jobs out of the queue; Snakemake would wait for them to start and end
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    if not (workflow.output_settings.verbose or workflow.output_settings.printshellcmds):
        show_progress(study_log, workflow.cores if workflow.local_exec else workflow.nodes)


onsuccess:
    copied = [name for name in study_log.copied if name in GRAPH.tables]
    tables = [Path(file) for name in copied for file in GRAPH.copies(name) if file.endswith(".md")]
    print(summary(RESULTS, tables, study_log.began))
