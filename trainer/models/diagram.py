"""A model as a drawing."""

from __future__ import annotations

import re

import keras

from trainer.config import UserError


def draw(model: keras.Model) -> str:
    """Return an SVG of a model's layers, from the image to the embedding.

    A model within the model, such as the trunk, is one box. Needs the extra `notebook`.

    Args:
        model: a built model.

    Raises:
        UserError: the packages that draw are not installed.
    """
    try:
        import pydot  # noqa: F401 - Keras builds the graph with it
        import pygraphviz
    except ImportError as error:
        raise UserError(
            f'a drawing of a model needs {error.name}: pip install "mildnet[notebook]"'
        ) from None
    graph = keras.utils.model_to_dot(model, show_layer_names=True, dpi=72)
    drawn = pygraphviz.AGraph(string=graph.to_string()).draw(prog="dot", format="svg")
    # Without a size of its own it takes the width that it is shown in.
    return re.sub(r'<svg width="\S+" height="\S+"', "<svg", drawn.decode(), count=1)
