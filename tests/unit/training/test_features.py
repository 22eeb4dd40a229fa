"""Features of a frozen model: which models can be split, what is stored, and what makes them be computed again."""

import numpy as np
import pytest
import torch
import transformers
from accelerate import Accelerator

from hf_relabel.config import SourceConfig
from hf_relabel.errors import StageError
from hf_relabel.evaluation.datasets import from_source
from hf_relabel.training import features
from hf_relabel.training.augment import Augmentation
from hf_relabel.training.features import FeatureItems, Trunk, Views, compute_features
from hf_relabel.training.targets import WHOLE_IMAGE
from hf_relabel.training.transform import ClassifierTransform

SIDE = 32
VIT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8, "image_size": SIDE}
SMALL = {
    "vit": ("ViT", VIT | {"intermediate_size": 16}, (16,)),
    "dinov2": ("Dinov2", VIT, (32,)),
    "beit": ("Beit", VIT | {"intermediate_size": 16, "use_mean_pooling": True}, (16,)),
    "resnet": ("ResNet", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}, (16, 1, 1)),
    "convnext": ("ConvNext", {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}, (16,)),
    "mobilenet": ("MobileNetV1", {"depth_multiplier": 0.25, "image_size": SIDE}, (256,)),
}


def classifier(kind: str) -> transformers.PreTrainedModel:
    """A tiny classifier with random weights."""
    name, settings, _ = SMALL[kind]
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(num_labels=3, **settings)
    return getattr(transformers, f"{name}ForImageClassification")(config).eval()


@pytest.mark.parametrize("kind", SMALL)
@torch.inference_mode()
def test_trunk_and_head_are_the_whole_model(kind):
    model = classifier(kind)
    trunk = Trunk.of(model, SIDE)
    pixels = torch.randn(3, 3, SIDE, SIDE)
    assert trunk.shape == SMALL[kind][2]
    torch.testing.assert_close(trunk.head(trunk(pixels)).logits, model(pixel_values=pixels).logits)
    is_dropped = any(isinstance(module, torch.nn.Dropout) for module in trunk.head.modules())
    assert is_dropped == (kind == "mobilenet"), "its dropout comes before the head, outside the trunk"


def test_a_model_with_two_heads_is_not_split():
    config = transformers.DeiTConfig(num_labels=3, intermediate_size=16, **VIT)
    assert Trunk.of(transformers.DeiTForImageClassificationWithTeacher(config), SIDE) is None


@pytest.fixture
def images(image_folder):
    return from_source(SourceConfig(path=str(image_folder)))


def views_of(images, count=2, rows=(5, 0, 3, 7, 1)):
    augmentation = Augmentation(ClassifierTransform(SIDE), crop_scale=0.3, flip=True, operations=1, magnitude=5)
    return Views(images, np.array(rows), augmentation, count, seed=0)


def stored(model, views, folder, workers=0):
    return compute_features(Trunk.of(model, SIDE), views, folder, Accelerator(cpu=True), 2, workers)


def box_as_target(item, box):
    return np.array([item, *box], np.float32)


def test_rows_are_read_back_from_their_parts(images, tmp_path, monkeypatch):
    """More parts than may be open, of which the last is shorter."""
    monkeypatch.setattr(features, "PART_ROWS", 3)
    monkeypatch.setattr(features, "MAX_OPEN", 2)
    model, views = classifier("resnet"), views_of(images)
    read = stored(model, views, tmp_path / "features")
    shapes = [np.load(path, allow_pickle=False).shape for path in sorted((tmp_path / "features").glob("*.npy"))]
    assert shapes == [(3, 20), (3, 20), (3, 20), (1, 20)]
    trunk, items = Trunk.of(model, SIDE), FeatureItems(read, 5, 2, box_as_target)
    for epoch in (3, 0, 1, 2):  # the views alternate
        for item in (4, 0, 2):
            pixels, box = views[epoch % 2 * 5 + item]
            found, target = items[epoch * 5 + item]
            with torch.inference_mode():
                torch.testing.assert_close(found, trunk(pixels[None])[0])
            assert target.tolist() == [item, *box.tolist()], "crop-aware targets get the crop of the view"


def test_the_first_view_is_the_whole_image(images):
    views = views_of(images)
    pixels, box = views[1]
    assert tuple(box.tolist()) == WHOLE_IMAGE
    assert torch.equal(pixels, ClassifierTransform(SIDE)(images.load(0)))
    assert tuple(views[6][1].tolist()) != WHOLE_IMAGE
    assert not torch.equal(views[6][0], views[7][0])


def changed(model, views, images):
    """The same images with a model of other weights, in more views, in another order, and at another size."""
    other = classifier("vit")
    with torch.no_grad():
        other.vit.layernorm.bias += 1
    yield other, views
    yield model, views_of(images, count=3)
    yield model, views_of(images, rows=(0, 5, 3, 7, 1))
    yield (
        model,
        Views(images, views.rows, Augmentation(ClassifierTransform(SIDE, mean=(0, 0, 0)), 1, False, 0, 0), 2, 0),
    )


def test_features_are_kept_unless_something_has_changed(images, tmp_path):
    model, views = classifier("vit"), views_of(images)
    part = tmp_path / "part-00000.npy"
    stored(model, views, tmp_path)
    made = part.stat().st_mtime_ns, part.read_bytes()
    with torch.no_grad():
        model.classifier.weight += 1  # the head does not matter
    stored(model, views, tmp_path)
    assert (part.stat().st_mtime_ns, part.read_bytes()) == made
    for other in changed(model, views, images):
        stored(*other, tmp_path)
        assert part.read_bytes() != made[1]
        stored(model, views, tmp_path)
        assert part.read_bytes() == made[1]


def test_a_damaged_file_is_one_line(images, tmp_path):
    read = stored(classifier("vit"), views_of(images), tmp_path)
    part = tmp_path / "part-00000.npy"
    part.write_bytes(part.read_bytes()[:-8])
    read(8)
    with pytest.raises(StageError, match=r"part-00000.npy: is damaged; delete .* and run the same command again"):
        read(9)
