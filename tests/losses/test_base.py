import pytest

from trainer.losses.base import EmbeddingLoss, LabelLoss, PairLoss, TripletLoss


@pytest.mark.parametrize(
    ("base", "missing"),
    [(EmbeddingLoss, "_checked"), (LabelLoss, "call"), (PairLoss, "of_"), (TripletLoss, "of_")],
)
def test_a_loss_without_its_formula_cannot_be_made(base, missing):
    with pytest.raises(TypeError, match=f"abstract method '?{missing}"):
        type("Unfinished", (base,), {})()
