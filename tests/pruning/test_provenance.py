"""Where masks come from: what a file's header says is typed, and refused where it cannot be."""

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from px_seg import InputError
from px_seg.pruning import Provenance
from px_seg.pruning.provenance import _PARSERS

TEXT = st.text(max_size=20)


@given(
    st.builds(
        Provenance,
        criterion=st.none() | TEXT,
        settings=st.none() | st.dictionaries(TEXT, st.integers() | st.booleans() | TEXT),
        sparsity=st.none() | st.floats(0, 1, exclude_max=True),
        rounds=st.none() | st.integers(0, 10**6),
        scope=st.none() | st.lists(TEXT).map(tuple),
        ranking=st.none() | TEXT,
        pattern=st.none() | TEXT,
        method=st.none() | st.from_regex(r"\A[a-z_.-]{1,9}\Z"),
        seed=st.none() | st.integers(0, 2**32),
        encoder=st.none() | TEXT,
        weights=st.none() | TEXT,
        seconds=st.none() | st.integers(0, 10**6).map(lambda thousandths: thousandths / 1000),
        shuffled=st.booleans(),
        given=st.none() | TEXT,
        notes=st.dictionaries(TEXT.filter(lambda key: key not in _PARSERS), TEXT),
    )
)
def test_a_header_gives_the_same_back(provenance: Provenance) -> None:
    header = provenance.header()
    assert all(isinstance(text, str) for text in header.values())
    assert Provenance.parse(header) == provenance


def test_every_field_is_in_the_header() -> None:
    assert set(_PARSERS) == {field.name for field in fields(Provenance)} - {"notes"}
    assert Provenance().header() == {}


def test_headers_of_earlier_versions_are_read() -> None:
    """A scope was written as it was given: null, a name or a list."""
    scopes = {
        text: Provenance.parse({"scope": text}).scope for text in ("null", '"encoder"', '["encoder", "-encoder.a"]')
    }
    assert list(scopes.values()) == [(), ("encoder",), ("encoder", "-encoder.a")]
    assert Provenance.parse({"scope": '["encoder", "-encoder.a"]'}).kept_dense == ["encoder.a"]


@pytest.mark.parametrize(
    ("key", "text"),
    [
        *(("settings", text) for text in ("{", "[]", "3")),
        *(("sparsity", text) for text in ("much", "")),
        *(("rounds", text) for text in ("-1", "many", "1.5")),
        *(("scope", text) for text in ("5", "[1]", "{")),
        *(("method", text) for text in ("../../x", "", "a b")),
        *(("seed", text) for text in ("-1", "x")),
        *(("seconds", text) for text in ("-1", "inf", "nan")),
        ("shuffled", "yes"),
    ],
)
def test_what_no_header_says_is_refused_by_name(key: str, text: str) -> None:
    with pytest.raises(InputError, match=f"cannot be read: {key} is "):
        Provenance.parse({key: text})


def test_prunings_differ_where_both_are_known_to() -> None:
    asked = Provenance(criterion="PX", sparsity=0.8, rounds=100, scope=("encoder",))
    assert Provenance().differs(asked) is None
    assert Provenance(rounds=100, seed=3).differs(asked) is None
    assert Provenance(rounds=10).differs(asked) == "rounds"
    assert Provenance(scope=()).differs(asked) == "scope"
