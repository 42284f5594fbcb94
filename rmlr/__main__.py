"""`rmlr STAGE --flag value`: one command per stage of the study; paths and identities by flag, numbers by file."""

import logging
import os
import sys

from cyclopts import App, Group

import rmlr

HELP = """RmLR (Cao et al., ICCV 2023), reproduced: human-object interaction detection guided by language.

Each command is one stage of the study: it reads files, writes one folder, and can be run by hand. The numbers it needs
come in a settings file; `snakemake -n` writes those of the whole study, from params.yaml, to results/PROFILE/settings.
`snakemake` runs all stages in order. `rmlr STAGE --help` says what a stage reads, writes and needs.
"""

STAGES = {
    "draw": "A seed -> the drawn world: pictures, annotated in V-COCO's and HICO-DET's formats.",
    "prepare": "Raw annotations, drawn or real -> our records, ids converted once and for all.",
    "detector": "Records and pictures -> a DETR, trained or taken as it is, then frozen.",
    "features": "Frozen DETR and pictures -> instances, tokens and maps of one split.",
    "text": "Records -> embeddings of every interaction's phrase and every image's text.",
    "train": "Records, features and text -> weights of the interaction modules.",
    "predict": "Weights and features -> scored triplets of the test split, one table.",
    "evaluate": "Scored triplets, of any method, and records -> metrics by the official protocol.",
    "table": "Metrics of all runs -> one of the paper's tables, ours beside theirs.",
    "figure": "Pictures and triplets of one run -> predictions drawn beside what was annotated.",
}


def command_line(named: str | None = None) -> App:
    """The commands. Only the one that is `named` loads its stage, and speaks by the stage's own docstring."""
    app = App(name="rmlr", help=HELP, version=rmlr.__version__, help_format="markdown")
    stages = Group.create_ordered("Stages, in the order of the study")
    for rank, (stage, line) in enumerate(STAGES.items()):
        own = {} if stage == named else {"help": line}
        app.command(f"rmlr.stages.{stage}:{stage}", name=stage, group=stages, sort_key=rank, **own)
    return app


def main(arguments: list[str] | None = None) -> None:
    """Run one stage. What a user gave wrongly is one message and exit status 1; RMLR_DEBUG=1 adds a traceback."""
    arguments = sys.argv[1:] if arguments is None else arguments
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("rmlr").setLevel(logging.INFO)
    named = arguments[0] if arguments and not arguments[0].startswith("-") else None
    try:
        if named is not None:
            if named not in STAGES:
                raise ValueError(f"there is no command '{named}'. There are: {', '.join(STAGES)}")
            from rmlr import run

            run.whole_process = True
        command_line(named)(arguments)
    except (ValueError, OSError) as error:
        if os.environ.get("RMLR_DEBUG", "") not in ("", "0"):
            raise
        sys.exit(f"rmlr: {error}")
    except KeyboardInterrupt:
        sys.stderr.write("rmlr: stopped; the same command goes on from here\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
