"""The note about exact copies among the images, by their labels."""

import pyarrow as pa
import pytest
from jobs import make_job

from hf_relabel.run.job import Job
from hf_relabel.run.ranks import Rank
from hf_relabel.run.shard_folder import ShardFolder
from hf_relabel.run.store import Fingerprint
from hf_relabel.schema import NO_LABEL, PROPOSALS
from hf_relabel.stages.copies import with_note


def write(folder, images, of="x"):
    """Proposals of images given as (content, label), in shards of 3; a content of None cannot be read."""
    job = make_job(folder, [label for _, label in images], 3, shard_size=3)
    shards = ShardFolder(job.stage_folder("proposals"), "proposals", Fingerprint({"of": of}))
    shards.folder.mkdir(exist_ok=True)
    for shard in job.shards:
        rows = [
            {
                "image_id": f"{index}.jpg",
                "label": images[index][1],
                "sha256": images[index][0] and images[index][0] * 64,
            }
            for index in range(shard.start, shard.stop)
        ]
        shards.write(shard.index, pa.Table.from_pylist(rows, schema=PROPOSALS), {"images": len(rows)})
    return job, shards, shards.write_manifest(lambda index: len(job.shards[index]), len(job.shards))


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ([("a", 0), ("b", 0), ("c", 1), (None, 0), (None, 1)], None),
        ([("0", 0), (None, 1), ("b", 0), (None, 0)], None),
        ([("a", 0), ("b", 0), ("b", 0), ("c", 1), ("b", 0)], "2 with the same label as another"),
        (
            [("a", 0), ("b", 2), ("c", 1), ("b", 1), ("a", 0), ("b", 2)],
            "3 with different labels (such as '1.jpg' = '3.jpg'; see {file}), 2 with the same label as another",
        ),
        ([("a", 0), ("a", 1)], "2 with different labels (such as '0.jpg' = '1.jpg'; see {file})"),
        ([("a", 0), ("a", NO_LABEL)], None),
    ],
)
def test_what_is_said(tmp_path, images, said):
    job, shards, manifest = write(tmp_path, images)
    noted = with_note(job, shards, manifest)
    expected = (
        None if said is None else f"exact copies among the images: {said.format(file=shards.folder / 'copies.json')}"
    )
    assert noted.get("note") == expected
    assert {key: value for key, value in noted.items() if key != "note"} == manifest
    assert with_note(job, shards, manifest) == noted, "from the record"


def test_copies_are_searched_again_in_new_proposals_and_by_one_process(tmp_path, monkeypatch):
    assert "note" in with_note(*write(tmp_path, [("a", 0), ("a", 1)]))
    job, shards, manifest = write(tmp_path, [("a", 0), ("b", 1)], of="y")
    assert "note" not in with_note(job, shards, manifest)
    other = Job(job.config, Rank(1, 2, 2, job.rank.device, 1))
    monkeypatch.setattr(ShardFolder, "read", None)
    assert with_note(other, shards, manifest) == manifest
