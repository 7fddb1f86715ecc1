"""Plans: every joined tensor in exactly one batch, within the bound, in the order of the file."""

from hypothesis import given
from hypothesis import strategies as st

from weighbridge.engine.checkpoint import TensorRef
from weighbridge.engine.plan import BATCH_BYTES, Joined, batches, stacks
from weighbridge.kernels.decoders import DECODERS


def joined(index, elements, dtypes, offset=0, file="other"):
    refs = tuple(
        TensorRef(
            f"t{index}",
            dtype,
            (elements,),
            elements * DECODERS[dtype].itemsize,
            file if n else "base",
            offset * (n + 1),
        )
        for n, dtype in enumerate(dtypes)
    )
    return Joined(index, refs, elements)


@st.composite
def many(draw):
    dtypes = st.sampled_from([("F32", "F32"), ("BF16", "F32"), ("F32", "BF16"), ("I8", "I8")])
    rows = st.tuples(st.sampled_from([0, 1, 5, 100]), dtypes, st.integers(0, 10**6), st.sampled_from("ab"))
    return [joined(index, *row) for index, row in enumerate(draw(st.lists(rows, max_size=40)))]


@given(tensors=many(), bound=st.sampled_from([1, 8, 900, 5000, BATCH_BYTES]))
def test_every_tensor_once_within_the_bound_in_file_order(tensors, bound):
    seen = []
    for batch in batches(tensors, bound):
        members = batch.members
        assert members
        assert sum(t.nbytes for t in members) <= bound or len([t for t in members if t.nbytes]) == 1
        assert all(tuple(ref.dtype for ref in t.operands) == batch.dtypes for t in members)
        places = [(t.operands[-1].file, t.operands[-1].offset) for t in members]
        assert places == sorted(places)
        for stack in batch.stacks:
            assert stack.dtypes == batch.dtypes and stack.members
            assert all(t.elements == stack.elements for t in stack.members)
        seen += [t.index for t in members]
    assert sorted(seen) == [t.index for t in tensors]


@given(tensors=many())
def test_stacks_are_as_few_as_can_be(tensors):
    made = stacks(tensors)
    keys = [(stack.elements, stack.dtypes) for stack in made]
    assert len(set(keys)) == len(keys)
    assert sorted(t.index for stack in made for t in stack.members) == [t.index for t in tensors]
    assert all([t.index for t in stack.members] == sorted(t.index for t in stack.members) for stack in made)


@given(tensors=many())
def test_one_batch_for_each_mix_of_dtypes_where_all_fit(tensors):
    made = list(batches(tensors))
    assert len(made) == len({batch.dtypes for batch in made})


def test_bytes_that_take_part():
    assert joined(0, 10, ("F32", "BF16", "I8")).nbytes == 70
    whole = joined(0, 10, ("F32", "F32"))
    assert Joined(0, whole.operands, 4).nbytes == 32  # leading rows only


def test_a_stack_is_cut_between_its_tensors():
    tensors = [joined(n, 100, ("F32", "F32"), offset=n) for n in range(10)]
    assert [[t.index for t in batch.members] for batch in batches(tensors, 2500)] == [
        [0, 1, 2],
        [3, 4, 5],
        [6, 7, 8],
        [9],
    ]


def test_a_tensor_larger_than_the_bound_goes_alone():
    tensors = [joined(n, elements, ("F32", "F32"), offset=n) for n, elements in enumerate([1, 1000, 1])]
    assert [[t.index for t in batch.members] for batch in batches(tensors, 100)] == [[0], [1], [2]]


def test_nothing():
    assert list(batches([])) == [] and stacks([]) == []


def test_tensors_in_memory_have_no_offset():
    refs = tuple(TensorRef("t", "F32", (3,), 12, "f", None) for _ in range(2))
    (batch,) = batches([Joined(4, refs, 3)])
    assert [t.index for t in batch.members] == [4]
