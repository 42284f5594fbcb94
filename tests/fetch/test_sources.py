"""The table of sources: what is in it, and who needs which."""

import re
from pathlib import Path

import pytest
import yaml

from rmlr.fetch.place import Place, measure
from rmlr.fetch.sources import Sources, gives, load_sources, needed
from rmlr.study.plan import Study

ROOT = Path(__file__).parents[2]
RAW = Path("data/raw")
TABLE = load_sources(None)
STUDY = Study.load(ROOT / "params.yaml")


def item(**more) -> dict:
    return {
        "file": "a.json",
        "urls": ["http://a/a.json"],
        "about": 1,
        "sha256": "unpublished",
        "gives": [{"to": "a"}],
    } | more


def table(**sources) -> dict:
    entry = {"what": "x", "licence": "x", "serves": [], "evidence": "read"}
    return {"sources": {name: entry | content for name, content in sources.items()}}


def test_the_releases_have_their_sizes_and_numbers_of_files():
    train, val = TABLE["coco-train2014"].items[0], TABLE["coco-val2014"].items[0]
    assert (train.bytes, train.gives[0].files) == (13_510_573_713, 82_783)
    assert (val.bytes, val.gives[0].files) == (6_645_013_297, 40_504)
    photos = {gift.to: gift.files for gift in TABLE["hicodet"].gifts}
    assert photos["images/train2015"] == 38_118
    assert photos["images/test2015"] == 9_658
    assert {"hicodet/anno.mat", "hicodet/anno_bbox.mat"} <= photos.keys()


def test_every_file_of_git_is_pinned_to_a_whole_commit():
    for name, source in TABLE.items():
        for url in (url for one in source.items for url in one.urls if "github" in url):
            assert re.search(r"/[0-9a-f]{40}/", url), (name, url)
    of_git = [one for source in TABLE.values() for one in source.items if "github" in one.urls[0]]
    assert len(of_git) == 12
    assert all(one.is_known for one in of_git)


def test_the_paper_profile_finds_a_source_for_every_weight_that_it_names():
    wanted = needed(TABLE, STUDY, "paper", RAW)
    datasets = {name for name, source in TABLE.items() if source.serves}
    assert wanted.keys() & datasets == datasets - {"coco-val2017"}
    assert not {name for name in wanted if "2017" in name}
    for detector in STUDY.profiles["paper"].detectors.values():
        if detector.weights:
            assert any(gives(source, detector.weights, detector.revision, RAW) for source in TABLE.values()), detector
    for encoder in STUDY.profiles["paper"].encoders.values():
        if "/" in encoder.weights:
            assert any(gives(source, encoder.weights, encoder.revision, RAW) for source in TABLE.values()), encoder
    assert gives(TABLE["pose-r50"], STUDY.profiles["paper"].pose.weights, None, RAW)


def test_a_profile_of_the_photos_of_val2017_needs_these_alone():
    paper = STUDY.profiles["paper"]
    part = paper.model_copy(update={"vcoco": paper.vcoco.model_copy(update={"photos": "val2017"})})
    study = STUDY.model_copy(update={"profiles": STUDY.profiles | {"paper": part}})
    wanted = needed(TABLE, study, "paper", RAW)
    of_vcoco = {name for name, reasons in wanted.items() if "data set vcoco" in reasons}
    assert of_vcoco == {"coco-val2017", "coco-annotations2014", "vcoco"}


def test_photos_that_serve_a_part_leave_receipts_as_they_were():
    source = TABLE["coco-val2014"]
    assert source.model_copy(update={"photos": "val2017"}).digest == source.digest


@pytest.mark.parametrize("profile", ["demo", "tiny"])
def test_the_drawn_profiles_need_nothing(profile):
    assert needed(TABLE, STUDY, profile, RAW) == {}


def test_without_sources_nothing_is_needed():
    assert needed({}, STUDY, "paper", RAW) == {}


def test_a_revision_that_nobody_has_is_given_by_no_source():
    assert gives(TABLE["hub-mobilebert"], "google/mobilebert-uncased", "main", RAW)
    assert not gives(TABLE["hub-mobilebert"], "google/mobilebert-uncased", "other", RAW)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (table(a={"items": [item(sha256="abc")]}), "String should match pattern"),
        (table(a={"items": [item(about=None)]}), "give `bytes`, or `about`"),
        (table(a={"items": [item(gives=[{"to": "../../etc"}])]}), "below its folder"),
        (table(a={"items": [item(gives=[{"to": "/etc/a"}])]}), "below its folder"),
        (table(a={"items": [item(unpack="zip")]}), "needs its `member`"),
        (table(a={"items": [item(gives=[{"to": "a", "files": 2}])]}), "not unpacked gives one file"),
        (table(a={}), "give either `items` or `hub`"),
        (table(**{"a/b": {"items": [item()]}}), "letters, digits and hyphens"),
        (table(a={"items": [item()]}, b={"items": [item()]}), "comes from a and from b"),
        (table(a={"items": [item(mirror="x")]}), "mirror"),
    ],
)
def test_a_table_that_cannot_be_is_refused(content, said):
    with pytest.raises(ValueError, match=said):
        Sources.check(content, "sources.yaml")


def test_a_table_that_is_not_there_or_no_yaml_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.yaml: cannot be read .*Is that the table of sources"):
        load_sources(tmp_path / "none.yaml")
    (tmp_path / "a.yaml").write_text("a: [")
    with pytest.raises(ValueError, match=r"a\.yaml: not YAML"):
        load_sources(tmp_path / "a.yaml")


def test_measuring_counts_what_is_below_and_not_what_is_hidden(tmp_path):
    assert measure(tmp_path) == (0, 0)
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b.jpg").write_bytes(b"123")
    (tmp_path / "c.jpg").write_bytes(b"45")
    (tmp_path / ".gitignore").write_bytes(b"6")
    assert measure(tmp_path) == (2, 5)
    assert measure(tmp_path / "c.jpg") == (1, 2)
    with pytest.raises(OSError, match="no"):
        measure(tmp_path / "no")


def test_an_unreadable_receipt_counts_as_missing(tmp_path):
    place = Place(tmp_path)
    assert place.trouble("vcoco", TABLE["vcoco"]) == "not fetched"
    place.receipt("vcoco").parent.mkdir()
    place.receipt("vcoco").write_text('{"name": "vco')
    assert place.trouble("vcoco", TABLE["vcoco"]).startswith(f"its receipt is damaged: {place.receipt('vcoco')}: ")


def test_what_was_seen_first_is_kept(tmp_path):
    ONE, TWO, THREE = (64 * digit for digit in "123")
    place = Place(tmp_path)
    assert place.first_seen() == {}
    place.remember("a/b.zip", {"sha256": ONE})
    place.remember("a/b.zip", {"sha256": TWO})
    place.remember("a/a.zip", {"sha256": THREE})
    assert place.first_seen() == {"a/a.zip": {"sha256": THREE}, "a/b.zip": {"sha256": ONE}}
    (tmp_path / "checksums.json").write_text("<<<<<<< HEAD")
    with pytest.raises(ValueError, match=r"checksums\.json: Invalid JSON.*version control"):
        place.first_seen()


def test_the_guide_lists_the_table():
    text = (ROOT / "docs/fetch.md").read_text()
    rows = {line.split("|")[1].strip(" `"): line for line in text.splitlines() if line.startswith("| `")}
    assert rows.keys() == TABLE.keys()
    for name, source in TABLE.items():
        size = f"{source.size / 1e9:.2f} GB" if source.size >= 1e8 else f"{source.size / 1e6:.1f} MB"
        assert size in rows[name], f"{name}: {size}"
        for gift in source.gifts:
            assert Path(gift.to).name in rows[name], f"{name}: {gift.to}"
            assert gift.files is None or f"{gift.files:,}" in rows[name], f"{name}: {gift.files}"
        if source.hub:
            named = source.hub.commit[:7] if source.hub.commit else source.hub.revision
            assert f"{source.hub.repository} at `{named}`" in rows[name], f"{name}: {named}"


def test_the_table_is_shipped_with_the_package():
    packaged = (ROOT / "pyproject.toml").read_text()
    assert '"rmlr.fetch" = ["*.yaml"]' in packaged
    assert yaml.safe_load((ROOT / "rmlr/fetch/sources.yaml").read_text())
