"""What a component's docstring documents is what its signature takes."""

from __future__ import annotations

import inspect

import pytest

from trainer.config.describe import parameter_help
from trainer.config.registry import FIDELITY, ROOMS, components

COMPONENTS = [(kind, name) for kind in ROOMS for name in components(kind)]


@pytest.mark.parametrize(("kind", "name"), COMPONENTS)
def test_a_docstring_documents_the_parameters_of_the_signature_in_their_order(
    kind: str, name: str
) -> None:
    component = components(kind)[name]
    signature = inspect.signature(component.load()).parameters.values()
    named = [p.name for p in signature if p.kind is not p.VAR_KEYWORD]
    chosen_by_configs = {p.name for p in signature if p.kind is p.KEYWORD_ONLY}
    documented = list(parameter_help(component.doc))
    # The registry adds it, describes it, and keeps it from the function.
    added = {FIDELITY} if component.released is not None else set()
    assert chosen_by_configs == set(component.parameters) - added
    assert chosen_by_configs <= set(documented), "not documented"
    # What the library supplies may be left out; what is documented has to exist.
    assert documented == [name for name in named if name in documented]
