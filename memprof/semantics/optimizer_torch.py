"""Steps of ``torch.optim``'s optimizers, line by line as their Python assigns its variables.

Only lines that allocate or free appear. ``amsgrad``, ``maximize``, ``capturable``, ``centered``, ``nesterov`` and
tensor hyper-parameters are off, as by default. A fused kernel allocates nothing, an in-place ``_foreach_*`` neither;
any other ``_foreach_*`` makes one output for each input, in order. Scratch inside CUDA reductions (Adafactor's norms)
is left out.

Source: torch 2.13 wheel: optim/adam.py, optim/sgd.py, optim/_adafactor.py, optim/adagrad.py, optim/rmsprop.py;
https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/cuda/ForeachUnaryOp.cu (``foreach_unary_op``) and
ForeachBinaryOpScalar.cu, ForeachBinaryOpList.cu beside it.
"""

from __future__ import annotations

from math import prod

from memprof.semantics.optimizer_program import Block, Op, Order, Pass, Programs, Shape, bind, drop, keeps, move


def programs(name: str, implementation: str, device_kind: str, momentum: bool, weight_decay: bool) -> Programs:
    """States in creation order, and the programs of construction, first step and later steps."""
    step = _step_counter(implementation, device_kind)
    if name in ("adam", "adamw"):
        return _adam(implementation, step, weight_decay and name == "adam")
    if name == "sgd":
        return _sgd(implementation, momentum, weight_decay)
    if name == "adagrad":
        return _adagrad(implementation, step, weight_decay)
    if name == "rmsprop":
        return _rmsprop(implementation, step, momentum, weight_decay)
    return _adafactor(implementation, step)


def transformer_engine(master_weights: bool) -> Programs:
    """Transformer Engine's FusedAdam: float32 moments, float32 master weights if asked, an overflow flag.

    Source: https://github.com/NVIDIA/TransformerEngine/blob/04912bf024514826f31cc02485d396974af68516/transformer_engine/pytorch/optimizers/fused_adam.py
    """
    flag = Block("_dummy_overflow_buf", _scalar, "int32", shared=True)
    moments = (Block("exp_avg", dtype="float32"), Block("exp_avg_sq", dtype="float32"))
    make = keeps(*moments)
    construction = (Pass("each", keeps(flag)),)
    if not master_weights:
        return Programs((flag, *moments), construction, first_step=(Pass("each", make),))
    master, clone, unscaled = Block("master_param", dtype="float32"), Block("clone"), Block("unscaled", dtype="float32")
    make += (*keeps(master), bind(clone), bind(unscaled), drop(clone), drop(unscaled))
    return Programs((flag, *moments, master), construction, first_step=(Pass("each", make),))


def _scalar(_: Shape) -> int:
    return 1


def _step_counter(implementation: str, device_kind: str) -> Block:
    """A float32 scalar; on the host unless fused, to spare a kernel launch."""
    on_host = implementation != "fused" and device_kind != "cpu"
    return Block("step", _scalar, "float32", "host" if on_host else "device")


_GRAD = Block("grad")


def _decayed(weight_decay: bool) -> tuple[Op, ...]:
    """``grad = grads[i]``, then for an L2 penalty ``grad = grad.add(param, alpha=weight_decay)``."""
    return (drop(_GRAD), bind(_GRAD)) if weight_decay else ()


def _adam(implementation: str, step: Block, l2: bool) -> Programs:
    states = (step, Block("exp_avg"), Block("exp_avg_sq"))
    make = Pass("each", keeps(*states))
    if implementation == "fused":
        return Programs(states, first_step=(make,))
    if implementation == "foreach":
        root = Block("exp_avg_sq_sqrt")
        update = Pass("lists", (*_decayed(l2), drop(_GRAD), bind(root)))
    else:
        root, quotient, denom = Block("sqrt"), Block("quotient"), Block("denom")
        update = Pass("each", (*_decayed(l2), bind(root), bind(quotient), drop(root), move(quotient, denom)))
    return Programs(states, first_step=(make, update), steady_step=(update,))


def _sgd(implementation: str, momentum: bool, weight_decay: bool) -> Programs:
    """The buffer is a clone of the first (decayed) gradient; a fused step makes all buffers first."""
    buffer = Block("momentum_buffer")
    states = (buffer,) if momentum else ()
    if implementation == "fused":
        return Programs(states, first_step=(Pass("each", keeps(*states)),))
    order: Order = "lists" if implementation == "foreach" else "each"
    decayed = _decayed(weight_decay)
    done = (drop(_GRAD),) if momentum else ()
    first = Pass(order, (*decayed, *keeps(*states), *done))
    return Programs(states, first_step=(first,), steady_step=(Pass(order, (*decayed, *done)),))


def _adagrad(implementation: str, step: Block, weight_decay: bool) -> Programs:
    """States are made by the constructor."""
    states = (step, Block("sum"))
    construction = (Pass("each", keeps(*states)),)
    std, numerator = Block("std"), Block("numerator")
    if implementation == "fused":
        return Programs(states, construction)
    if implementation == "for-loop":
        update = Pass("each", (*_decayed(weight_decay), bind(std)))
    elif weight_decay:
        update = Pass("lists", (bind(_GRAD), bind(std), move(_GRAD, numerator)))
    else:
        update = Pass("lists", (bind(std), bind(numerator)))
    return Programs(states, construction, (update,), (update,))


def _rmsprop(implementation: str, step: Block, momentum: bool, weight_decay: bool) -> Programs:
    states = (step, Block("square_avg"), *((Block("momentum_buffer"),) if momentum else ()))
    order: Order = "lists" if implementation == "foreach" else "each"
    update = Pass(order, (*_decayed(weight_decay), bind(Block("avg"))))
    return Programs(states, first_step=(Pass("each", keeps(*states)), update), steady_step=(update,))


def _adafactor(implementation: str, step: Block) -> Programs:
    """Matrices keep a row and a column factor, vectors a full variance; foreach takes all matrices, then all vectors.

    The update is made in place of the variance estimate and outlives its turn: the for-loop holds it until the next
    parameter's update, foreach until the next group's estimates. Left out: the CPU's mean of 16-bit values casts its
    input, one parameter's row factor, to float32.
    """
    row, column, vector = Block("row_var", _rows), Block("col_var", _columns), Block("variance", _vector)
    states = (step, row, column, vector)
    make = Pass("each", keeps(*states))
    row_mean, column_mean = Block("row_mean", _rows), Block("col_mean", _columns)
    mean_of_rows, squared = Block("row_var_mean", _row_means), Block("grad_squared", _vector)
    if implementation == "for-loop":
        estimate, update = Block("var_estimate"), Block("update")
        means = (bind(row_mean), bind(column_mean), bind(squared))
        change = (bind(estimate), bind(mean_of_rows), drop(mean_of_rows), move(estimate, update))
        updating = Pass("each", (*means, *change))
    else:
        matrices, vectors = Block("var_estimates", _matrix), Block("var_estimates", _vector)
        updates = Block("updates")
        factors = (bind(row_mean), drop(row_mean), bind(column_mean), drop(column_mean))
        over_matrices = (*factors, bind(matrices), bind(mean_of_rows), drop(mean_of_rows), move(matrices, updates))
        over_vectors = (bind(squared), drop(squared), bind(vectors), move(vectors, updates))
        updating = Pass("lists", (*over_matrices, *over_vectors))
    return Programs(states, first_step=(make, updating), steady_step=(updating,))


def _matrix(shape: Shape) -> int:
    return prod(shape) if len(shape) > 1 else 0


def _vector(shape: Shape) -> int:
    return prod(shape) if len(shape) < 2 else 0


def _rows(shape: Shape) -> int:
    return prod(shape[:-1]) if len(shape) > 1 else 0


def _columns(shape: Shape) -> int:
    return prod(shape) // shape[-2] if len(shape) > 1 else 0


def _row_means(shape: Shape) -> int:
    return prod(shape[:-2]) if len(shape) > 1 else 0
