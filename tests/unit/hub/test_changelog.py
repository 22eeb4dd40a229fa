from hf_relabel.hub.changelog import HEADER, entry, extended, first_entry
from hf_relabel.release.diff import Comparison
from hf_relabel.release.versions import version_key


def test_versions_are_sorted_by_number():
    assert sorted(["1.10.0", "1.9.9", "1.2.10"], key=version_key) == ["1.2.10", "1.9.9", "1.10.0"]


def test_sections_are_newest_first_and_what_others_wrote_stays():
    text = extended("", "1.0.0", "First.\n")
    assert text == f"{HEADER}\n## 1.0.0\n\nFirst.\n"
    text = text.replace("First.", "First.\n\nA note by hand.").replace("# Changelog", "# History")
    text = extended(text, "1.10.0", "Third.\n")
    text = extended(text, "1.9.0", "Second.\n")
    assert text.startswith("# History\n")
    assert [line for line in text.splitlines() if line.startswith("## ")] == ["## 1.10.0", "## 1.9.0", "## 1.0.0"]
    assert "First.\n\nA note by hand.\n" in text


def test_a_section_is_replaced_and_not_doubled():
    text = extended(extended("", "1.0.0", "Draft.\n"), "1.1.0", "Next.\n")
    again = extended(text, "1.0.0", "Final.\n")
    assert again == text.replace("Draft.", "Final.")
    assert extended(again, "1.0.0", "Final.\n") == again


def test_the_entry_of_a_first_version():
    statistics = {"images": 1200, "labels": 3400, "regions": 5600}
    release = type("Release", (), {"statistics": statistics})
    assert first_entry(release) == "First release: 1,200 images, 3,400 labels, 5,600 regions.\n"


def test_the_entry_of_a_later_version():
    comparison = Comparison("Tiny 1.0.0", "Tiny 1.1.0", ["cat", "red | blue", "dog"], settings=["build.x: 1 -> 2"])
    comparison.images_added, comparison.images_gone, comparison.images_relabeled = 1, 2, 1500
    comparison.labels_added[:] = [0, 1000, 0]
    comparison.labels_removed[:] = [2, 500, 0]
    comparison.regions_old, comparison.regions_new, comparison.images_other_masks = 10, 12, 3
    assert entry(comparison, "1.0.0") == (
        "Since 1.0.0:\n\n"
        "- images: 1 added, 2 removed\n"
        "- labels: 1,000 added, 502 removed, 0 rescored; 1,500 images have a different label set\n"
        "- regions: 10 before, 12 now; 3 images have different masks, 0 have the same masks with different labels\n"
        "- setting build.x\\: 1 -&gt; 2\n"
        "\n"
        "| class | added | removed | rescored |\n"
        "|---|---|---|---|\n"
        "| red \\| blue | 1,000 | 500 | 0 |\n"
        "| cat | 0 | 2 | 0 |\n"
    )
    comparison.originals_changed = 4
    assert "- original labels: 4 changed\n" in entry(comparison, "1.0.0")


def test_the_entry_names_no_classes_where_none_changed():
    assert "|" not in entry(Comparison("a", "b", ["cat"]), "1.0.0")
