"""Inference: the prompt's forward, then decoding one token at a time.

With ``batch.new_tokens`` it is the library's greedy ``generate``, without it two calls of the model with a cache: one
over the prompt and one over one more token. Source: transformers 5.23, generation/utils.py (``_sample``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memprof.analytic.autograd import Tensor
from memprof.analytic.ops.pointwise import cast
from memprof.analytic.program import Program
from memprof.model.timeline import Component, Phase
from memprof.semantics import transformers_releases as releases

if TYPE_CHECKING:
    from memprof.analytic.step import Setting


RELEASE = "release"


class Inference:
    """One prompt in play. ``scores`` and ``inputs`` are what ``generate`` itself holds while the model runs."""

    def __init__(self, program: Program, setting: Setting) -> None:
        self.program = program
        self.setting = setting
        self.batch = setting.scenario.batch.micro_batch_size
        self.generates = setting.scenario.batch.new_tokens is not None
        self.scores: Tensor | None = None
        self.inputs: list[Tensor] = []
        graph = program.graph
        graph.grad_enabled = graph.training = False
        program.use_cache = True

    def play(self, ids: Tensor) -> None:
        """Of the decoding steps only the last is played, after the caches have been grown to what it finds.

        In the end all is released: the next prompt finds what this one found.
        """
        new_tokens = self.setting.scenario.batch.new_tokens
        self.prefill(ids)
        if new_tokens is not None and new_tokens > 2:
            self.skip(new_tokens - 2)
        if new_tokens is None or new_tokens > 1:
            self.decode()
        self.release()

    def prefill(self, ids: Tensor) -> None:
        self.program.graph.tape.phase = Phase.PREFILL
        self._enter_autocast()
        if self.generates:
            self.inputs = [self._tokens(ids.shape[1])]
        self._forward(ids)
        if not self.generates:
            self.program.graph.exit_autocast()

    def skip(self, num_tokens: int) -> None:
        """Decoding steps that are not played: their caches and inputs are what the next one finds."""
        tape = self.program.graph.tape
        tape.phase = Phase.DECODE
        self.program.grow_caches(num_tokens)
        tape.segment("tokens")
        tape.module = ""
        if self.scores is not None and len(self.scores.shape) > 2:  # logits of the whole prompt
            self.scores = self.program.graph.new((self.batch, self.scores.shape[-1]), "float32")
        self._extend()

    def decode(self) -> None:
        graph = self.program.graph
        graph.tape.phase = Phase.DECODE
        self._enter_autocast()
        token = graph.new((self.batch, 1), "int64")
        self._forward(token)

    def release(self) -> None:
        program = self.program
        program.graph.tape.segment(RELEASE)
        program.graph.tape.op("release")
        program.graph.exit_autocast()
        program.caches.clear()
        program.positions = self.scores = None
        self.inputs.clear()

    def _enter_autocast(self) -> None:
        """One context around ``generate``, one around each call of the model."""
        if self.setting.plan.autocast:
            self.program.graph.enter_autocast(self.setting.plan.compute)

    def _forward(self, ids: Tensor) -> None:
        """``generate`` asks for the last position's logits, which it copies to float32 and keeps for a step."""
        program, g = self.program, self.program.graph
        upcasts = releases.upcasts_all_logits(g.semantics, program.architecture.model_type)
        program.begin("embedding")
        if self.generates:
            program.positions = self._tokens(ids.shape[1])
        hidden = self.setting.forward(program, ids)
        if self.generates and not upcasts:
            hidden = g.view(hidden, (self.batch, 1, hidden.shape[-1]))
            hidden.numel = self.batch * hidden.shape[-1]
        logits = program.logits(hidden, program.root[self.setting.head])
        if upcasts:
            logits = cast(g, logits, "float32")
        del hidden
        program.cache_length += ids.shape[1]
        if self.generates:
            program.root.enter("")
            self._extend()
            g.tape.op("argmax")
            keeps_all = upcasts and g.semantics.transformers < releases.GENERATE_DROPS_OUTPUTS
            self.scores = logits if keeps_all else g.new((self.batch, logits.shape[-1]), "float32")
        program.past_caches.clear()

    def _extend(self) -> None:
        """The ids so far and their mask, one longer than what is cached."""
        self.inputs = [self._tokens(self.program.cache_length + 1) for _ in range(2)]

    def _tokens(self, length: int) -> Tensor:
        g = self.program.graph
        g.tape.op("cat")
        tensor = g.new((self.batch, length), "int64")
        if tensor.storage.block >= 0:
            g.tape.component[tensor.storage.block] = Component.INPUTS
        return tensor
