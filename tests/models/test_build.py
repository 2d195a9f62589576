"""The room's front door."""

import subprocess
import sys

import pytest

from trainer import models
from trainer.config import UserError


def test_listing_models_loads_neither_keras_nor_tensorflow():
    code = (
        "import sys, trainer.models; from trainer.config import components;"
        "assert 'mildnet_vgg16' in components('model') and 'vgg16' in components('trunk');"
        "assert not {'keras', 'tensorflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_models_name_the_nearest():
    with pytest.raises(UserError, match="did you mean 'mildnet_vgg19'"):
        models.build("mildnet_vgg191")
