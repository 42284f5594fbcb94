"""`rmlr STAGE --flag value`: one command per stage of the study, and further commands for users.

Paths and names are given by flags, the numbers of a stage by a file.
"""

import logging
import os
import re
import signal
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, get_args

import cyclopts
from cyclopts import App, Group, Parameter, Token

HELP = """RmLR (Cao et al., ICCV 2023), reproduced: human-object interaction detection guided by language.

A stage of the study reads files, writes one folder, and can be run by hand. The numbers it needs
come in a settings file; `snakemake -n` writes those of the whole study, from params.yaml, to results/PROFILE/settings.
`snakemake` runs all stages in order. `rmlr STAGE --help` says what a stage reads, writes and needs.
"""

STAGES = {
    "fetch": "A table of sources -> real data and weights: downloaded, verified, unpacked.",
    "draw": "A seed -> the synthetic data: pictures, annotated in V-COCO's and HICO-DET's formats.",
    "prepare": "Raw annotations, synthetic or real -> our records, with contiguous ids.",
    "detector": "Records and pictures -> a DETR, trained or used unchanged, then frozen.",
    "features": "Frozen DETR and pictures -> instances, tokens and maps of one split.",
    "joints": "People's joints, synthetic or real -> a small pose network, trained, then frozen.",
    "pose": "Frozen pose network, pictures and features -> its map of each picture, used in place of IRE.",
    "text": "Records -> embeddings of every interaction's phrase and every image's text.",
    "train": "Records, features and text -> weights of the interaction modules.",
    "predict": "Weights and features -> scored triplets of the test split, one table.",
    "evaluate": "Scored triplets, of any method, and records -> metrics by the official protocol.",
    "table": "Metrics of all runs -> one of the paper's tables, with our numbers next to the paper's.",
    "separation": "Weights and features -> how well vectors separate people at the same place by what they do.",
    "figure": "Results of runs -> one figure: PNG, SVG, and the underlying numbers.",
    "statement": "All measurements -> which of the paper's orderings hold, with intervals.",
}

COMMANDS: dict[str, str] = {
    "together": "Several training runs with the same photos -> what `train` makes of each, in one pass.",
    "doctor": "A profile -> what is present and what is missing: data, mirrors, disk, time, GPUs, packages.",
    "photo": "Photos or videos and a trained run -> what people do in them: tables, and pictures with boxes.",
    "export": "A trained run and its detector -> one folder to share, or to serve with MLflow.",
    "adopt": "A published UPT's weights -> a run's folder, for photo, export and predict.",
    "accept": "A change of code that alters no result -> results marked as current, with name, time and reason.",
    "trace": "A row of a table -> its runs, and every stage behind them: settings, seed, code, inputs, versions.",
    "compare": "Two evaluations -> is one better, or is it noise?",
    "cost": "This machine -> what the networks of Table 4, or a training run, cost on it.",
}


def _convert(type_: Any, tokens: Sequence[Token]) -> Any:
    """A flag's value; a whole number has digits alone, where cyclopts would round others."""
    if int in (type_, *get_args(type_)):
        for token in tokens:
            if not re.fullmatch(r"[+-]?[0-9]+", token.value):
                raise ValueError(f"expected a whole number, got '{token.value}'")
    return cyclopts.convert(type_, tokens)


def command_line(named: str | None = None) -> App:
    """The parser of all commands. Only the `named` one loads its stage, whose docstring is its help text."""
    app = App(name="rmlr", help=HELP, version=version("rmlr"), help_format="markdown")
    app.default_parameter = Parameter(converter=_convert)
    app.suppress_keyboard_interrupt = False  # `main` has the message
    wings = (("stages", "Stages, in the order of the study", STAGES), ("commands", "Other commands", COMMANDS))
    for package, title, lines in wings:
        group = Group.create_ordered(title)
        for rank, (name, line) in enumerate(lines.items()):
            own = {} if name == named else {"help": line}
            app.command(f"rmlr.{package}.{name}:{name}", name=name, group=group, sort_key=rank, **own)
    return app


def main(arguments: list[str] | None = None) -> None:
    """Run one command. An error in the user's input is one message and exit status 1; RMLR_DEBUG=1 adds a traceback.

    Without `arguments`, the whole process is this command: it takes the arguments of the process, uses the command's
    number of threads from the start, and stops at once if a stage's result exists already.
    """
    is_process, arguments = arguments is None, sys.argv[1:] if arguments is None else arguments
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    helps = int(os.environ.get("RANK", "0")) > 0  # in a distributed run, only the first process reports
    logging.getLogger("rmlr").setLevel(logging.ERROR if helps else logging.INFO)
    named = arguments[0] if arguments and not arguments[0].startswith("-") else None
    try:
        if named is not None:
            if named not in STAGES | COMMANDS:
                raise ValueError(f"there is no command '{named}'. There are: {', '.join(STAGES | COMMANDS)}")
            if is_process:
                from rmlr.study import provenance
                from rmlr.study.threads import fix_threads

                provenance.command = arguments
                if signal.getsignal(signal.SIGTERM) != signal.SIG_IGN:
                    signal.signal(signal.SIGTERM, _end)
                fix_threads("train" if named == "together" else named)
        command_line(named)(arguments)
    except (ValueError, OSError) as error:
        if os.environ.get("RMLR_DEBUG", "") not in ("", "0"):
            raise
        if helps or isinstance(error, ConnectionResetError):
            time.sleep(5)  # so that the process with the cause reports first; the launcher then ends the others
        sys.exit(f"rmlr: {error}")
    except KeyboardInterrupt as error:  # of Ctrl-C, or with the number of another signal
        if not helps:
            sys.stderr.write("rmlr: stopped; the same command resumes from here\n")
        sys.exit(128 + (error.args[0] if error.args else signal.SIGINT))


def _end(number: int, _frame: object) -> None:
    """As by Ctrl-C, so that what is half-written is removed and the tracker's run is closed."""
    raise KeyboardInterrupt(number)


if __name__ == "__main__":
    main()
