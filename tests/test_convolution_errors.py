"""Links and geometries that are refused, each with the reason."""

import jax
import pytest

import eqprop as ep


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ep.Convolution(0, 3), "channels is 0; it must be a whole number ≥ 1"),
        (lambda: ep.Convolution(2, 2.5), "kernel is 2.5; it must be a whole number"),
        (lambda: ep.Convolution(2, 3, stride=0), "stride is 0; .* ≥ 1"),
        (lambda: ep.Convolution(2, 3, padding=-1), "padding is -1; .* ≥ 0"),
        (lambda: ep.Convolution(2, 3, pool="mean"), "pool is 'mean'; choose 'max', "),
        (lambda: ep.Convolution(2, 3, pool="max", pool_stride=0), "pool_stride is 0"),
        (lambda: ep.Convolution(2, 3, pool_size=3), "no effect without pool"),
    ],
)
def test_links_that_make_no_sense_are_refused(make, words):
    """With the value found and what is allowed."""
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ((12, ep.Convolution(2, 3), 3), r"layer 1 \(2 channels\).* a vector of 12"),
        (((6, 6, 1), 5, ep.Convolution(2, 3)), r"layer 2 \(2 .* a vector of 5 units"),
        (((4, 6, 1), ep.Convolution(2, 5), 3), "kernel of 5 does not fit .* 4 x 6"),
        (
            ((4, 6, 1), ep.Convolution(2, 3), ep.Convolution(4, 2, pool="max"), 3),
            r"layer 2 \(4 channels\): a pool_size of 2 does not fit the 1 x 3 image",
        ),
        (((6, 6), ep.Convolution(2, 3), 3), r"sizes are \(\(6, 6\)"),
        (((6, 6, 0), ep.Convolution(2, 3), 3), "sizes are"),
        ((ep.Convolution(2, 3), 3), "sizes are"),
        (((6, 6, 1), ep.Convolution(2, 3), (3, 3, 1)), "sizes are"),
    ],
)
def test_geometries_that_do_not_fit_are_refused(sizes, words):
    """With the layer's number and sizes."""
    with pytest.raises(ValueError, match=words):
        ep.PrototypicalNetwork(sizes, key=jax.random.key(0))
