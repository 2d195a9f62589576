"""Trunks: pictures in, feature maps out, or vectors where a trunk pools by itself.

A trunk is a registered function `fn(images, weights, *, ...) -> keras.Model`. `images` is the Keras
input tensor of preprocessed pictures (B, S, S, 3), `weights` is `imagenet` or None. The model it
returns ends at the last feature map, and its layers carry fixed names, since skips and frozen
layers are chosen by name. Tags of the registration say the rest:

- `skips`: layers whose output joins the embedding by default, comma separated, `*` and `[1-4]`
  allowed as in file names, or `none`;
- `preprocessing`: the form of input that its ImageNet weights expect, a mode of `Preprocess`;
- `minimum`: smallest input size in pixels;
- `brings`, optional: what the trunk has of its own, the scaling of pixels and weights. It is given
  pixels 0..255, and as `weights` `own` or None;
- `argument`, optional: the parameter that may follow the name and a colon: `kerashub:PRESET`;
- `torch`, optional: module whose `load(trunk, path)` reads a PyTorch checkpoint of this trunk.
"""
