"""Which sources the profile reads, where it is one of real data and the folder of raw data is ours to fill.

A folder that the user names (`--config raw=FOLDER`) is the user's own: nothing is fetched for it, its files are what they
are. With `--config raw=FOLDER sources=TABLE` it is filled from another table of sources.
"""

from rmlr.fetch.place import Place
from rmlr.fetch.sources import DEFAULT, check_weights, gives, load_sources, named_weights, needed

FETCHES = not CHOSEN.world and ("raw" not in config or "sources" in config)
SOURCES = load_sources(Path(config["sources"]) if "sources" in config else None) if FETCHES else {}
NEEDED = needed(SOURCES, STUDY, PROFILE, Path(RAW))


def receipts(wanted):
    """What says that sources were fetched: those that the profile needs, and of them the `wanted` ones."""
    return [f"{RAW}/receipts/{name}.ok" for name in NEEDED if wanted(SOURCES[name])]


def annotation_receipts(dataset):
    return receipts(lambda source: dataset in source.serves and source.has_annotations)


def photo_receipts(datasets):
    return receipts(lambda source: set(datasets) & set(source.serves) and source.has_photos)


def weights_receipts(weights, revision):
    """Of the source of given weights; none for what is no source of ours."""
    return receipts(lambda source: gives(source, weights, revision, Path(RAW)))


def detector_weights(wildcards):
    chosen = CHOSEN.detectors[wildcards.detector]
    if not chosen.weights:
        return []
    if not FETCHES:
        check_weights(chosen.weights, chosen.revision)
    return weights_receipts(chosen.weights, chosen.revision)


def encoder_weights(wildcards):
    chosen = CHOSEN.encoders[wildcards.encoder]
    return weights_receipts(chosen.model, chosen.revision)


def fetch_settings(name):
    return f"{RESULTS}/settings/fetch/{name}.txt"


if FETCHES:
    workflow.global_resources.setdefault("download", 3)  # at a time
    os.environ.update(HF_HUB_CACHE=str(Place(Path(RAW)).hub.resolve()))
    if all(weights_receipts(*named) for named in named_weights(STUDY, PROFILE) if "/" in named[0] and named[1]):
        os.environ.update(HF_HUB_OFFLINE="1")  # a revision means the commit that was fetched, today and later
elif not CHOSEN.world and Place(DEFAULT).hub.is_dir():
    os.environ.setdefault("HF_HUB_CACHE", str(Place(DEFAULT).hub.resolve()))  # `rmlr fetch` put weights for own data there
if MAY_WRITE:
    for name in NEEDED:
        want(fetch_settings(name), f"{SOURCES[name].digest}\n", made=Place(Path(RAW)).has_receipt(name, SOURCES[name]))
