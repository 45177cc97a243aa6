from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from serving.telemetry.logs import JsonFormatter


def logged(message: str, *args: object, **extra: object) -> dict[str, Any]:
    logger = logging.getLogger("serving.somewhere")
    record = logger.makeRecord(
        logger.name, logging.WARNING, "file.py", 1, message, args, None, extra=extra
    )
    line = JsonFormatter().format(record)
    assert "\n" not in line
    fields: dict[str, Any] = orjson.loads(line)
    return fields


def test_a_record_is_one_object_with_the_formatted_message() -> None:
    fields = logged("%s of %d", "two", 3)
    assert fields.pop("time")
    assert fields == {
        "level": "warning",
        "logger": "serving.somewhere",
        "message": "two of 3",
    }


def test_the_fields_of_extra_become_fields_of_the_object() -> None:
    fields = logged("a host was lost", variant="int8", status=503, took_s=0.25)
    assert (fields["variant"], fields["status"], fields["took_s"]) == ("int8", 503, 0.25)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(Path("a/b"), "a/b", id="a path"),
        pytest.param(ValueError("wrong"), "wrong", id="an error"),
        pytest.param("two\nlines", "two\nlines", id="a line break stays within its string"),
    ],
)
def test_a_value_without_a_json_type_is_written_as_text(value: object, expected: str) -> None:
    assert logged("see the field", cause=value)["cause"] == expected


def test_an_exception_is_logged_with_its_traceback_on_the_same_line() -> None:
    logger = logging.getLogger("serving.somewhere")
    try:
        raise ValueError("the cause")
    except ValueError:
        record = logger.makeRecord(
            logger.name, logging.ERROR, "file.py", 1, "a batch failed", (), sys.exc_info()
        )
    line = JsonFormatter().format(record)
    assert "\n" not in line
    fields = orjson.loads(line)
    assert fields["message"] == "a batch failed"
    assert fields["exception"].startswith("Traceback (most recent call last)")
    assert fields["exception"].endswith("ValueError: the cause")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_traceback_is_readable_although_serve_replaces_print(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ray.serve._private.logging_utils import redirected_print

    monkeypatch.setattr("builtins.print", redirected_print)
    record = logging.makeLogRecord({"exc_info": (ValueError, ValueError("the cause"), None)})
    fields = orjson.loads(JsonFormatter().format(record))
    assert fields["exception"] == "ValueError: the cause"


ROOT = Path(__file__).parents[3]

SCRIPT = """
import logging
from serving.telemetry.logs import log_as_json

log_as_json()
log_as_json()
logging.getLogger("serving.protocol").info("ours", extra={"status": 200})
logging.getLogger("variants.build.build").warning("ours too")
logging.getLogger("serving").debug("below the level")
logging.getLogger("uvicorn").info("a library")
print("an answer")
"""


def test_only_the_logs_of_this_project_go_to_standard_error() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, check=True)
    lines = [orjson.loads(line) for line in done.stderr.splitlines()]
    assert [(line["logger"], line["message"]) for line in lines] == [
        ("serving.protocol", "ours"),
        ("variants.build.build", "ours too"),
    ]
    assert done.stdout == b"an answer\n"
