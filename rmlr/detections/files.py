"""Reading and writing scored detections of any method. The path determines the format:

FILE.parquet            our table of triplets
FILE.pkl, FILE.pickle   V-COCO's official list, which carries agent scores as well
FOLDER                  HICO-DET's official detections_01.mat ... detections_80.mat, or one detections.mat

Any other path is an error that lists these formats.
"""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from rmlr.detections.hicodet import read_hicodet_results, write_hicodet_results
from rmlr.detections.triplets import load_agents, load_triplets, name_table, save_agents, save_triplets
from rmlr.detections.vcoco import read_vcoco_results, write_vcoco_results
from rmlr.hoi import Agents, Triplets, Vocabulary

TABLE, PICKLES = ".parquet", (".pkl", ".pickle")
FORMS = (
    f"FILE{TABLE} (a table, for either dataset), FILE{' or FILE'.join(PICKLES)} (V-COCO's official list), or a folder "
    "of HICO-DET's official .mat files. See docs/evaluation.md"
)


def load_detections(
    source: Path | pa.Table | Triplets,
    agents: Path | pa.Table | Agents | None,
    vocabulary: Vocabulary,
    image_ids: Sequence[int],
) -> tuple[Triplets, Agents | None]:
    """Triplets, and agent scores if there are any: in V-COCO's pickle, or in `agents`, a separate table.

    Raises ValueError on a format of another dataset, and on any row that does not fit vocabulary and images.
    """
    if agents is not None and vocabulary.dataset != "vcoco":
        name = name_table(agents, "agents")
        raise ValueError(f"{name}: agent AP is V-COCO's; the annotations are of {vocabulary.dataset}. Leave it out")
    if isinstance(source, Path) and (source.is_dir() or source.suffix != TABLE):
        if agents is not None and source.suffix in PICKLES:
            name = name_table(agents, "agents")
            raise ValueError(f"{name}: {source} has its own agent scores. Give only one of them")
        return _load_official(source, vocabulary, image_ids)
    if isinstance(agents, Path) and agents.suffix != TABLE:
        raise ValueError(f"{agents}: agent scores are read from a table, FILE{TABLE}. See docs/evaluation.md")
    table = load_triplets(source, vocabulary=vocabulary, image_ids=image_ids)
    if agents is None:
        return table, None
    return table, load_agents(agents, vocabulary=vocabulary, image_ids=image_ids)


def _load_official(path: Path, vocabulary: Vocabulary, image_ids: Sequence[int]) -> tuple[Triplets, Agents | None]:
    """Read the format of the dataset's official program."""
    is_vcoco = vocabulary.dataset == "vcoco"
    if path.is_dir():
        if path.suffix == TABLE:
            raise ValueError(f"{path}: is a folder; expected a table in a single file")
        if is_vcoco:
            raise ValueError(f"{path}: a folder of .mat files is HICO-DET's form; the annotations are of V-COCO")
        return read_hicodet_results(path, vocabulary, image_ids), None
    if path.suffix not in PICKLES:
        what = "has an unknown format" if path.exists() else "no such file or folder"
        raise ValueError(f"{path}: {what}; expected {FORMS}")
    if not is_vcoco:
        raise ValueError(f"{path}: a pickle is V-COCO's form; the annotations are of {vocabulary.dataset}")
    return read_vcoco_results(path, vocabulary, image_ids)


def save_tables(folder: Path, triplets: Triplets, agents: Agents | None) -> None:
    """Write our own tables: triplets.parquet, and agents.parquet if there are agent scores."""
    save_triplets(folder / "triplets.parquet", triplets)
    if agents is not None:
        save_agents(folder / "agents.parquet", agents)


def save_official(
    folder: Path, triplets: Triplets, agents: Agents | None, vocabulary: Vocabulary, image_ids: Sequence[int]
) -> None:
    """Write the format of the dataset's official program: vcoco.pkl, or the .mat files of HICO-DET in `hicodet`."""
    if vocabulary.dataset == "vcoco":
        write_vcoco_results(folder / "vcoco.pkl", triplets, agents, vocabulary)
    else:
        write_hicodet_results(folder / "hicodet", triplets, vocabulary, image_ids)
