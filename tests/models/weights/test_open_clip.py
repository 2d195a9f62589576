"""ConvNeXt by the names of OpenCLIP and timm, and what their files say of it."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.models.convnext_nets import GOLDENS, arrays, build, checkpoint, loaded
from tests.models.weights.torch_files import write_zip
from tests.reference.convnext_cases import pictures
from trainer.config import UserError
from trainer.models.trunks.assemble import build_trunk
from trainer.models.weights.open_clip import load, load_open_clip, timm_names
from trainer.models.weights.open_clip_sizes import Sizes, read_sizes

LINEAR = Sizes((1, 2, 2, 1), (8, 16, 16, 24), "linear", 12, True, 256, "clip")


def sizes(values: dict[str, np.ndarray], path="model.safetensors") -> Sizes:
    return read_sizes(timm_names(values, str(path)), str(path))


def fresh(case: str, values: dict[str, np.ndarray], **changes) -> np.ndarray:
    """What a net gives with these weights."""
    net = build(case, **changes)
    load_open_clip(net, values)
    return net(pictures(case))


def test_towers_alone_and_behind_the_names_of_parallel_training_are_the_same():
    want = GOLDENS["mlp|output"]
    for values in (
        checkpoint("mlp"),
        arrays("mlp"),
        {f"module.{name}": array for name, array in checkpoint("mlp").items()},
        {name: array.astype("float16").astype("float32") for name, array in arrays("mlp").items()},
    ):
        found = fresh("mlp", values)
        np.testing.assert_allclose(found, want, atol=0.05)
    np.testing.assert_allclose(fresh("mlp", checkpoint("mlp")), want, atol=1e-4)


def test_clip_as_timm_has_it_projects_by_its_last_layer():
    """timm has CLIP's projection for a classifier, with zeros for bias."""
    names = {"head.proj.weight": "trunk.head.fc.weight"}
    values = {names.get(name, name): array for name, array in arrays("linear").items()}
    values = {name.removeprefix("trunk."): array for name, array in values.items()}
    values["head.fc.bias"] = np.zeros(12, np.float32)
    assert sizes(values) == LINEAR
    np.testing.assert_allclose(fresh("linear", values), GOLDENS["linear|output"], atol=1e-4)
    values["head.fc.bias"][3] = 0.5
    with pytest.raises(UserError, match="does not: head_projection/bias"):
        fresh("linear", values)
    shift = fresh("linear", values, projection_bias=True) - GOLDENS["linear|output"]
    np.testing.assert_allclose(shift, np.tile(0.5 * np.eye(12)[3], (2, 1)), atol=1e-4)


def test_every_array_is_accounted_for():
    net = loaded("linear")
    before = [np.asarray(weight) for weight in net.weights]
    whole = checkpoint("linear")
    for change, words in (
        (
            {"visual.trunk.stages.1.blocks.1.gamma": None},
            "no weights for stage2_block2_scale/gamma",
        ),
        ({"visual.head.proj.weight": None}, "no weights for head_projection/kernel"),
        ({"visual.trunk.stages.0.blocks.0.mlp.grn.weight": np.ones(32)}, "does not: stages.0.bl"),
        ({"visual.trunk.stages.0.blocks.7.gamma": np.ones(8)}, "does not: stage1_block8_scale"),
        ({"visual.head.mlp.fc1.weight": np.ones((9, 24))}, "does not: head_hidden/kernel"),
        ({"visual.odd": np.ones(3)}, "does not: odd"),
        ({"odd": np.ones(3)}, "does not: odd"),
        ({"visual.trunk.stem.0.bias": np.ones(7)}, r"stem_conv/bias of convnext has shape \(8,\)"),
        ({"trunk.stem.0.bias": np.ones(8)}, "two arrays for stem.0.bias"),
    ):
        values = {name: array for name, array in (whole | change).items() if array is not None}
        with pytest.raises(UserError, match=words) as raised:
            load_open_clip(net, values, "it")
        assert "\n" not in str(raised.value)
    for weight, array in zip(net.weights, before, strict=True):
        np.testing.assert_array_equal(weight, array)


def test_a_net_that_does_not_project_leaves_projection_and_exponent_alone():
    net = loaded("linear", head="norm", pooling="gem")
    gem = net.get_layer("head_pool").p
    gem.assign(4.0)
    load_open_clip(net, checkpoint("linear"))
    assert float(gem) == 4.0
    assert net.output_shape == (None, 24)


def test_sizes_are_found_out(tmp_path):
    assert sizes(checkpoint("linear")) == LINEAR
    assert sizes(checkpoint("mlp")) == Sizes(
        (1, 1, 2, 1), (8, 8, 16, 16), "mlp", 10, True, 256, "clip"
    )
    assert not sizes(checkpoint("mlp without layer scale")).layer_scale
    bare = Sizes((1, 1, 2, 1), (8, 16, 16, 24), "norm", 0, True, 224, "torch")
    assert sizes(arrays("timm")) == bare
    # With what lies beside: OpenCLIP's config, and timm's.
    file = tmp_path / "model.safetensors"
    beside = {"model_cfg": {"vision_cfg": {"image_size": 320}}, "preprocess_cfg": {}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(beside))
    assert (sizes(checkpoint("linear"), file).image_size) == 320
    (tmp_path / "open_clip_config.json").unlink()
    told = {"input_size": [3, 288, 288], "mean": [0.48145466, 0.4578275, 0.40821073]}
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": told}))
    found = sizes(arrays("timm"), file)
    assert (found.head, found.image_size, found.preprocessing) == ("norm", 288, "clip")
    told["mean"] = [0.5, 0.5, 0.5]
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": told}))
    with pytest.raises(UserError, match="neither CLIP's nor ImageNet's"):
        sizes(arrays("timm"), file)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        sizes(arrays("timm"), file)
    with pytest.raises(UserError, match="holds no ConvNeXt by the names of OpenCLIP or timm: its"):
        sizes({"visual.conv1.weight": np.ones((8, 3, 7, 7))})


def test_a_published_size_is_called_by_its_name():
    xxlarge = Sizes((3, 4, 30, 3), (384, 768, 1536, 3072), "linear", 1024, True, 256, "clip")
    assert xxlarge.trunk() == "convnext(preset='xxlarge', head='linear', projection=1024)"
    assert LINEAR.trunk(1e-5) == (
        "convnext(depths=(1, 2, 2, 1), widths=(8, 16, 16, 24), head='linear', projection=12,"
        " epsilon=1e-05)"
    )


@pytest.mark.parametrize("ending", ["safetensors", "bin", "pt"])
def test_a_file_gives_a_trunk_its_weights(ending, tmp_path):
    path = tmp_path / f"model.{ending}"
    save = save_file if ending == "safetensors" else lambda values, to: write_zip(to, values)
    save(checkpoint("linear"), path)
    trunk = build_trunk(LINEAR.trunk(1e-5), 64, weights=str(path), skips=("none",), frozen=0)
    np.testing.assert_allclose(trunk(pictures("linear")), GOLDENS["linear|output"], atol=1e-4)
    with pytest.raises(UserError, match=r"model\.weights: .* no such file"):
        build_trunk(LINEAR.trunk(), 64, weights=f"{path}.pt", skips=("none",), frozen=0)
    with pytest.raises(UserError, match="no such file"):
        load(trunk, tmp_path / "gone.safetensors")
