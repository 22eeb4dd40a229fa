import dataclasses
import re

import huggingface_hub
import pytest
import yaml
from cards import tables
from hub_values import metadata_errors
from releases import make_release, make_rows, provenance

from hf_relabel.commands.options import options_of
from hf_relabel.commands.pipeline import COMMANDS
from hf_relabel.errors import HubError, OutputError, ReleaseError
from hf_relabel.hub.card import SETTINGS, CardOptions, asset, render_card, write_card
from hf_relabel.hub.card_metadata import License, card_metadata, check_metadata, size_category
from hf_relabel.schema import Excluded

SECTIONS = """
# Tiny
## Load it
### Columns
## How it was made
## What the scores mean
## Statistics
### Most frequently added classes
### Most frequent label pairs
### Excluded images
## Samples
## Limitations
## Versions
## License
## Citation
""".strip().splitlines()

PICTURES = ["labels_per_image", "scores", "added_classes", "label_pairs", "gallery"]


def bare(rows, labels):
    """Rows with at most `labels` labels."""
    for row in rows:
        yield {**row, "labels": row["labels"][:labels], "scores": row["scores"][:labels]}


def make_kind(folder, kind):
    """A release without labels, with one label per image, with one class, with 1000 classes, or a typical one."""
    if kind == "no labels":
        rows = [{**row, "regions": []} for row in bare(make_rows(30), 0)]
        return make_release(folder, rows=rows, excluded=[])
    if kind == "one label":
        return make_release(folder, rows=list(bare(make_rows(30), 1)))
    if kind == "one class":
        return make_release(folder, class_names=["cat"])
    if kind == "1000 classes":
        return make_release(folder, images=200, class_names=[f"class {number}, or so" for number in range(1000)])
    return make_release(folder)


@pytest.mark.parametrize("kind", ["no labels", "one label", "one class", "1000 classes", "typical"])
def test_every_section_is_there(tmp_path, kind):
    card = render_card(make_kind(tmp_path / "release", kind), "owner/tiny", CardOptions(License("cc-by-4.0")))
    text = re.sub(r"```.*?```", "", card, flags=re.DOTALL)
    front, body = text.removeprefix("---\n").split("---\n", 1)
    assert [line for line in body.splitlines() if line.startswith("#")] == SECTIONS
    assert re.findall(r"\(card/(\w+)\.png\)", body) == PICTURES
    for heading, section in zip(SECTIONS, re.split(r"^#+ .*$", body, flags=re.MULTILINE)[1:], strict=True):
        assert section.strip(), heading
    assert metadata_errors(yaml.safe_load(front)) == []
    assert "{{" not in body
    assert "None" not in body.replace("\nNone.\n", "")
    assert not re.search(r"\bnan\b", body.split("## Limitations")[0])
    assert len(tables(card)) >= 6
    assert ("No labels were added" in card) == (kind in ("no labels", "one label", "one class"))
    assert ("No image has two labels." in card) == (kind in ("no labels", "one label", "one class"))


def test_a_typical_card(tmp_path):
    card = render_card(make_release(tmp_path / "release"), "owner/tiny", CardOptions())
    for text in (
        "60 images",
        "user/photos",
        "| backbone | revision | 0000000000000000000000000000000000000000 |",
        "| `propose.tau` | 0.4 |",
        "| `build.threshold` | 0.5 |",
        "| run.seed | 0 |",
        "numpy 2.0.0",
        "| cannot identify image file | 1 |",
        "red \\| blue ball",
        'load_dataset("owner/tiny", revision="v1.0.0", split="train")',
        'load_dataset("owner/tiny", "regions", revision="v1.0.0", split="train")',
        "The publisher has not stated a license",
        "without the source's pixels",
        "class-agnostic masks by MaskCut and merging similar patches, on features of a frozen vision transformer",
        "masks by MaskCut and merging similar patches (MaskCut: arXiv:2301.11320)",
    ):
        assert text in card
    assert "hidden" not in card, "a discriminant has no hidden layers"
    assert "2101.05022" not in card, "ReLabel is named only where its label maps were used"


@pytest.mark.parametrize(
    "odd",
    [{"tool": {"name": ["x"]}}, {"config": None}, {"config": {"source": None}}, {"tool": None, "packages": {}}]
    + [{"config": {"source": {"kind": "dataset", "path": path}}} for path in ([], None, 5)],
)
def test_a_provenance_with_values_of_other_types(tmp_path, odd):
    """A manifest may come from a stranger; what is wrong with it does not end in a traceback."""
    release = make_release(tmp_path / "release", provenance=provenance(0.5, "1.0.0") | odd)
    assert "# Tiny" in render_card(release, "owner/tiny", CardOptions())


@pytest.mark.parametrize(
    ("maker", "said"),
    [
        (
            {"model": "org/resnet", "revision": "1234567890abcdef", "image_size": 288},
            "from `org/resnet` (revision `1234567890ab`, 288 px images)",
        ),
        ({"model": "mine", "revision": None, "weights_sha256": "ab12"}, "from a local model (weights SHA-256 `ab12`)"),
        (
            {"labeler": "cd34", "backbone": {"model": "org/dino", "revision": "f" * 40}, "grid": 15},
            "from the labeler with weights SHA-256 `cd34` on `org/dino` (revision `ffffffffffff`)",
        ),
        ({"model": "unknown"}, "from a classifier that is not recorded"),
        (None, "from a classifier that is not recorded"),
        ([5], "from a classifier that is not recorded"),
    ],
)
def test_the_maker_of_label_maps_is_named(tmp_path, maker, said):
    made = provenance(0.5, "1.0.0")
    made["config"]["score"] = {"method": "label_map"}
    made["label_maps"] = maker
    card = render_card(make_release(tmp_path / "release", provenance=made), "owner/tiny", CardOptions())
    assert f"regions selected with label maps (ReLabel, arXiv:2101.05022) {said}." in card
    if isinstance(maker, dict):
        value = maker.get("labeler") or maker["model"]
        assert f"| label maps | {'labeler' if 'labeler' in maker else 'model'} | {value} |" in card


def test_an_imported_release_does_not_describe_the_pipeline(tmp_path):
    rows = [{**row, "regions": []} for row in make_rows(30)]
    made_by = {"config": {"import": {"format": "tsv", "file": "labels.tsv", "sha256": "0" * 64}}}
    card = render_card(make_release(tmp_path / "tsv", rows=rows, provenance=made_by), "owner/tiny", CardOptions())
    assert "a set of labels with scores. It was imported from labels.tsv \\(TSV\\)" in card
    assert "The scores were imported with the labels" in card
    for text in (
        "vision transformer",
        "object masks for",
        "2301.11320",
        "grid of patches",
        "class-agnostic",
        "maskcut\n",
    ):
        assert text not in card


def test_masks_of_a_file_are_not_called_our_own(tmp_path):
    made_by = provenance(0.5, "1.0.0")
    made_by["config"]["propose"] = {"masks": {"file": "cutler.json", "sha256": "0" * 64}}
    card = render_card(make_release(tmp_path / "release", provenance=made_by), "owner/tiny", CardOptions())
    assert "class-agnostic masks from the file cutler.json, labeled by a small classifier" in card
    assert "- maskcut\n" not in card
    assert "2301.11320" not in card
    assert "grid of patches" not in card


def test_the_front_matter(tmp_path):
    release = make_release(tmp_path / "release")
    card = render_card(release, "owner/tiny", CardOptions(License("mit"), "other/photos", ["birds"]))
    front = yaml.safe_load(card.split("---\n")[1])
    patterns = [config["data_files"][0]["path"] for config in front["configs"]]
    for name, pattern in zip(("labels", "regions"), patterns, strict=True):
        assert re.fullmatch(rf"data/{name}/train-\*-[0-9a-f]{{16}}\.parquet", pattern)
        assert [file.path for file in release.files_of(name)] == sorted(
            str(path.relative_to(release.folder)) for path in release.folder.glob(pattern)
        )
    assert front == {
        "pretty_name": "Tiny",
        "license": "mit",
        "annotations_creators": ["machine-generated"],
        "task_categories": ["image-classification", "image-segmentation", "object-detection"],
        "task_ids": ["multi-label-image-classification", "instance-segmentation"],
        "size_categories": ["n<1K"],
        "tags": ["multi-label", "relabeling", "maskcut", "hf_relabel", "birds"],
        "configs": [
            {"config_name": "labels", "data_files": [{"split": "train", "path": patterns[0]}], "default": True},
            {"config_name": "regions", "data_files": [{"split": "train", "path": patterns[1]}]},
        ],
        "source_datasets": ["other/photos"],
    }


def test_names_do_not_break_the_card(tmp_path):
    name = 'Photos: "a | b" --- {x}\n# not a heading <b>'
    rows = list(make_rows(30, classes=2))
    excluded = [Excluded("a", "bad | file\nof two lines <script>")]
    names = ["a | b", "<i>c</i>"]
    release = make_release(tmp_path / "release", rows=rows, name=name, class_names=names, excluded=excluded)
    card = render_card(release, "owner/tiny", CardOptions())
    assert yaml.safe_load(card.split("---\n")[1])["pretty_name"] == " ".join(name.split())
    assert "\n# not a heading" not in card
    assert "bad \\| file of two lines &lt;script&gt;" in card
    assert "a \\| b + &lt;i&gt;c&lt;/i&gt;" in card
    tables(card)


@pytest.mark.parametrize(
    "text",
    ["![x](http://tracker.example/x.png)", "[x](javascript:alert)", "<img src=x onerror=y>", "`a", "x | y\n| z", "*b*"],
)
def test_text_from_data_is_shown_literally(tmp_path, text):
    """Class names, reasons, settings and names appear as they are, without any effect in Markdown or HTML."""
    made_by = provenance(0.5, "1.0.0")
    made_by["config"]["score"][text] = text
    made_by["config"]["propose"]["generators"] = [text, "merge"]
    made_by["config"]["build"] |= {"class_thresholds": {text: text}, "exclude_classes": [text], "precision": text}
    made_by["backbone"]["model"] = text
    row = dict.fromkeys(("low", "high", "labels", "score", "given"), text)
    made_by["scores"] = dict.fromkeys(made_by["scores"], text) | {
        "reliability": [row, text],
        "added": dict.fromkeys(("labels", "true", "precision"), text),
    }
    rows = list(make_rows(30, threshold=0.1, classes=2))
    release = make_release(
        tmp_path / "release",
        rows=rows,
        name=text,
        class_names=[text.replace("\n", " "), "cat"],
        excluded=[Excluded("a", text)],
        provenance=made_by,
    )
    card = render_card(release, "owner/tiny", CardOptions())
    body = re.sub(r"```.*?```", "", card.split("---\n", 2)[2], flags=re.DOTALL)
    tables(body)
    shown = re.sub(r"\\.|`[^`\n]*`", "", body)  # without escaped characters and inline code
    assert re.findall(r"!?\[[^]]*\]\(([^)]*)\)", shown) == [
        "https://huggingface.co/datasets/user/photos",
        *[f"card/{name}.png" for name in ("labels_per_image", "scores", "added_classes", "label_pairs")],
        "card/gallery.png",
        "CHANGELOG.md",
    ]
    assert set(re.findall(r"</?\w+[^>]*>", shown)) == {"<details>", "<summary>", "</summary>", "</details>"}
    assert "*" not in shown.replace("**", "")
    assert shown.count("`") == 0


def test_a_local_backbone_is_described_by_its_architecture_and_weights(tmp_path):
    made_by = provenance(0.5, "1.0.0")
    made_by["backbone"] = {
        "model": "vit",
        "revision": None,
        "weights_sha256": "0123abcd" * 8,
        "architecture": "Dinov2Model",
        "image_size": 224,
        "patch_size": 14,
    }
    release = make_release(tmp_path / "release", provenance=made_by)
    card = render_card(release, "owner/tiny", CardOptions())
    weights = "0123abcd" * 8
    assert (
        "Masks and region features come from a local Dinov2Model "
        f"(14 px patches, 224 px images, weights SHA-256 `{weights}`)."
    ) in card


def test_what_the_stages_recorded_is_shown(tmp_path):
    made_by = provenance(0.5, "1.0.0")
    made_by["machines"] = {"x86_64 AVX512, mkl": 3, "NVIDIA H100": 1}
    made_by["labeler"]["weights_sha256"] = "f" * 64
    card = render_card(make_release(tmp_path / "release", provenance=made_by), "owner/tiny", CardOptions())
    assert "; masks and features computed on NVIDIA H100, x86\\_64 AVX512, mkl." in card
    assert f"| labeler | weights\\_sha256 | {'f' * 64} |" in card


def test_a_hub_backbone_is_named_with_its_revision(tmp_path):
    card = render_card(make_release(tmp_path / "release"), "owner/tiny", CardOptions())
    assert "features come from `user/vit` (revision `000000000000`, 224 px images)." in card


@pytest.mark.parametrize("link", ["javascript:alert(1)", "https://a b", "https://x)[y](z"])
def test_license_links_must_be_web_addresses(link):
    with pytest.raises(HubError, match="must be a web address"):
        License("other", "House rules", link)


def test_a_source_dataset_must_be_an_id(tmp_path):
    with pytest.raises(HubError, match="must be an id on the Hub"):
        render_card(make_release(tmp_path / "release"), "owner/tiny", CardOptions(source_dataset="a`](http://x)"))


def test_a_card_is_written_to_a_file(tmp_path):
    release = make_release(tmp_path / "release")
    write_card(release, "owner/tiny", CardOptions(), tmp_path / "card.md")
    assert (tmp_path / "card.md").read_text() == render_card(release, "owner/tiny", CardOptions())
    with pytest.raises(OutputError, match="cannot be written"):
        write_card(release, "owner/tiny", CardOptions(), tmp_path / "nowhere" / "card.md")


def test_a_release_without_digests_in_its_names_is_refused(tmp_path):
    release = make_release(tmp_path / "release")
    files = [dataclasses.replace(file, path=f"{file.path[:-25]}.parquet") for file in release.files if file.config_name]
    with pytest.raises(ReleaseError, match="lack the digest of the content"):
        render_card(dataclasses.replace(release, files=files), "owner/tiny", CardOptions())


def test_a_folder_as_source_is_no_dataset_of_the_hub(tmp_path):
    made_by = provenance(0.5, "1.0.0")
    made_by["config"]["source"] = {"kind": "folder", "path": "user/photos"}
    card = render_card(make_release(tmp_path / "release", provenance=made_by), "owner/tiny", CardOptions())
    assert "source_datasets" not in card
    assert "huggingface.co/datasets/user/photos" not in card
    bare_card = render_card(make_release(tmp_path / "bare", provenance={}), "owner/tiny", CardOptions())
    assert "The release records no models" in bare_card


def test_licenses(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    release = make_release(tmp_path / "release")
    other = License("other", "House rules", "https://example.org/rules")
    card = render_card(release, "owner/tiny", CardOptions(other))
    assert "[House rules](https://example.org/rules)" in card
    assert yaml.safe_load(card.split("---\n")[1])["license_link"] == "https://example.org/rules"
    with pytest.raises(HubError, match="not an identifier that the Hub knows"):
        License("my-own")
    with pytest.raises(HubError, match="also needs a name and a link"):
        License("other", "House rules")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("annotations_creators", ["bogus"]),
        ("task_categories", ["image-labeling"]),
        ("task_ids", ["multilabel"]),
        ("size_categories", ["1M"]),
        ("license", "my-own"),
        ("configs", [{"config_name": "labels"}, {"config_name": "labels"}]),
    ],
)
def test_values_that_the_hub_would_refuse(tmp_path, monkeypatch, key, value):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    metadata = card_metadata(make_release(tmp_path / "release"), License("mit"), None, [])
    check_metadata(metadata)
    with pytest.raises(HubError, match=r"allows only|not an identifier|duplicate"):
        check_metadata({**metadata, key: value})


@pytest.mark.parametrize(
    ("rows", "category"),
    [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (99_999, "10K<n<100K"), (1_281_167, "1M<n<10M")],
)
def test_size_categories(rows, category):
    assert size_category(rows) == category


def test_the_settings_that_the_card_explains_exist():
    assert not SETTINGS.keys() - {option.key for option in options_of(COMMANDS["build"])}


def test_assets_are_found():
    assert b"def load_relabel(" in asset("load_relabel.py")
    with pytest.raises(HubError, match="install hf_relabel again"):
        asset("nothing.txt")
