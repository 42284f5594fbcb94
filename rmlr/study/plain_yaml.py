"""A strict YAML reader for settings: one value per key, and limits on depth and size."""

from typing import Any

import yaml

DEEPEST = 50  # levels
MOST = 200_000  # values, with aliases expanded
MERGE = "tag:yaml.org,2002:merge"


def parse(text: str, where: str) -> Any:
    """The content of a YAML text; ValueError says `where`, which line, what was expected and what was found."""
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is None:
            return None
        _check(root, where, {}, [])
        return loader.construct_document(root)
    except yaml.YAMLError as error:
        raise ValueError(f"{where}: not YAML: {error}") from error
    except RecursionError as error:
        raise ValueError(f"{where}: expected at most {DEEPEST} levels of nesting, found more") from error
    except ValueError as error:  # such as month 13 in what looks like a date
        if str(error).startswith(where):
            raise
        raise ValueError(f"{where}: a value cannot be read ({error}). Put it in quotes if it is a text") from error


def _check(node: yaml.Node, where: str, sizes: dict[int, int], above: list[int]) -> int:
    """The number of values of a node. ValueError if a key is duplicate, or the node is too deep or too large."""
    if id(node) in sizes:
        return sizes[id(node)]
    line = f"{where}, line {node.start_mark.line + 1}"
    if id(node) in above:
        raise ValueError(f"{line}: an alias refers to a value that contains it")
    if len(above) > DEEPEST:
        raise ValueError(f"{line}: expected at most {DEEPEST} levels of nesting, found more")
    size, within = 1, [*above, id(node)]
    if isinstance(node, yaml.MappingNode):
        seen: dict[tuple[str, str], int] = {}
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                name, at = (key.tag, key.value), key.start_mark.line + 1
                if first := seen.get(name):
                    kind = "merge" if key.tag == MERGE else "key"
                    raise ValueError(f"{where}, line {at}: {kind} '{key.value}' is a duplicate of line {first}")
                seen[name] = at
            size += _check(key, where, sizes, within) + _check(value, where, sizes, within)
    elif isinstance(node, yaml.SequenceNode):
        size += sum(_check(value, where, sizes, within) for value in node.value)
    if size > MOST:
        raise ValueError(f"{line}: expected at most {MOST} values with aliases expanded, found more")
    sizes[id(node)] = size
    return size
