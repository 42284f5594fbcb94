"""docs/text.md: its settings are read as they stand."""

import re
from pathlib import Path

import pytest
import yaml

from rmlr.study.encoder import Encoder

PAGE = Path(__file__).parents[1] / "docs" / "text.md"
BLOCKS = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
ENTRIES = {key: entry for block in BLOCKS for key, entry in yaml.safe_load(block)["encoders"].items()}


@pytest.mark.parametrize("key", ENTRIES)
def test_every_encoder_of_the_page_is_read(key):
    encoder = Encoder.check(ENTRIES[key], f"docs/text.md, {key}")
    assert yaml.safe_load(encoder.dump()) == ENTRIES[key]  # nothing that is at its default is written


def test_the_page_has_every_pooling_and_every_way_to_say_a_sentence():
    encoders = [Encoder.check(entry, key) for key, entry in ENTRIES.items()]
    assert {encoder.pooling for encoder in encoders} == {"cls", "mean", "eos", "own"}
    assert any(encoder.prompt for encoder in encoders)
    assert any(encoder.several == "each" for encoder in encoders)
    assert any(encoder.shuffle_seed is not None for encoder in encoders)
