"""The kernels that OpenBLAS uses in commands: those for AVX-512 on AMD processors that have it."""

from __future__ import annotations

from pathlib import Path

import pytest

from embsync.openblas import prepare

FLAGS = "fpu avx2 avx512f avx512bw avx512cd avx512dq avx512vl"
AMD = f"processor\t: 0\nvendor_id\t: AuthenticAMD\nflags\t\t: {FLAGS}\n\nprocessor\t: 1\n"


@pytest.mark.parametrize(
    ("processor", "before", "after"),
    [
        (AMD, {}, {"OPENBLAS_CORETYPE": "SKYLAKEX"}),
        (AMD, {"OPENBLAS_CORETYPE": "ZEN"}, {"OPENBLAS_CORETYPE": "ZEN"}),
        (AMD.replace("avx512vl", ""), {}, {}),
        (AMD.replace("AuthenticAMD", "GenuineIntel"), {}, {}),
        ("", {}, {}),
    ],
)
def test_kernels_for_avx512_are_chosen_where_openblas_would_not(
    tmp_path: Path, processor: str, before: dict[str, str], after: dict[str, str]
) -> None:
    """An AMD processor with all of its parts; what the environment says already is left alone."""
    (tmp_path / "cpuinfo").write_text(processor)
    environment = dict(before)
    prepare(environment, tmp_path / "cpuinfo")
    assert environment == after


def test_without_a_description_of_the_processor_nothing_is_set(tmp_path: Path) -> None:
    """Such as where /proc is not mounted."""
    environment: dict[str, str] = {}
    prepare(environment, tmp_path / "cpuinfo")
    assert environment == {}
