"""Image folders as sources: ids, labels, pixels, and one-line errors."""

import logging
import multiprocessing
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hf_relabel.config import SourceConfig
from hf_relabel.errors import ImageReadError, SourceError, UsageError
from hf_relabel.sources.source import open_source


def save(path: Path, color=(10, 20, 30), size=(8, 6)) -> None:
    """Write a small image of one color."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)


def folder_of(root: Path, *names: str) -> Path:
    """An image folder that contains these files."""
    for name in names:
        save(root / name)
    return root


def error_of(config: SourceConfig, kind: type[Exception] = SourceError) -> str:
    """The one-line error raised by opening the source."""
    with pytest.raises(kind) as caught:
        open_source(config)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


class TestUnlabeled:
    def test_images_anywhere_below_a_folder(self, tmp_path):
        folder_of(tmp_path, "a.png", "sub/b.png", "sub/deep/c.png")
        source = open_source(SourceConfig(path=str(tmp_path), labeled=False))
        assert source.image_ids == ["a.png", "sub/b.png", "sub/deep/c.png"]
        assert source.labels.tolist() == [-1, -1, -1]

    def test_images_without_a_label_among_labeled_ones(self, tmp_path):
        folder_of(tmp_path, "a.png", "b.png", "c.png")
        (tmp_path / "labels.csv").write_text("image,label\na.png,dog\nb.png,\nc.png,cat\n")
        config = SourceConfig(path=str(tmp_path), labels=str(tmp_path / "labels.csv"))
        assert "1 of 3 images" in error_of(config)
        source = open_source(replace(config, unlabeled="keep"))
        assert (source.class_names, source.labels.tolist()) == (["cat", "dog"], [1, -1, 0])
        moved = source.in_classes(["bird", "cat", "dog"], "runs/x")
        assert moved.labels.tolist() == [2, -1, 1]
        with pytest.raises(SourceError, match=r"'cat'.*runs/x"):
            source.in_classes(["dog"], "runs/x")


class TestFolder:
    def test_ids_labels_and_names(self, image_folder):
        source = open_source(SourceConfig(path=str(image_folder)))
        assert source.class_names == ["circle", "square", "triangle"]
        assert source.image_ids[:2] == ["circle/circle_0.png", "circle/circle_1.png"]
        assert source.image_ids == sorted(source.image_ids)
        assert source.labels.dtype == np.int32
        assert source.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
        assert len(source) == 12
        assert source.split == "train"

    def test_pixels(self, image_folder):
        loaded = open_source(SourceConfig(path=str(image_folder))).load(5)
        assert (loaded.width, loaded.height) == loaded.image.size == (104, 80)
        assert loaded.image.getpixel((0, 0)) == (30, 30, 40)
        assert loaded.image.getpixel((40, 40)) == (70, 230, 70)

    def test_ids_are_sorted_as_text_and_labels_follow(self, tmp_path):
        # "a-b/" sorts before "a/", though the folder "a" comes before the folder "a-b"
        source = open_source(SourceConfig(path=str(folder_of(tmp_path, "a/x.png", "a-b/x.png", "a/W.png"))))
        assert source.image_ids == ["a-b/x.png", "a/W.png", "a/x.png"]
        assert source.class_names == ["a", "a-b"]
        assert source.labels.tolist() == [1, 0, 0]

    def test_nested_hidden_and_other_files(self, tmp_path, caplog):
        root = folder_of(tmp_path, "a/deep/er/x.png", "a/UPPER.JPEG", "b/y.webp", "a/.hidden.png", ".cache/z.png")
        save(root / "loose.png")
        (root / "b" / "notes.txt").write_text("notes")
        with caplog.at_level(logging.WARNING):
            source = open_source(SourceConfig(path=str(root)))
        assert source.image_ids == ["a/UPPER.JPEG", "a/deep/er/x.png", "b/y.webp"]
        assert source.labels.tolist() == [0, 0, 1]
        assert "skipped 2 other files, such as 'b/notes.txt'" in caplog.text

    def test_folders_without_images_and_system_folders_are_not_classes(self, tmp_path, caplog):
        root = folder_of(tmp_path, "b/x.png", "__MACOSX/b/x.png", ".ipynb_checkpoints/x.png", "b/@eaDir/x.png")
        (root / "lost+found").mkdir()
        (root / "a").mkdir()
        (root / "a" / "notes.txt").write_text("notes")
        with caplog.at_level(logging.WARNING):
            source = open_source(SourceConfig(path=str(root)))
        assert (source.class_names, source.labels.tolist()) == (["b"], [0])
        assert source.image_ids == ["b/x.png"]
        assert "skipped 1 folders without images, such as 'a'" in caplog.text
        assert "__MACOSX" not in caplog.text

    def test_class_indices_as_folder_names_are_in_numeric_order(self, tmp_path):
        root = folder_of(tmp_path, *(f"{index}/x.png" for index in (0, 2, 9, 10)))
        (root / "1").mkdir()
        assert open_source(SourceConfig(path=str(root))).class_names == ["0", "2", "9", "10"]

    def test_linked_class_folders_are_followed_and_loops_are_not(self, tmp_path, caplog):
        folder_of(tmp_path / "store", "x.png")
        root = tmp_path / "root"
        root.mkdir()
        (root / "a").symlink_to(tmp_path / "store", target_is_directory=True)
        (tmp_path / "store" / "back").symlink_to(root, target_is_directory=True)
        assert open_source(SourceConfig(path=str(root))).image_ids == ["a/x.png"]
        assert "such as 'a/back'" in caplog.text

    def test_wnids_have_the_index_and_names_of_imagenet(self, tmp_path):
        root = folder_of(tmp_path, "n01443537/n01443537_2.JPEG", "n15075141/n15075141_7.JPEG")
        source = open_source(SourceConfig(path=str(root)))
        assert source.image_ids[0] == "n01443537/n01443537_2.JPEG"
        assert source.labels.tolist() == [1, 999]
        assert len(source.class_names) == len(set(source.class_names)) == 1000
        assert source.class_names[1] == "goldfish"

    def test_with_one_folder_that_is_not_a_wnid_all_names_are_folder_names(self, tmp_path):
        root = folder_of(tmp_path, "n01443537/a.png", "other/b.png")
        assert open_source(SourceConfig(path=str(root))).class_names == ["n01443537", "other"]

    def test_limit_keeps_the_first_ids(self, image_folder):
        source = open_source(SourceConfig(path=str(image_folder), limit=5))
        assert source.image_ids[-1] == "square/square_0.png"
        assert len(source.class_names) == 3
        assert source.load(4).width == 96

    @pytest.mark.parametrize(
        "name", ["a/new\nline.png", "a/\x7f.png", os.fsdecode(b"a/\xff.png"), "b\n/x.png", "\n.png"]
    )
    def test_file_names_that_cannot_be_ids_are_excluded(self, tmp_path, name, caplog):
        root = folder_of(tmp_path, name, "a/ok.png")
        source = open_source(SourceConfig(path=str(root)))
        assert (source.image_ids, source.class_names) == (["a/ok.png"], ["a"])
        ((excluded, reason, _),) = source.excluded
        assert excluded == ascii(name)[1:-1]
        assert "rename it" in reason
        assert "excluded 1 images, such as" in caplog.text
        assert all("\n" not in record.getMessage() for record in caplog.records)
        (root / "a" / "ok.png").unlink()
        message = error_of(SourceConfig(path=str(root)))
        assert "rename it" in message or "no images" in message
        assert message.isprintable()

    def test_a_link_to_itself_is_an_unreadable_image(self, tmp_path):
        root = folder_of(tmp_path, "a/x.png")
        for name in ("a/loop.png", "loop", "loop.png"):
            (root / name).symlink_to(root / name)
        source = open_source(SourceConfig(path=str(root)))
        assert source.image_ids == ["a/loop.png", "a/x.png"]
        with pytest.raises(ImageReadError, match="Too many levels of symbolic links"):
            source.load(0)

    def test_what_is_no_file_but_named_like_a_photo_is_an_unreadable_image(self, tmp_path):
        """Reading a pipe waits for a writer, and a device never ends."""
        root = folder_of(tmp_path, "a/x.png")
        os.mkfifo(root / "a" / "pipe.png")
        (root / "a" / "device.png").symlink_to("/dev/zero")
        source = open_source(SourceConfig(path=str(root)))
        assert source.image_ids == ["a/device.png", "a/pipe.png", "a/x.png"]
        for index in (0, 1):
            with pytest.raises(ImageReadError, match="not a regular file"):
                source.load(index)

    def test_a_folder_that_cannot_be_listed_is_named(self, tmp_path, monkeypatch):
        root = folder_of(tmp_path, "a/x.png", "b/y.png")
        scandir = os.scandir

        def refuse(path):
            if str(path).endswith("b"):
                raise PermissionError(13, "Permission denied", str(path))
            return scandir(path)

        monkeypatch.setattr(os, "scandir", refuse)
        assert f"{root / 'b'}: cannot be listed (Permission denied)" in error_of(SourceConfig(path=str(root)))

    @pytest.mark.parametrize(
        ("names", "meant"),
        [
            (["train/cat/1.png", "train/dog/1.png", "val/cat/1.png", "val/dog/1.png"], "train"),
            (["images/cat/1.png", "images/dog/1.png"], "images"),
            (["CLS-LOC/train/n01440764/1.png", "CLS-LOC/val/1.png", "CLS-LOC/test/2.png"], "CLS-LOC/train"),
            (["tiny/train/a/images/1.png", "tiny/train/b/images/1.png", "tiny/val/images/1.png"], "tiny/train"),
            (["train/cat/1.png", "test/cat/1.png", "figures/raw/1.png", "train/dog/1.png"], "train"),
            (["photos/cat/1.png", "photos/dog/1.png"], "photos"),
        ],
    )  # fmt: skip
    def test_a_folder_of_splits_or_wrappers_is_refused(self, tmp_path, names, meant):
        root = folder_of(tmp_path, *names)
        message = error_of(SourceConfig(path=str(root)))
        assert "are not classes" in message
        assert f"--source.path {root / meant} (or" in message
        assert len(open_source(SourceConfig(path=str(root / meant)))) > 0

    @pytest.mark.parametrize("names", [["images/1.png"], ["train/1.png", "test/2.png"], ["1.png", "2.png"]])
    def test_a_folder_without_class_folders_needs_a_file_of_labels(self, tmp_path, names):
        assert "set --source.labels to a CSV" in error_of(SourceConfig(path=str(folder_of(tmp_path, *names))))

    def test_classes_that_are_called_like_a_split(self, tmp_path):
        root = folder_of(tmp_path, "train/1.png", "bus/1.png", "bus/old/2.png")
        assert open_source(SourceConfig(path=str(root))).class_names == ["bus", "train"]

    def test_missing_empty_and_without_images(self, tmp_path):
        assert "no such folder" in error_of(SourceConfig(path=str(tmp_path / "nowhere")))
        assert "the folder is empty" in error_of(SourceConfig(path=str(tmp_path)))
        (tmp_path / "file").write_text("")
        assert "is no folder, and no .csv, .tsv, .jsonl, .parquet file" in error_of(
            SourceConfig(path=str(tmp_path / "file"))
        )
        (tmp_path / "a").mkdir()
        assert "no images in class subfolders, found 1 subfolders and 1" in error_of(SourceConfig(path=str(tmp_path)))

    def test_path_and_split_must_be_given(self, image_folder):
        assert "source.path" in error_of(SourceConfig(), UsageError)
        config = SourceConfig(path=str(image_folder), split="train[:10%]")
        assert "source.limit" in error_of(config, UsageError)

    def test_unreadable_images_give_reasons_without_paths(self, tmp_path):
        root = folder_of(tmp_path, "a/gone.png", "a/ok.png")
        (root / "a" / "text.jpg").write_text("text")
        (root / "a" / "zero.jpg").write_bytes(b"")
        source = open_source(SourceConfig(path=str(root)))
        (root / "a" / "gone.png").unlink()
        reasons = {}
        for index, name in enumerate(source.image_ids):
            if name == "a/ok.png":
                assert source.load(index).image.size == (8, 6)
                continue
            with pytest.raises(ImageReadError) as caught:
                source.load(index)
            reasons[name] = str(caught.value)
        assert reasons == {
            "a/gone.png": "cannot be opened (No such file or directory)",
            "a/text.jpg": "not an image, or an unsupported format",
            "a/zero.jpg": "not an image, or an unsupported format",
        }


class TestClassNames:
    def given(self, tmp_path, text: str, name: str = "classes.tsv") -> str:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    def test_folder_and_name(self, tmp_path, image_folder):
        names = self.given(tmp_path, "triangle\tDreieck\nstar\tStern\ncircle\tKreis\r\nsquare\tQuadrat\n")
        source = open_source(SourceConfig(path=str(image_folder), class_names=names))
        assert source.class_names == ["Dreieck", "Stern", "Kreis", "Quadrat"]
        assert source.labels.tolist() == [2] * 4 + [3] * 4 + [0] * 4

    def test_one_name_per_line_in_another_order(self, tmp_path, image_folder):
        names = self.given(tmp_path, "triangle\nsquare\ncircle\n", "classes.txt")
        source = open_source(SourceConfig(path=str(image_folder), class_names=names))
        assert source.labels.tolist() == [2] * 4 + [1] * 4 + [0] * 4

    def test_other_names_in_the_order_of_the_folders(self, tmp_path, image_folder):
        names = self.given(tmp_path, "a circle\na square\na triangle", "classes.txt")
        source = open_source(SourceConfig(path=str(image_folder), class_names=names))
        assert source.class_names == ["a circle", "a square", "a triangle"]
        assert source.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4

    def test_a_folder_that_is_not_in_the_file(self, tmp_path, image_folder):
        names = self.given(tmp_path, "circle\tKreis\nsquares\tQuadrat\ntriangle\tDreieck\n")
        message = error_of(SourceConfig(path=str(image_folder), class_names=names))
        assert "the class 'square' (nearest: 'squares') is not among the 3 classes" in message

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("circle\tx\nsquare\tx\ntriangle\ty", "the class name 'x' occurs more than once"),
            ("circle\tx\ncircle\tz\ntriangle\ty", "the class key 'circle' occurs more than once"),
            ("circle\tx\nsquare\n", "line 2"),
            ("0\tcircle\tx\n", "line 1"),
            ("circle\n\nsquare", "line 2"),
            ("", "line 1"),
        ],
    )
    def test_files_that_are_wrong(self, tmp_path, image_folder, text, said):
        names = self.given(tmp_path, text)
        assert said in error_of(SourceConfig(path=str(image_folder), class_names=names))

    def test_files_that_cannot_be_read(self, tmp_path, image_folder):
        missing = error_of(SourceConfig(path=str(image_folder), class_names=str(tmp_path / "no.tsv")))
        assert "cannot be read (No such file or directory)" in missing
        (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
        binary = SourceConfig(path=str(image_folder), class_names=str(tmp_path / "binary.txt"))
        assert "is not UTF-8" in error_of(binary)
        assert ".tsv or .txt" in error_of(SourceConfig(path=str(image_folder), class_names="classes.json"))


class TestSource:
    def test_the_fingerprint_changes_with_every_change_of_the_images(self, tmp_path):
        root = folder_of(tmp_path, "a/x.png", "b/y.png")

        def fingerprint(**settings) -> str:
            return open_source(SourceConfig(path=str(root), **settings)).fingerprint

        first = fingerprint()
        assert first == fingerprint()
        assert len(first) == 64
        seen = [first, fingerprint(split="test"), fingerprint(limit=1)]
        save(root / "c" / "z.png")
        seen.append(fingerprint())  # added
        (root / "c" / "z.png").rename(root / "a" / "z.png")
        seen.append(fingerprint())  # renamed into another class
        (root / "a" / "z.png").unlink()
        (root / "c").rmdir()
        assert fingerprint() == first  # removed again
        times = os.stat(root / "a" / "x.png")
        save(root / "a" / "x.png", size=(80, 60))
        os.utime(root / "a" / "x.png", ns=(times.st_atime_ns, times.st_mtime_ns))
        seen.append(fingerprint())  # replaced by a file of another size
        os.utime(root / "b" / "y.png", ns=(1, 1))
        seen.append(fingerprint())  # written again
        assert len(set(seen)) == len(seen) == 7

    def test_a_broken_link_is_an_unreadable_image(self, tmp_path):
        root = folder_of(tmp_path, "a/x.png")
        (root / "a" / "y.png").symlink_to(tmp_path / "nowhere.png")
        source = open_source(SourceConfig(path=str(root)))
        assert source.image_ids == ["a/x.png", "a/y.png"]
        assert len(source.fingerprint) == 64
        with pytest.raises(ImageReadError, match="No such file"):
            source.load(1)

    def test_a_header_in_the_file_of_classes_is_no_class(self, tmp_path):
        root = folder_of(tmp_path / "images", "a/1.png", "b/1.png")
        for header, line in (("wnid\tname", "a\tx\nb\ty"), ("index\twnid\tname", "0\ta\tx\n1\tb\ty")):
            (tmp_path / "classes.tsv").write_text(f"{header}\n{line}\n")
            config = SourceConfig(path=str(root), class_names=str(tmp_path / "classes.tsv"))
            with pytest.raises(SourceError, match=r"line 1: .* is a header.*remove the header"):
                open_source(config)

    def test_labels_are_part_of_the_fingerprint(self, tmp_path):
        fingerprints = set()
        for text in ("a\tx\nb\ty", "a\ty\nb\tx", "b\tx\na\ty"):
            (tmp_path / "classes.tsv").write_text(text)
            root = folder_of(tmp_path / "images", "a/1.png", "b/1.png")
            config = SourceConfig(path=str(root), class_names=str(tmp_path / "classes.tsv"))
            fingerprints.add(open_source(config).fingerprint)
        assert len(fingerprints) == 3

    @pytest.mark.parametrize("method", ["fork", "spawn"])
    def test_other_processes_load(self, image_folder, method):
        source = open_source(SourceConfig(path=str(image_folder)))
        with multiprocessing.get_context(method).Pool(1) as pool:
            (loaded,) = pool.map(source.load, [3])
        assert loaded.image.tobytes() == source.load(3).image.tobytes()

    def test_a_large_jpeg_may_be_loaded_smaller(self, tmp_path):
        save(tmp_path / "a" / "x.jpg", size=(1600, 1200))
        loaded = open_source(SourceConfig(path=str(tmp_path))).load(0, min_side=280)
        assert (loaded.width, loaded.height, loaded.image.size) == (1600, 1200, (400, 300))

    def test_a_folder_needs_neither_datasets_nor_torch(self, image_folder):
        code = (
            "import sys; from hf_relabel.config import SourceConfig; from hf_relabel.sources import source; "
            "source.open_source(SourceConfig(path=sys.argv[1])).load(0); "
            "sys.exit(bool({'datasets', 'torch'} & set(sys.modules)))"
        )
        root = Path(__file__).resolve().parents[3]
        assert subprocess.run([sys.executable, "-c", code, str(image_folder)], cwd=root, timeout=120).returncode == 0


def test_real_photos_in_imagenets_layout(shared_data):
    root = shared_data / "imagenet_samples"
    source = open_source(SourceConfig(path=str(root)))
    assert len(source) == 200
    assert source.labels.tolist() == list(range(0, 1000, 5))
    listed = [line.split("\t") for line in (shared_data / "imagenet_classes.tsv").read_text().splitlines()]
    wnids = {row[1]: int(row[0]) for row in listed if row[0].isdecimal()}
    for image_id, label in zip(source.image_ids, source.labels, strict=True):
        assert wnids[image_id.split("/")[0]] == label
    for place in range(0, 200, 20):
        loaded = source.load(place)
        with Image.open(root / source.image_ids[place]) as image:
            assert np.asarray(loaded.image).tobytes() == np.asarray(image.convert("RGB")).tobytes()
        small = source.load(place, min_side=100)
        assert (small.width, small.height) == (loaded.width, loaded.height)
        assert min(small.image.size) >= 100
