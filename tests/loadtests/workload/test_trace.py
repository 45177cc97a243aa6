from pathlib import Path

import pytest

from loadtests.workload.trace import read_counts


def test_counts_are_in_order_from_any_first_second(tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    file.write_text("second,arrivals\n7,3\n8,0\n9,2.5\n")
    assert read_counts(file).tolist() == [3, 0, 2.5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "line 1: must be the header second,arrivals", id="empty"),
        pytest.param("0,1\n", "line 1: must be the header second,arrivals", id="no header"),
        pytest.param("second,arrivals\n", "there are no rows after the header", id="no rows"),
        pytest.param(
            "second,arrivals\n0,1\n1\n", "line 3: must be second,arrivals, got '1'", id="short row"
        ),
        pytest.param(
            "second,arrivals\n0,1\n\n1,2\n",
            "line 3: must be second,arrivals, got ''",
            id="empty line",
        ),
        pytest.param(
            "second,arrivals\n0.5,1\n", "line 2: second must be a whole number", id="half a second"
        ),
        pytest.param(
            "second,arrivals\n0,1\n2,1\n", "line 3: second must be 1, the next one, got 2", id="gap"
        ),
        pytest.param(
            "second,arrivals\n0,-1\n",
            "line 2: arrivals must be a number of at least 0, got '-1'",
            id="negative",
        ),
        pytest.param("second,arrivals\n0,nan\n", "line 2: arrivals must be a number", id="nan"),
        pytest.param(
            "second,arrivals\n0,x\n", "line 2: arrivals must be a number", id="not a number"
        ),
    ],
)
def test_an_invalid_line_is_rejected_with_its_number(
    tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "bad.csv"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"bad\.csv") as caught:
        read_counts(file)
    assert message in str(caught.value)


def test_an_unreadable_file_is_rejected_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"missing.csv cannot be read as a trace: .*No such file"):
        read_counts(tmp_path / "missing.csv")
    binary = tmp_path / "binary.csv"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"binary.csv cannot be read as a trace"):
        read_counts(binary)
