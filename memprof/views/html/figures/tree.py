"""The module tree of what is alive at the peak, with the bytes of each module itself and of all below it."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

Held = tuple[tuple[str, ...], str, int]
"""(path in the tree, component, bytes)."""
REST = "smaller ones"


class Node(msgspec.Struct, kw_only=True):
    """A module, or (``component`` set) what one component holds there. ``total_bytes`` includes everything below."""

    key: str
    parent: str
    name: str
    depth: int
    component: str | None
    own_bytes: int
    total_bytes: int


def module_path(module: str) -> tuple[str, ...]:
    """``("model", "layers.*", "mlp")`` of ``model.layers.*.mlp``: an index stays with what it counts."""
    path: list[str] = []
    for part in filter(None, module.split(".")):
        if path and (part == "*" or part.isdecimal()):
            path[-1] += f".{part}"
        else:
            path.append(part)
    return tuple(path)


def tree(held: Iterable[Held], most: int, root: str) -> list[Node]:
    """Nodes in depth-first order, the largest first; at most about ``most`` rows are told apart, the rest summed up."""
    rows = sorted((row for row in held if row[2] > 0), key=lambda row: (-row[2], row[0], row[1]))
    merged = [*rows[:most], *(((REST,), component, size) for _, component, size in rows[most:])]
    sizes: dict[tuple[str, ...], dict[str, int]] = {(): {}}
    totals: dict[tuple[str, ...], int] = {(): 0}
    for path, component, size in merged:
        for depth in range(len(path) + 1):
            totals[path[:depth]] = totals.get(path[:depth], 0) + size
            sizes.setdefault(path[:depth], {})
        own = sizes[path]
        own[component] = own.get(component, 0) + size
    children: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for path in totals:
        if path:
            children.setdefault(path[:-1], []).append(path)
    nodes: list[Node] = []
    pending: list[tuple[tuple[str, ...], str]] = [((), "")]
    while pending:
        path, parent = pending.pop()
        key = str(len(nodes))
        own = sizes[path]
        depth = len(path)
        name = path[-1] if path else root
        nodes.append(
            Node(
                key=key,
                parent=parent,
                name=name,
                depth=depth,
                component=None,
                own_bytes=sum(own.values()),
                total_bytes=totals[path],
            )
        )
        for component, size in sorted(own.items(), key=lambda part: (-part[1], part[0])):
            nodes.append(
                Node(
                    key=str(len(nodes)),
                    parent=key,
                    name=component,
                    depth=depth + 1,
                    component=component,
                    own_bytes=size,
                    total_bytes=size,
                )
            )
        below = sorted(children.get(path, []), key=lambda child: (totals[child], child))
        pending += [(child, key) for child in below]
    return nodes
