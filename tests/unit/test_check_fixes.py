from __future__ import annotations

from memprof import api
from memprof.check import fixes
from memprof.model.check_report import Change
from memprof.model.scenario import Batch, Optimizer, Parallelism, Scenario

LONG = Scenario(
    model="gpt2", precision="bf16", batch=Batch(micro_batch_size=8, sequence_length=1024), device="a100-40gb"
)


def changed(field: str, before: object) -> Change:
    return Change(field=field, before=before, after=None)


def value(scenario: Scenario) -> int:
    return api.allocated(scenario)


def test_the_change_that_costs_most_comes_first_and_the_device_is_none() -> None:
    changes = [
        changed("device", "h100-80gb"),
        changed("batch.micro_batch_size", 7),
        changed("batch.sequence_length", 64),
        changed("adapter.rank", None),
    ]
    undone = fixes.undoings(LONG, changes)
    assert [change.field for change, _ in undone] == ["batch.sequence_length", "batch.micro_batch_size"]
    assert undone[0][1].scenario.batch.sequence_length == 64
    assert undone[0][1].num_bytes == value(undone[0][1].scenario)


def test_undoing_what_changed_is_tried_before_anything_else() -> None:
    undone = [way for _, way in fixes.undoings(LONG, [changed("batch.sequence_length", 512)])]
    fix = fixes.find(LONG, undone, value(LONG), value(LONG) - 1, value)
    assert fix is not None
    assert (fix.name, fix.change) == ("batch.sequence_length back at 512", {"batch.sequence_length": 512})
    assert fix.is_enough


def test_the_first_step_that_is_enough_is_taken() -> None:
    fix = fixes.find(LONG, [], value(LONG), value(LONG) - 1, value)
    assert fix is not None
    assert fix.change == {"checkpointing": "full"}
    assert fix.value_bytes <= value(LONG) - 1


def test_where_nothing_is_enough_the_smallest_is_told_as_such() -> None:
    fix = fixes.find(LONG, [], value(LONG), 1, value)
    assert fix is not None
    assert not fix.is_enough
    assert fix.value_bytes < value(LONG)


def test_a_fix_keeps_the_mode_the_model_and_the_parallelism() -> None:
    sharded = Scenario(
        model="gpt2",
        optimizer=Optimizer(name="sgd"),
        checkpointing="full",
        parallelism=Parallelism(strategy="fsdp", data=8),
    )
    fix = fixes.find(sharded, [], value(sharded), 1, value)
    assert fix is not None
    assert fix.change == {"parallelism.data": 16}


def test_where_nothing_helps_there_is_no_fix() -> None:
    smallest = Scenario(model="gpt2", mode="inference", precision="bf16", batch=Batch(sequence_length=1))
    assert fixes.find(smallest, [], 1, 0, value) is None
