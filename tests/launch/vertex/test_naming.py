"""The next free number behind the name of a config."""

import pytest

from trainer.launch.vertex.naming import LONGEST, next_name


@pytest.mark.parametrize(
    ("taken", "name"),
    [
        ([], "mildnet_1"),
        (["mildnet_1"], "mildnet_2"),
        (["mildnet_2", "mildnet_9", "mildnet_10"], "mildnet_11"),
        (["mildnet_5"], "mildnet_6"),  # 1 to 4 were deleted
        (["mildnet", "mildnet_", "mildnet_x", "mildnet_02", "xmildnet_7", "mildnet_1_3"], None),
        (["mildnet-2", "mildnet_0", "mildnet_3.cnf"], None),
    ],
)
def test_next_number(taken: list[str], name: str | None):
    assert next_name("mildnet", taken) == (name or "mildnet_1")


def test_what_looks_like_a_pattern_is_none():
    assert next_name("a.b+c", ["axb+c_4", "a.bbc_4"]) == "a.b+c_1"
    assert next_name("a.b+c", ["a.b+c_4"]) == "a.b+c_5"


def test_long_names_are_cut_so_that_any_number_fits():
    name = next_name("x" * 200, [f"{'x' * 120}_9999998"])
    assert name == f"{'x' * 120}_9999999"
    assert len(name) == LONGEST
