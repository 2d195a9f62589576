import keras
import numpy as np

from trainer import models


def test_resnet_joins_its_map_and_three_coarser_to_finer_ones():
    model = models.build(
        "mildnet", image_size=64, trunk="resnet50v2", preprocessing="native", embedding_dim=None
    )
    trunk = model.get_layer("trunk")
    # As published with the weights, beside the 2,049,000 of the classifier.
    assert trunk.count_params() == 25_613_800 - 2_049_000
    assert [map_.shape[1:] for map_ in trunk.outputs] == [
        (2, 2, 2048), (16, 16, 256), (8, 8, 512), (4, 4, 1024),
    ]  # fmt: skip
    images = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype(np.float32)
    # Keras' own model of the same weights, on pixels as its weights want them.
    theirs = keras.applications.ResNet50V2(include_top=False, weights=None, pooling="avg")
    theirs.set_weights(trunk.get_weights())
    expected = theirs(keras.applications.resnet_v2.preprocess_input(images.copy()))
    found = model(images)[:, :2048]
    expected, found = (np.array(x) / np.linalg.norm(x, axis=1)[:, None] for x in (expected, found))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
