import dataclasses

import pytest
import torch

from pyprod.kernels.cnn import CnnStep, CnnValue, int8_cnn, int8_cnn_cost, int8_cnn_reference, pack_cnn

OPS = torch.ops.pyprod


def conv(c_in, c_out, kernel, **rest):
    w_q = torch.randint(-128, 128, (c_out, c_in, kernel, kernel), dtype=torch.int8)
    return {"kernel": kernel, "w_q": w_q, "w_scale": torch.rand(c_out) / 300, "bias": torch.randn(c_out), **rest}


def network():
    """All kinds of steps: a pooled stem, residuals in int8 and in float32, a mean of each, a linear at the end."""
    values = [
        CnnValue((13, 10, 3), 0.02, -5),
        CnnValue((7, 5, 17), 0.05, -128),
        CnnValue((4, 3, 17), 0.05, -128),
        CnnValue((4, 3, 17), 0.04, 3),
        CnnValue((2, 2, 33)),
        CnnValue((2, 2, 33), 0.1, -100),
        CnnValue((1, 1, 33), 0.07, 9),
        CnnValue((1, 1, 4)),
    ]
    steps = [
        CnnStep("conv", 0, 1, stride=2, padding=1, relu=True, **conv(3, 17, 3)),
        CnnStep("max_pool", 1, 2, kernel=3, stride=2, padding=1),
        CnnStep("conv", 2, 3, residual=2, padding=1, **conv(17, 17, 3)),
        CnnStep("conv", 2, 4, stride=2, **conv(17, 33, 1)),
        CnnStep("conv", 3, 5, residual=4, stride=2, padding=1, relu=True, **conv(17, 33, 3)),
        CnnStep("mean", 5, 6),
        CnnStep("conv", 6, 7, **conv(33, 4, 1)),
    ]
    return values, steps


@pytest.mark.parametrize("batch", [0, 1, 2, 19])
def test_equals_its_twin(batch, poison):
    values, steps = network()
    x = torch.randn(batch, 3, 13, 10)
    assert torch.equal(int8_cnn(x, pack_cnn(values, steps), 4), int8_cnn_reference(x, values, steps))


@pytest.mark.parametrize("sizes", [(5,), (1,), (0,), (2, 7), (3, 0)])
def test_rows_are_images_of_one_pixel(sizes, poison):
    values = [CnnValue((1, 1, 37), 0.02, 4), CnnValue((1, 1, 65), 0.05, -128), CnnValue((1, 1, 3))]
    steps = [CnnStep("conv", 0, 1, relu=True, **conv(37, 65, 1)), CnnStep("conv", 1, 2, **conv(65, 3, 1))]
    x, plan = torch.randn(*sizes, 74)[..., ::2], pack_cnn(values, steps)
    out = int8_cnn(x, plan, 3)
    assert torch.equal(out, int8_cnn(x.reshape(-1, 37, 1, 1), plan, 3))
    assert torch.equal(out, int8_cnn_reference(x, values, steps))
    torch.library.opcheck(OPS.int8_cnn.default, (x, plan, 3))


def test_a_mean_of_floats():
    values = [CnnValue((4, 5, 3), 0.02, 4), CnnValue((4, 5, 20)), CnnValue((1, 1, 20))]
    steps = [CnnStep("conv", 0, 1, relu=True, **conv(3, 20, 1)), CnnStep("mean", 1, 2)]
    x = torch.randn(2, 3, 4, 5)
    got, want = int8_cnn(x, pack_cnn(values, steps), 20), int8_cnn_reference(x, values, steps)
    assert (got - want).abs().max() <= 20 * torch.finfo(torch.float32).eps * want.abs().max()  # 20 sums, any order


def test_batch_and_threads_change_no_bit():
    values, steps = network()
    plan, x = pack_cnn(values, steps), torch.randn(9, 3, 13, 10)
    whole, threads = int8_cnn(x, plan, 4), torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            assert torch.equal(torch.cat([int8_cnn(row, plan, 4) for row in x.split(2)]), whole)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_reaches_its_row_alone(bad):
    values, steps = network()
    plan, x = pack_cnn(values, steps), torch.randn(3, 3, 13, 10)
    clean = int8_cnn(x, plan, 4)
    x[1, 2, 12, 9] = bad
    out = int8_cnn(x, plan, 4)
    assert out[1].isnan().all()
    assert torch.equal(out[[0, 2]], clean[[0, 2]])


def test_a_damaged_plan_is_refused_before_it_is_followed():
    """Any word of the tables turned into nonsense: an error or some result, never memory beyond the plan."""
    values, steps = network()
    plan, x = pack_cnn(values, steps), torch.randn(1, 3, 13, 10)
    refused = 0
    for word in range(8 + 8 * len(values) + 16 * len(steps)):
        damaged = plan.clone()
        damaged.view(torch.int64)[word] = 2**62
        try:
            int8_cnn(x, damaged, 4)
        except RuntimeError:
            refused += 1
    assert refused > 100
    with pytest.raises(RuntimeError, match="int8_cnn: plan is damaged: a constant's place"):
        int8_cnn(x, plan[:-64].clone(), 4)


@pytest.mark.parametrize(
    ("x", "features", "message"),
    [
        (torch.zeros(1, 3, 13, 10).half(), 4, "x must be float32, got float16"),
        (torch.zeros(1, 3, 10, 13), 4, r"x must be \[batch, 3, 13, 10\], got \[1, 3, 10, 13\]"),
        (torch.zeros(1, 390), 4, r"x must be \[batch, 3, 13, 10\], got \[1, 390\]"),
        (torch.zeros(1, 3, 13, 10), 5, "features must be 4, got 5"),
        (torch.zeros(1, 3, 13, 10, requires_grad=True), 4, "no gradient"),
    ],
)
def test_wrong_arguments_are_named(x, features, message):
    with pytest.raises(RuntimeError, match=f"int8_cnn.*{message}"):
        int8_cnn(x, pack_cnn(*network()), features)


def test_opcheck_and_compile():
    plan, x = pack_cnn(*network()), torch.randn(2, 3, 13, 10)
    torch.library.opcheck(OPS.int8_cnn.default, (x, plan, 4))
    compiled = torch.compile(lambda x, plan: int8_cnn(x, plan, 4) + 1, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x, plan), int8_cnn(x, plan, 4) + 1)


def test_scratch_is_shared_by_what_does_not_live_together():
    values = [CnnValue((8, 8, 64), 0.1)] * 5 + [CnnValue((8, 8, 1))]
    steps = [CnnStep("conv", i, i + 1, **conv(64, 64 if i < 4 else 1, 1)) for i in range(5)]
    scratch = int(pack_cnn(values, steps).view(torch.int64)[3])
    assert scratch == 2 * values[0].nbytes
    x = torch.randn(1, 64, 8, 8)
    assert torch.equal(int8_cnn(x, pack_cnn(values, steps), 64), int8_cnn_reference(x, values, steps))


def test_cost():
    values, steps = network()
    only = dataclasses.replace(steps[-1], input=0, output=1)
    cost = int8_cnn_cost(2, [CnnValue((1, 1, 33), 1.0), values[-1]], [only])
    assert (cost.ops, cost.bytes) == (2 * 2 * 33 * 4, 4 * 2 * (33 + 4) + 33 * 4)
