"""What a card says about scores."""

from cards import tables
from releases import make_release, provenance

from hf_relabel.hub.card import CardOptions, render_card


def section(card, heading):
    """The text below a heading."""
    return card.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def card_with(folder, scores, **build):
    """A card of a release that records these values about its scores, and these settings of the build stage."""
    made_by = provenance(0.5, "1.0.0")
    made_by["scores"] |= scores
    made_by["config"]["build"] |= build
    return render_card(make_release(folder, provenance=made_by), "owner/tiny", CardOptions())


def test_the_card_says_what_scores_are_worth(tmp_path):
    build = {"class_thresholds": {"dog": 0.8}, "exclude_classes": ["tree", "red | blue ball"]}
    card = card_with(tmp_path / "release", {}, **build)
    text = section(card, "What the scores mean")
    assert "**estimated probability that the label is true**" in text
    assert "estimates, not measurements" in text
    summary, reliability = tables(text)
    assert summary[2:] == [
        ["labeler", "discriminant, 20 cross-fitting folds, with a background class"],
        ["evidence", "the surest single proposal for an object"],
        ["propensity", "0.60, from 44 sure labels in 60 images; 0.02 of it by the learning curve"],
        ["threshold for added labels", "0.5"],
        ["threshold for dog", "0.8"],
        ["classes never added", "tree, red \\| blue ball"],
        ["added labels", "36"],
        ["of them true, by estimate", "31"],
        ["precision of the added labels, by estimate", "85.0%"],
    ]
    assert reliability[2:] == [["0.00 to 0.05", "1,234", "0.01", "5"], ["0.80 to 0.90", "36", "0.85", "40"]]
    assert "trained on the regions that show the original labels, and on background" in card
    assert "The labeler has a background class" in section(card, "Limitations")


def test_the_card_says_why_no_label_was_added(tmp_path):
    note = "no label was added: the estimated gain is too small"
    none = {"labels": 0, "true": None, "precision": None}
    text = section(card_with(tmp_path / "release", {"added": none, "note": note}), "What the scores mean")
    assert "In this release, no label was added\\: the estimated gain is too small." in text
    assert "| added labels | 0 |" in text
    assert "precision of the added labels" not in text


def test_softmax_scores_are_not_called_probabilities(tmp_path):
    unmeasured = dict.fromkeys(("evidence", "propensity", "images", "observations"))
    raw = {"calibrated": False, "background": False, "folds": 0, "head": "mlp", "reliability": [], **unmeasured}
    card = card_with(tmp_path / "release", raw | {"added": {"labels": 36, "true": None, "precision": None}})
    text = section(card, "What the scores mean")
    assert "highest softmax probability" in text
    assert "| labeler | mlp, no cross-fitting, without a background class |" in text
    assert "estimate" not in text
    assert "an object of another class gets the nearest one" in section(card, "Limitations")
    assert "estimated probability that the label is true" not in card


def test_a_threshold_from_a_wanted_precision(tmp_path):
    card = card_with(tmp_path / "release", {"threshold": 0.6789}, precision=0.9)
    assert "| threshold for added labels | 0.679, the lowest for an estimated precision of 0.9 |" in card
    assert "| `build.threshold` |" not in card, "it has no effect"
    card = card_with(tmp_path / "nothing", {"threshold": None}, precision=0.9)
    assert "| threshold for added labels | none reaches an estimated precision of 0.9 |" in card


def test_releases_that_do_not_record_their_scores(tmp_path):
    made_by = provenance(0.5, "1.0.0")
    del made_by["scores"], made_by["config"]["propose"]["generators"]
    card = render_card(make_release(tmp_path / "release", provenance=made_by), "owner/tiny", CardOptions())
    assert "does not record how its scores were made" in card
    assert "class-agnostic masks by MaskCut, on features" in card
