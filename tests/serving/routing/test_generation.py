from __future__ import annotations

from serving.routing.generation import generation_key, variant_name


def test_a_key_has_the_name_of_the_variant() -> None:
    assert generation_key("sparse-2:4", 12) == "sparse-2:4@12"
    assert variant_name("sparse-2:4@12") == "sparse-2:4"
    assert variant_name("dense") == "dense"
