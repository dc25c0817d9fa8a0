"""A Timeline of a transformer-like training step with identical layers, for tests and benchmarks."""

from __future__ import annotations

from memprof.model.timeline import Action, Blocks, Component, Ops, Phase, Run, Segment, Timeline

_STAGES = {
    "load_stem": (-1, 1), "load_layer": (0, 1), "forward_stem": (-1, 1), "forward_layer": (0, 1), "loss": (-1, 1),
    "backward_layer": (0, -1), "backward_stem": (-1, 1), "states": (0, 1), "zero_grad": (0, 1),
}  # fmt: skip
_NAMES = list(_STAGES)


class _Recorder:
    """Columns under construction."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.components: list[Component] = []
        self.homes: list[int] = []
        self.events: dict[str, list[tuple[int, int]]] = {name: [] for name in _NAMES}

    def alloc(self, segment: str, num_bytes: int, component: Component) -> int:
        block = len(self.sizes)
        self.sizes.append(num_bytes)
        self.components.append(component)
        self.homes.append(_NAMES.index(segment))
        self.events[segment].append((Action.ALLOC.value, block))
        return block

    def free(self, segment: str, block: int) -> None:
        self.events[segment].append((Action.FREE.value, block))

    def timeline(self, num_layers: int) -> Timeline:
        segments = []
        for name, (run, order) in _STAGES.items():
            actions, blocks = ([event[part] for event in self.events[name]] for part in (0, 1))
            segments.append(Segment(name, run, order, actions, blocks, [0] * len(actions)))
        step = ["forward_stem", "forward_layer", "loss", "backward_layer", "backward_stem"]
        stages = {
            "load": ["load_stem", "load_layer"],
            "first_step": [*step, "states", "zero_grad"],
            "step": [*step, "zero_grad"],
        }
        return Timeline(
            Ops(["op"], [""], [Phase.FORWARD], [0], [0]),
            Blocks(self.sizes, self.components, [0] * len(self.sizes), self.homes),
            segments,
            [Run("layers", num_layers, ())],
            [(stage, [_NAMES.index(name) for name in names]) for stage, names in stages.items()],
        )


def layered_timeline(
    num_layers: int, *, hidden: int = 5120, width: int = 13824, tokens: int = 2048, vocab: int = 32000
) -> Timeline:
    """bf16 weights, gradients and Adam states; about 150 events a layer and step; sizes of llama-13b by default."""
    recorder = _Recorder()
    weights = [2 * hidden * hidden] * 4 + [2 * hidden * width] * 3 + [2 * hidden] * 2
    activation, wide, scores = 2 * tokens * hidden, 2 * tokens * width, 4 * tokens * vocab
    for num_bytes in (2 * vocab * hidden, 2 * vocab * hidden, 2 * hidden):
        recorder.alloc("load_stem", num_bytes, Component.WEIGHTS)
    for num_bytes in weights:
        recorder.alloc("load_layer", num_bytes, Component.WEIGHTS)
    inputs = [
        recorder.alloc("forward_stem", 8 * tokens, Component.INPUTS),
        recorder.alloc("forward_stem", activation, Component.ACTIVATIONS),
    ]
    saved = []
    norm = [2 * activation, 4 * tokens, activation]
    for num_bytes in [*norm, *[activation] * 5, 160 * tokens, activation, *norm, *[wide] * 4, activation]:
        temporary = recorder.alloc("forward_layer", num_bytes, Component.TEMPORARIES)
        saved.append(recorder.alloc("forward_layer", num_bytes, Component.ACTIVATIONS))
        recorder.free("forward_layer", temporary)
    logits = recorder.alloc("loss", scores, Component.TEMPORARIES)
    recorder.free("loss", logits)
    gradients = []
    for index, block in enumerate(reversed(saved)):
        temporary = recorder.alloc("backward_layer", recorder.sizes[block], Component.TEMPORARIES)
        other = recorder.alloc("backward_layer", recorder.sizes[block], Component.TEMPORARIES)
        if index < len(weights):
            gradients.append(recorder.alloc("backward_layer", weights[index], Component.GRADIENTS))
        for freed in (temporary, block, other):
            recorder.free("backward_layer", freed)
    for block in inputs:
        recorder.free("backward_stem", block)
    for num_bytes in weights * 2:
        recorder.alloc("states", num_bytes, Component.OPTIMIZER_STATES)
    for block in gradients:
        recorder.free("zero_grad", block)
    return recorder.timeline(num_layers)
