"""The feature cache: what is written comes back, whatever the map sizes, shards and interruptions."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from rmlr.data.features import INDEX_FILE, Features, FeatureWriter, Index, ShardBuilder, check_space, shard_name
from rmlr.hoi.batch import Instances, Level
from rmlr.study.tensors import save_tensors

CHANNELS, TOKEN_DIM = 3, 2
SIDES = ("shortest", "longest")
VIEW = {
    "image": {"shortest": 48, "longest": 64},
    "selection": {"nms_iou": 0.5, "min_score": 0.2, "min_instances": 1, "max_instances": 4},
    "map": "backbone",
}


def make_index(image_ids: list[int], **changes) -> Index:
    settings = {
        "detector_digest": "abc",
        "view": VIEW,
        "objects": ["person", "ball"],
        "person": 0,
        "channels": CHANNELS,
        "token_dim": TOKEN_DIM,
        "map_dtype": "float32",
        "shard_images": 2,
        "image_ids": image_ids,
        "views": 1,
        "augment": None,
    }
    return Index.model_validate(settings | changes)


def write_shard(writer: FeatureWriter, shard: int, image_ids: list[int], sizes: dict[int, tuple[int, int]]) -> None:
    """Image i has i % 4 instances, all scores i / 8, and a map of i."""
    builder = ShardBuilder(writer.index)
    counts = torch.tensor([image_id % 4 for image_id in image_ids])
    image = torch.repeat_interleave(torch.arange(len(image_ids)), counts)
    ids = torch.tensor(image_ids, dtype=torch.float)[image]
    place = torch.cat([torch.arange(count) for count in counts.tolist()])
    instances = Instances(
        boxes=ids[:, None].expand(-1, 4).contiguous(),
        scores=ids / 8,
        labels=(place > 0).long(),
        tokens=torch.stack([ids, place.float()], dim=1),
    )
    height, width = (max(sizes[image_id][axis] for image_id in image_ids) for axis in (0, 1))
    maps = torch.full((len(image_ids), CHANNELS, height, width), -1.0)
    is_padding = torch.ones(len(image_ids), height, width, dtype=torch.bool)
    for position, image_id in enumerate(image_ids):
        h, w = sizes[image_id]
        maps[position, :, :h, :w] = image_id + 0.25 * torch.arange(h * w).view(h, w)
        is_padding[position, :h, :w] = False
    originals = torch.tensor([[100 * image_id, 200] for image_id in image_ids])
    builder.add(image_ids, instances, image, [Level(maps, is_padding, originals / 8)], originals)
    writer.write(shard, builder)


def write_cache(folder: Path, sizes: dict[int, tuple[int, int]], **changes) -> None:
    writer = FeatureWriter(make_index(list(sizes), **changes), folder.parent / f".{folder.name}.resume", "same")
    for shard, image_ids in writer.missing():
        write_shard(writer, shard, image_ids[::-1], sizes)
    folder.mkdir()
    writer.finish(folder)


@pytest.fixture
def ragged(tmp_path: Path) -> Features:
    write_cache(tmp_path / "train", {7: (2, 3), 4: (1, 2), 5: (3, 1)})
    return Features.load(tmp_path, "train")


def test_images_come_back_in_the_order_of_the_annotations(ragged):
    assert ragged.image_ids == [7, 4, 5]
    batch = ragged.batch([0, 1, 2])
    assert batch.image_ids.tolist() == [7, 4, 5]
    assert batch.instance_image.tolist() == [0, 0, 0, 2]
    assert (8 * batch.instances.scores).tolist() == [7, 7, 7, 5]
    assert batch.image_sizes.tolist() == [[700, 200], [400, 200], [500, 200]]


def test_a_batch_follows_the_order_asked_for_and_may_repeat_an_image(ragged):
    batch = ragged.batch([2, 0, 2])
    assert batch.image_ids.tolist() == [5, 7, 5]
    assert batch.instances.tokens.tolist() == [[5, 0], [7, 0], [7, 1], [7, 2], [5, 0]]
    assert batch.instance_image.tolist() == [0, 1, 1, 1, 2]


def test_ragged_maps_are_padded_with_zeros_and_say_so(ragged):
    batch = ragged.batch([0, 2])
    assert batch.maps.shape == (2, CHANNELS, 3, 3)
    assert torch.equal(batch.maps[0, 0, :2], 7 + 0.25 * torch.arange(6).view(2, 3))
    assert torch.equal(batch.maps[1, 0, :, 0], 5 + 0.25 * torch.arange(3))
    assert batch.is_padding[0].tolist() == [[False] * 3, [False] * 3, [True] * 3]
    assert batch.is_padding[1].tolist() == [[False, True, True]] * 3
    assert (batch.maps.permute(0, 2, 3, 1)[batch.is_padding] == 0).all()


def test_maps_of_equal_area_and_unequal_shape_are_not_mixed_up(tmp_path):
    write_cache(tmp_path / "test", {1: (2, 3), 2: (3, 2)})
    batch = Features.load(tmp_path, "test").batch([0, 1])
    assert batch.maps.shape == (2, CHANNELS, 3, 3)
    assert torch.equal(batch.maps[1, 0, :, :2], 2 + 0.25 * torch.arange(6).view(3, 2))


def test_maps_of_one_size_have_no_padding(tmp_path):
    write_cache(tmp_path / "test", {1: (2, 2), 2: (2, 2), 3: (2, 2)}, map_dtype="float16")
    batch = Features.load(tmp_path, "test").batch([2, 0])
    assert not batch.is_padding.any()
    assert batch.maps.dtype == torch.float32
    assert batch.maps[:, 1].flatten(1).tolist() == [[3, 3.25, 3.5, 3.75], [1, 1.25, 1.5, 1.75]]


def test_an_empty_batch_and_an_empty_split_are_batches(tmp_path, ragged):
    assert ragged.batch([]).maps.shape[0] == 0
    write_cache(tmp_path / "val", {})
    empty = Features.load(tmp_path, "val")
    assert len(empty) == 0
    assert len(empty.pair_counts) == 0
    assert empty.batch([]).instances.boxes.shape == (0, 4)


def write_levels(folder: Path, finer: list[int]) -> None:
    """Two images with maps of 2 x 3 and 1 x 2 cells, and of twice as many for each finer level."""
    index = make_index([3, 8], finer_channels=finer)
    writer = FeatureWriter(index, folder.parent / f".{folder.name}.resume", "same")
    builder = ShardBuilder(index)
    nothing = Instances(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long(), torch.zeros(0, TOKEN_DIM))
    for image_id, (height, width) in {8: (1, 2), 3: (2, 3)}.items():
        levels = []
        for level, channels in enumerate((CHANNELS, *finer)):
            shape = (1, channels, height * 2**level, width * 2**level)
            maps = torch.arange(math.prod(shape)).view(shape) + 100.0 * image_id
            sizes = torch.full((1, 2), 16.0 / 2**level)
            levels.append(Level(maps, torch.zeros(1, *shape[2:]).bool(), sizes))
        builder.add([image_id], nothing, torch.zeros(0).long(), levels, torch.tensor([[32, 48]]))
    writer.write(0, builder)
    folder.mkdir()
    writer.finish(folder)


def test_several_maps_come_back_each_with_its_cells(tmp_path):
    write_levels(tmp_path / "test", [5, 2])
    cached = Features.load(tmp_path, "test")
    assert cached.finer_channels == (5, 2)
    batch = cached.batch([1, 0])
    assert [tuple(level.maps.shape) for level in batch.levels] == [(2, CHANNELS, 2, 3), (2, 5, 4, 6), (2, 2, 8, 12)]
    for number, level in enumerate(batch.levels):
        rows, columns = 2**number, 2 * 2**number  # of image 8
        assert level.cell_sizes.tolist() == [[16 / 2**number] * 2] * 2
        expected = 800 + torch.arange(level.maps.shape[1] * rows * columns).view(-1, rows, columns)
        assert torch.equal(level.maps[0, :, :rows, :columns], expected.float())
        assert (~level.is_padding[0]).sum() == rows * columns
        assert not level.is_padding[1].any()
        assert (level.maps.permute(0, 2, 3, 1)[level.is_padding] == 0).all()


def test_a_damaged_finer_map_is_named(tmp_path):
    write_levels(tmp_path / "test", [5])
    path = tmp_path / "test" / shard_name(0)
    tensors = load_file(path)
    tensors["maps_1"][3, 2] = torch.inf
    save_file(tensors, path)
    with pytest.raises(ValueError, match=rf"{shard_name(0)}.*maps_1.*\[3, 2\]"):
        Features.load(tmp_path, "test").batch([0])
    tensors["maps_1"] = tensors["maps_1"][:-1]
    save_file(tensors, path)
    with pytest.raises(ValueError, match=r"map_sizes_1.*makes 32 cells_1, but the shard has 31"):
        Features.load(tmp_path, "test")


def test_trainval_is_train_then_val(tmp_path, ragged):
    write_cache(tmp_path / "val", {3: (1, 1)})
    both = Features.load(tmp_path, "trainval")
    assert both.image_ids == [7, 4, 5, 3]
    assert (8 * both.batch([3, 0]).instances.scores).tolist() == [3, 3, 3, 7, 7, 7]


def test_pairs_are_every_human_with_every_other_instance(ragged):
    assert ragged.pair_counts.tolist() == [2, 0, 0]  # a human and two balls; nothing; a human alone


def test_an_interrupted_writer_resumes_with_the_missing_shards(tmp_path):
    sizes = dict.fromkeys((1, 2, 3), (1, 1))
    write_shard(FeatureWriter(make_index([1, 2, 3]), tmp_path / "resume", "same"), 0, [1, 2], sizes)
    again = FeatureWriter(make_index([1, 2, 3]), tmp_path / "resume", "same")
    assert again.missing() == [(1, [3])]


@pytest.mark.parametrize("change", [{"detector_digest": "other"}, {"image_ids": [2, 1, 3]}])
def test_shards_of_another_detector_or_of_other_images_are_rebuilt(tmp_path, change):
    sizes = dict.fromkeys((1, 2, 3), (1, 1))
    write_shard(FeatureWriter(make_index([1, 2, 3]), tmp_path / "resume", "same"), 0, [1, 2], sizes)
    again = FeatureWriter(make_index([1, 2, 3]).model_copy(update=change), tmp_path / "resume", "same")
    assert [shard for shard, _ in again.missing()] == [0, 1]


def test_shards_with_another_identity_are_rebuilt(tmp_path):
    sizes = {1: (1, 1), 2: (1, 1)}
    write_shard(FeatureWriter(make_index([1, 2]), tmp_path / "resume", "same"), 0, [1, 2], sizes)
    assert FeatureWriter(make_index([1, 2]), tmp_path / "resume", "other").missing() == [(0, [1, 2])]


def test_a_truncated_shard_is_rebuilt_while_writing(tmp_path):
    sizes = {1: (1, 1), 2: (1, 1)}
    write_shard(FeatureWriter(make_index([1, 2]), tmp_path / "resume", "same"), 0, [1, 2], sizes)
    shard = tmp_path / "resume" / shard_name(0)
    shard.write_bytes(shard.read_bytes()[:-8])
    assert FeatureWriter(make_index([1, 2]), tmp_path / "resume", "same").missing() == [(0, [1, 2])]


def test_a_truncated_shard_is_refused_by_name_while_reading(tmp_path, ragged):
    shard = tmp_path / "train" / shard_name(1)
    shard.write_bytes(shard.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"shard-00001\.safetensors: cannot be read"):
        Features.load(tmp_path, "train")


def test_a_missing_or_broken_index_is_refused_by_name(tmp_path, ragged):
    with pytest.raises(ValueError, match=r"test/index\.json: cannot be read"):
        Features.load(tmp_path, "test")
    (tmp_path / "train" / INDEX_FILE).write_text("{")
    with pytest.raises(ValueError, match=r"train/index\.json: .*cut off"):
        Features.load(tmp_path, "train")


@pytest.mark.parametrize("change", [{"detector_digest": "other"}, {"view": VIEW | {"image": dict.fromkeys(SIDES, 99)}}])
def test_splits_of_two_detectors_or_views_are_not_joined(tmp_path, ragged, change):
    write_cache(tmp_path / "val", {3: (1, 1)}, **change)
    with pytest.raises(ValueError, match="another detector or view"):
        Features.load(tmp_path, "trainval")


def test_a_map_too_large_for_its_type_is_an_error_that_names_the_image(tmp_path):
    builder = ShardBuilder(make_index([9], map_dtype="float16"))
    nothing = Instances(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long(), torch.zeros(0, TOKEN_DIM))
    maps = torch.full((1, CHANNELS, 1, 1), 1e6)
    sizes = torch.tensor([[8, 8]])
    level = Level(maps, torch.zeros(1, 1, 1).bool(), sizes / 1)
    with pytest.raises(ValueError, match="image 9: its map does not fit into float16"):
        builder.add([9], nothing, torch.zeros(0).long(), [level], sizes)


def test_a_cache_larger_than_the_disk_is_refused(tmp_path):
    check_space(tmp_path, 1)
    with pytest.raises(ValueError, match="features need about"):
        check_space(tmp_path, 10**18)


# ---- damaged shards


def use(folder: Path) -> None:
    """Read all that the split `train` has."""
    cache = Features.load(folder, "train")
    cache.batch(range(len(cache)))


def change_shard(path: Path, keep_checksums: bool = False, **changes: torch.Tensor | None) -> None:
    """As somebody without checksums, or somebody who leaves them as they were, would write it."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata() if keep_checksums else {"digest": "abc"}
    kept = {name: tensor for name, tensor in (load_file(path) | changes).items() if tensor is not None}
    save_file(kept, path, metadata)


def test_a_bit_that_flips_anywhere_in_a_shard_is_one_error_that_names_it(tmp_path, ragged):
    shard = tmp_path / "train" / shard_name(1)
    content = shard.read_bytes()
    for at in range(0, len(content), 5):
        damaged = bytearray(content)
        damaged[at] ^= 1 << at % 8
        shard.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"train/shard-00001\.safetensors: ") as raised:
            use(tmp_path)
        assert str(raised.value).count("\n") == 0


def test_a_shard_that_was_made_before_there_were_checksums_is_read(tmp_path, ragged):
    change_shard(tmp_path / "train" / shard_name(0))
    assert torch.equal(Features.load(tmp_path, "train").batch([0, 1]).maps, ragged.batch([0, 1]).maps)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"boxes": None}, r"'boxes' is missing"),
        ({"tokens": torch.zeros(3, TOKEN_DIM - 1)}, r"'tokens' is .* of shape \[3, 1\], expected .*\[instances, 2\]"),
        ({"scores": torch.zeros(2)}, r"'scores' is float32 of shape \[2\], expected .* with instances = 3"),
        ({"scores": torch.tensor([0, 0.5, torch.nan])}, r"'scores' holds nan at \[2\]"),
        ({"scores": torch.tensor([0, 1.5, 0])}, r"'scores' holds 1\.5 at \[1\]"),
        ({"boxes": torch.full((3, 4), torch.inf)}, r"'boxes' holds inf at \[0, 0\]"),
        ({"labels": torch.tensor([0, 1, 2])}, r"'labels' holds 2 at \[2\], expected whole numbers .* at most 1"),
        ({"labels": torch.tensor([0, 1, -1])}, r"'labels' holds -1 at \[2\]"),
        ({"counts": torch.tensor([2, 0])}, r"'counts' makes 2 instances, but the shard has 3"),
        ({"counts": torch.tensor([-1, 4])}, r"'counts' holds -1 at \[0\]"),
        ({"map_sizes": torch.tensor([[2, 3], [1, 1]])}, r"'map_sizes' makes 7 cells, but the shard has 8"),
        ({"map_sizes": torch.tensor([[2**62, 2**62], [1, 2]])}, r"'map_sizes' makes \d+ cells"),
        ({"map_sizes": torch.tensor([[0, 3], [1, 2]])}, r"'map_sizes' holds 0 at \[0, 0\]"),
        ({"cell_sizes": torch.zeros(2, 2)}, r"'cell_sizes' holds 0\.0 at \[0, 0\]"),
        ({"image_ids": torch.tensor([7, 5])}, r"'image_ids' does not name the images that index\.json does"),
        ({"image_ids": torch.tensor([[7, 4]])}, r"'image_ids' is int64 of shape \[1, 2\]"),
        ({"maps": torch.zeros(8, CHANNELS).half()}, r"'maps' is float16"),
        ({"maps": torch.zeros(7, CHANNELS)}, r"'map_sizes' makes 8 cells, but the shard has 7"),
        ({"maps": torch.tensor([0.0] * 23 + [torch.nan]).view(8, 3)}, r"'maps' holds nan at \[7, 2\], expected finite"),
    ],
)  # fmt: skip
def test_a_shard_with_a_wrong_tensor_is_refused_by_name_and_index(tmp_path, ragged, changes, said):
    change_shard(tmp_path / "train" / shard_name(0), **changes)
    with pytest.raises(ValueError, match=rf"shard-00000\.safetensors: tensor {said}.*again with `rmlr features`"):
        use(tmp_path)


def test_a_changed_map_is_found_when_one_of_its_images_is_used(tmp_path, ragged):
    change_shard(tmp_path / "train" / shard_name(0), keep_checksums=True, maps=torch.zeros(8, CHANNELS))
    cache = Features.load(tmp_path, "train")
    assert cache.batch([2]).image_ids.tolist() == [5]
    with pytest.raises(ValueError, match="'maps' does not have the checksum"):
        cache.batch([0])


def test_a_shard_of_another_network_is_refused(tmp_path, ragged):
    save_tensors(path := tmp_path / "train" / shard_name(0), load_file(path), {"digest": "abd"})
    with pytest.raises(ValueError, match="is of another network than index"):
        use(tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"shard_images": 0}, "shard_images: .*greater than 0"),
        ({"views": 0}, "views: .*greater than 0"),
        ({"channels": -3}, "channels: .*greater than 0"),
        ({"person": 2}, "person is object 2, expected 0 to 1"),
        ({"image_ids": [7, 4, 7]}, "an image is listed twice"),
        ({"image_ids": [7, 4, 2**70]}, "image_ids"),
        ({"shard_images": 1}, r"shard-00000.*'image_ids' does not name"),
        ({"objects": ["person"]}, r"'labels' holds 1 at \[1\]"),
    ],
)
def test_an_index_that_does_not_fit_is_one_clear_error(tmp_path, ragged, changes, said):
    path = tmp_path / "train" / INDEX_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=said):
        use(tmp_path)
