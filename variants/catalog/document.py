"""YAML documents that people write: no key twice, and the line of each value for messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml


class Document:
    """A parsed YAML document."""

    def __init__(self, text: str) -> None:
        """Parse one document.

        Raises `ValueError` with the line if it is not valid YAML or a mapping has a key twice.
        """
        try:
            self._root = yaml.compose(text, Loader=yaml.SafeLoader)
            _require_distinct_keys(self._root)
            self.content: Any = yaml.safe_load(text)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            where = f"line {mark.line + 1}: " if mark else ""
            raise ValueError(f"{where}not valid YAML: {error.problem or error.context}") from None
        except yaml.YAMLError as error:
            raise ValueError(f"not valid YAML: {error}") from None

    def line(self, path: Sequence[int | str]) -> int | None:
        """Return the line of a value, from 1; of the last part of the path that there is."""
        node, line = self._root, None
        for part in path:
            if isinstance(node, yaml.MappingNode):
                entry = next((kv for kv in node.value if kv[0].value == str(part)), None)
                if entry is None:
                    break
                line, node = entry[0].start_mark.line + 1, entry[1]
            elif (
                isinstance(node, yaml.SequenceNode)
                and isinstance(part, int)
                and part < len(node.value)
            ):
                node = node.value[part]
                line = node.start_mark.line + 1
            else:
                break
        if line is None and self._root is not None:
            return int(self._root.start_mark.line) + 1
        return line


def _require_distinct_keys(root: yaml.Node | None) -> None:
    """Raise `ValueError` if a mapping has a key twice: YAML would take the last one."""
    pending, seen = [root], set()
    while pending:
        node = pending.pop()
        if node is None or id(node) in seen:  # an alias
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            pending += node.value
        elif isinstance(node, yaml.MappingNode):
            lines: dict[str, int] = {}
            for key, value in node.value:
                pending.append(value)
                if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                    continue
                line = key.start_mark.line + 1
                if key.value in lines:
                    raise ValueError(
                        f"line {line}: {key.value!r} is there twice, first in line "
                        f"{lines[key.value]}; remove or rename one"
                    )
                lines[key.value] = line
