import pytest
import torch

from pyprod.kernels.conv import int8_conv2d, int8_conv2d_cost, int8_conv2d_reference, pack_conv_weight
from pyprod.kernels.gemm import pack_weight

OPS = torch.ops.pyprod

#: images, channels in and out, height, width, then kernel, stride, padding, dilation: alone, prime, deep, one pixel,
#: around a panel of 32 channels and a tile of 32 rows, empty; padding wider than the image; each axis on its own.
SHAPES = [
    (1, 1, 1, 1, 1, 1, 1, 0, 1),
    (2, 1, 16, 8, 8, 3, 1, 1, 1),
    (1, 3, 33, 13, 17, 7, 2, 3, 1),
    (3, 16, 31, 7, 5, 3, 2, 1, 1),
    (1, 5, 7, 9, 11, 3, 1, 2, 2),
    (1, 64, 64, 6, 11, 3, 1, 1, 1),
    (2, 65, 32, 4, 8, 1, 2, 0, 1),
    (1, 2, 3, 2, 2, 5, 1, 4, 1),
    (1, 7, 2, 9, 8, (1, 3), (2, 1), (0, 1), (1, 3)),
    (0, 4, 5, 6, 6, 3, 1, 1, 1),
    # Tiles of pixels read in place: stride 1 within and over line ends, stride 2, chunks of 48 and 64 bytes, a window's
    # line that is no multiple of 4, channels around 16 and 32, just enough pixels and one too few; lines of several
    # bands; a border wider than any band; dilation across lines.
    (2, 16, 16, 28, 28, 3, 1, 1, 1),
    (3, 32, 48, 14, 14, 3, 2, 1, 1),
    (2, 64, 65, 7, 7, 3, 1, 1, 1),
    (2, 23, 33, 9, 19, 5, 1, 2, 1),
    (1, 130, 17, 5, 33, 3, (2, 1), 1, 1),
    (1, 3, 40, 17, 18, 7, 3, 3, 1),
    (2, 16, 16, 3, 3, 3, 1, 1, 1),
    (2, 16, 16, 2, 4, 3, 1, 1, 1),
    (1, 12, 20, 160, 301, 3, 1, 1, 1),
    (1, 16, 9, 300, 150, (3, 1), 2, (1, 0), 1),
    (1, 4, 5, 4, 4, 1, 50_000, 100_000, 1),
    (1, 8, 8, 20, 21, 3, 1, (2, 1), (2, 1)),
    # The same by vectors: lines of one tile of 10 pixels, of two, of the fewest pixels; windows of one pixel.
    (2, 6, 16, 10, 10, 3, 1, 1, 1),
    (1, 20, 17, 4, 11, 3, 1, 1, 1),
    (1, 9, 70, 6, 4, (3, 1), 1, (1, 0), 1),
    (2, 24, 40, 5, 7, 1, 1, 0, 1),
    (2, 10, 33, 9, 23, 1, 2, 0, 1),
]


def integers(*shape):
    return torch.randint(-128, 128, shape, dtype=torch.int8)


def arguments(images, c_in, c_out, height, width, kernel, stride, padding, dilation):
    kh, kw = (kernel, kernel) if isinstance(kernel, int) else kernel
    x, w = integers(images, c_in, height, width), integers(c_out, c_in, kh, kw)
    window = {"stride": stride, "padding": padding, "dilation": dilation}
    return (x, 0.02, int(integers(1))), w, (torch.rand(c_out) / 50, torch.randn(c_out)), window


def both(x, w, scales, window, **rest):
    out = int8_conv2d(*x, pack_conv_weight(w), *scales, tuple(w.shape[2:]), **window, **rest)
    return out, int8_conv2d_reference(*x, w, *scales, **window, **rest)


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_its_twin(shape, poison):
    """Float and int8 results (scales that leave most within the range, and that saturate most), with every residual."""
    x, w, scales, window = arguments(*shape)
    plain, reference = both(x, w, scales, window)
    assert torch.equal(plain, reference)
    assert plain.is_contiguous(memory_format=torch.channels_last)
    residuals = [
        {},
        {"residual": torch.randn(plain.shape)},
        {"residual": integers(*plain.shape), "residual_scale": 0.03, "residual_zero_point": int(integers(1))},
    ]
    for residual in residuals:
        for activation in (None, "relu"):
            for out in ({}, {"out_scale": 0.5, "out_zero_point": -128}, {"out_scale": 0.01, "out_zero_point": 7}):
                got, want = both(x, w, scales, window, activation=activation, **residual, **out)
                assert got.dtype == want.dtype
                assert torch.equal(got, want), (activation, residual.keys(), out)


def test_smooth_activations():
    """Within what csrc/common/activation.h promises of GELU and SiLU: 3e-7 and a few rounding errors, relative."""
    x, w, scales, window = arguments(*SHAPES[2])
    for activation in ("gelu", "gelu_tanh", "silu"):
        got, want = both(x, w, scales, window, activation=activation)
        assert (got - want).abs().max() <= 2e-6 * want.abs().max()


def test_any_strides():
    x, w, scales, window = arguments(*SHAPES[3])
    _, reference = both(x, w, scales, window)
    for view in (x[0].contiguous(memory_format=torch.channels_last), x[0].flip(3).flip(3), x[0].mT.contiguous().mT):
        assert torch.equal(both((view, *x[1:]), w, scales, window)[0], reference)


def test_batch_and_threads_change_no_bit():
    x, w, scales, window = arguments(4, 32, 40, 40, 40, 3, 1, 1, 1)
    whole, _ = both(x, w, scales, window)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            for i in range(4):
                one = int8_conv2d(x[0][i : i + 1], *x[1:], pack_conv_weight(w), *scales, 3, **window)
                assert torch.equal(one, whole[i : i + 1])
    finally:
        torch.set_num_threads(threads)


def test_extremes_fit_int32():
    """The largest K with the widest distance from the zero point."""
    k = (2**31 - 1) // (255 * 128)
    x, w = torch.full((1, k, 1, 1), 127, dtype=torch.int8), torch.full((2, k, 1, 1), -128, dtype=torch.int8)
    out = int8_conv2d(x, 1.0, -128, pack_conv_weight(w), torch.ones(2))
    assert torch.equal(out.flatten(), torch.full((2,), float(255 * -128 * k)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(1, 3, 4, 4)}, "x must be int8, got float32"),
        ({"x": torch.zeros(3, 4, 4, dtype=torch.int8)}, r"x must be \[N, C, H, W\]"),
        ({"x": torch.zeros(1, 2, 4, 4, dtype=torch.int8)}, "packed must be"),
        ({"x": torch.zeros(1, 3, 1, 4, dtype=torch.int8)}, "smaller than the kernel"),
        ({"x_scale": 0.0}, "x_scale must be positive"),
        ({"x_zero_point": 200}, r"x_zero_point must be in \[-128, 127\], got 200"),
        ({"stride": 0}, "stride must be >= 1, got 0"),
        ({"padding": -1}, "padding must be >= 0, got -1"),
        ({"w_scale": torch.ones(4)}, r"w_scale must be \[5\]"),
        ({"bias": torch.ones(4)}, r"bias must be \[5\]"),
        ({"out_scale": float("nan")}, "out_scale must be positive"),
        ({"out_scale": 1.0, "out_zero_point": 128}, "out_zero_point must be in"),
        ({"residual": torch.zeros(1, 5, 3, 4)}, r"residual must be \[1, 3, 3, 5\]"),
        ({"residual": torch.zeros(1, 5, 3, 3).half()}, "residual must be int8 or float32, got float16"),
        (
            {"residual": torch.zeros(1, 5, 3, 3), "activation": "silu"},
            "activation must be None or relu with a residual",
        ),
        ({"activation": "tanh"}, "activation must be"),
        ({"bias": torch.ones(5, requires_grad=True)}, "no gradient"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    packed = pack_conv_weight(torch.ones(5, 3, 2, 2, dtype=torch.int8))
    good = {"x": torch.zeros(1, 3, 4, 4, dtype=torch.int8), "x_scale": 1.0, "x_zero_point": 0, "packed": packed}
    good |= {"w_scale": torch.ones(5), "kernel": 2}
    int8_conv2d(**good)
    with pytest.raises(RuntimeError, match=f"int8_conv2d.*{message}"):
        int8_conv2d(**good | change)


def test_a_weight_of_other_dimensions_is_refused():
    with pytest.raises(RuntimeError, match=r"pack_conv_weight: w_q must be \[Cout, Cin, kh, kw\], got \[2, 3\]"):
        pack_conv_weight(torch.ones(2, 3, dtype=torch.int8))


def test_opcheck_and_compile():
    (x, *x_is), w, (scale, bias), _ = arguments(2, 5, 7, 9, 8, 3, 2, 1, 1)
    packed = pack_conv_weight(w)
    nhwc = x.permute(0, 2, 3, 1)
    window = [3, 3, 2, 2, 1, 1, 1, 1]
    torch.library.opcheck(OPS.int8_conv2d.default, (nhwc, *x_is, packed.data, 7, scale, bias, window))
    rest = ("relu", torch.randn(2, 5, 4, 7), 1.0, 0, 0.1, -3)
    torch.library.opcheck(OPS.int8_conv2d.default, (nhwc, *x_is, packed.data, 7, scale, None, window, *rest))

    def model(x, data):
        weight = type(packed)(data, packed.n, packed.k)
        return int8_conv2d(x, 0.1, 3, weight, scale, bias, 3, 2, 1, activation="relu", out_scale=0.2) + 1

    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x, packed.data), model(x, packed.data))


def test_a_pointwise_convolution_is_a_linear():
    x, w = integers(1, 40, 5, 6), integers(33, 40, 1, 1)
    assert torch.equal(pack_conv_weight(w).data, pack_weight(w.flatten(1)).data)
    out = int8_conv2d(x, 1.0, 0, pack_conv_weight(w), torch.ones(33))
    assert torch.equal(out, torch.einsum("nchw,oc->nohw", x.double(), w.flatten(1).double()).float())


def test_cost():
    cost = int8_conv2d_cost(2, 3, 5, 7, 7, 3, stride=2)
    assert (cost.ops, cost.bytes) == (2 * 2 * 16 * 135, 2 * 49 * 3 + 135 + 40 + 32 * 5)
