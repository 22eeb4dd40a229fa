import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Features

from hf_relabel.schema import CONFIG_NAMES, release_features, release_schema

NAMES = ["cat", "dog"]
LABEL = {"names": NAMES, "_type": "ClassLabel"}


def stored(config_name):
    """The features as the Parquet files hold them."""
    metadata = json.loads(release_schema(config_name, NAMES).metadata[b"huggingface"])
    return metadata["info"]["features"]


def test_the_stored_features_are_spelt_as_old_datasets_read_them():
    assert stored("labels") == {
        "image_id": {"dtype": "string", "_type": "Value"},
        "label": LABEL,
        "labels": [LABEL],
        "scores": [{"dtype": "float32", "_type": "Value"}],
        "label_score": {"dtype": "float32", "_type": "Value"},
        "version": {"dtype": "string", "_type": "Value"},
    }
    (region,) = stored("regions")["regions"]
    assert region["segmentation"] == {
        "size": [{"dtype": "int32", "_type": "Value"}],
        "counts": {"dtype": "string", "_type": "Value"},
    }
    assert region["top_labels"] == [LABEL]


@pytest.mark.parametrize("config_name", CONFIG_NAMES)
def test_no_feature_type_is_stored_that_old_datasets_lack(config_name):
    text = json.dumps(stored(config_name))
    for kind in ("List", "Sequence", "Json", "LargeList"):
        assert f'"{kind}"' not in text
    assert '"length"' not in text


@pytest.mark.parametrize("config_name", CONFIG_NAMES)
def test_the_library_reads_the_same_features_back(config_name, tmp_path):
    schema = release_schema(config_name, NAMES)
    pq.write_table(pa.Table.from_pylist([], schema=schema), tmp_path / "a.parquet")
    found = Features.from_arrow_schema(pq.read_schema(tmp_path / "a.parquet"))
    assert found == release_features(config_name, NAMES)
    assert found.arrow_schema.equals(schema)
    assert not [field for field in schema if pa.types.is_string_view(field.type)]


def test_the_light_configuration_is_part_of_the_full_one():
    full = release_features("regions", NAMES)
    assert {key: full[key] for key in release_features("labels", NAMES)} == release_features("labels", NAMES)
