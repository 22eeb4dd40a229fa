"""The columns of a streamed dataset may be on disk while it is listed: the list is the same."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hf_relabel.config import SourceConfig
from hf_relabel.errors import SourceError
from hf_relabel.sources.source import open_source


def photo(shade: int) -> dict:
    content = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(content, "PNG")
    return {"bytes": content.getvalue(), "path": f"{shade % 5}/{shade:03d}.png"}


def write_files(folder, kinds: list[pa.DataType]) -> SourceConfig:
    """One file per type of the labels, in row groups of 3 rows, the last one without rows."""
    folder.mkdir()
    for number, kind in enumerate([*kinds, kinds[0]]):
        shades = range(20 * number, 20 * number + 10 if number < len(kinds) else 0)
        labels = pa.array([f"class {k % 3}" if pa.types.is_string(kind) else k % 3 for k in shades], kind)
        images = pa.array([photo(k) for k in shades], pa.struct({"bytes": pa.binary(), "path": pa.string()}))
        rows = pa.table({"image": images, "label": labels})
        pq.write_table(rows, folder / f"train-{number:05d}-of-{len(kinds) + 1:05d}.parquet", row_group_size=3)
    (folder.parent / "names.txt").write_text("a\nb\nc\n")
    return SourceConfig(
        kind="dataset", path=str(folder), streaming=True, class_names=str(folder.parent / "names.txt"),
    )  # fmt: skip


@pytest.mark.parametrize("kinds", [[pa.int64(), pa.int64()], [pa.int32(), pa.int64(), pa.int32()]])
def test_a_list_made_on_disk_is_the_list_made_in_memory(tmp_path, kinds):
    config = write_files(tmp_path / "data", kinds)
    (tmp_path / "scratch").mkdir()
    whole, listed = open_source(config), open_source(config, tmp_path / "scratch")
    assert listed.image_ids == whole.image_ids == sorted(whole.image_ids)
    assert np.array_equal(listed.labels, whole.labels)
    assert listed.fingerprint == whole.fingerprint
    for item, image_id in zip(listed.read(range(len(whole))), whole.image_ids, strict=True):
        assert listed.load(item).image.getpixel((0, 0))[0] == int(image_id[2:5])


def test_labels_of_two_types(tmp_path):
    config = write_files(tmp_path / "data", [pa.int64(), pa.string()])
    with pytest.raises(SourceError, match=r"its files do not have the same columns .*int64 vs string"):
        open_source(config, tmp_path)
