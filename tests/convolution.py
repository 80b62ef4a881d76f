"""Convolutional layers written again in plain NumPy, with explicit loops."""

import itertools

import numpy as np


def places(shape, size, stride):
    """Every window's row and column in the result, and its corner in the image."""
    rows, columns = ((n - size) // stride + 1 for n in shape[:2])
    for p, q in itertools.product(range(rows), range(columns)):
        yield p, q, p * stride, q * stride


def pad(image, padding):
    return np.pad(image, ((padding, padding), (padding, padding), (0, 0)))


def correlate(image, kernel, stride, padding):
    """z[p, q, o] = Σ image[p·stride + i, q·stride + j, c] kernel[i, j, c, o]."""
    image, size = pad(image, padding), kernel.shape[0]
    found = {}
    for p, q, i, j in places(image.shape, size, stride):
        window = image[i : i + size, j : j + size]
        found[p, q] = [np.sum(window * kernel[..., o]) for o in range(kernel.shape[-1])]
    rows, columns = (max(place[a] for place in found) + 1 for a in (0, 1))
    return np.array([[found[p, q] for q in range(columns)] for p in range(rows)])


def transposed(z, kernel, stride, padding, shape):
    """Every z[p, q] laid down at the place it was seen from."""
    size = kernel.shape[0]
    image = np.zeros((shape[0] + 2 * padding, shape[1] + 2 * padding, shape[2]))
    for p, q, i, j in places(image.shape, size, stride):
        for o in range(kernel.shape[-1]):
            image[i : i + size, j : j + size] += z[p, q, o] * kernel[..., o]
    return image[padding : padding + shape[0], padding : padding + shape[1]]


def kernel_gradient(image, z, size, stride, padding):
    """∂/∂kernel of Σ z · correlate(image, kernel)."""
    image = pad(image, padding)
    gradient = np.zeros((size, size, image.shape[2], z.shape[2]))
    for p, q, i, j in places(image.shape, size, stride):
        gradient += image[i : i + size, j : j + size, :, None] * z[p, q]
    return gradient


def windows(z, size, stride):
    """Every pooling window and channel: its result's index and its values."""
    for p, q, i, j in places(z.shape, size, stride):
        for c in range(z.shape[2]):
            yield (p, q, c), (i, j, c), z[i : i + size, j : j + size, c]


def shares(window, pool):
    """What each value of a window counts, and ∂(pooled)/∂(value)."""
    if pool == "average":
        share = np.full(window.shape, 1 / window.size)
        return share, share
    if pool == "softmax":
        share = np.exp(window) / np.exp(window).sum()
        return share, share * (1 + window - np.sum(share * window))
    share = np.zeros(window.shape)
    share[np.unravel_index(np.argmax(window), window.shape)] = 1
    return share, share


class Layer:
    """A dense layer or a convolution with the library's parameters."""

    def __init__(self, size, weight, bias):
        self.size, self.weight, self.bias = size, np.asarray(weight), np.asarray(bias)
        self.dense = isinstance(size, int)
        if not self.dense:
            self.step = size.pool_stride or size.pool_size

    def linear(self, lower):
        return correlate(lower, self.weight, self.size.stride, self.size.padding)

    def forward(self, lower):
        """Without the bias."""
        if self.dense:
            return lower.ravel() @ self.weight
        z = self.linear(lower)
        if self.size.pool is None:
            return z
        out = {}
        for place, _, window in windows(z, self.size.pool_size, self.step):
            out[place] = np.sum(shares(window, self.size.pool)[0] * window)
        pooled = np.zeros(np.max(list(out), axis=0) + 1)
        for place, value in out.items():
            pooled[place] = value
        return pooled

    def unpool(self, lower, upper):
        z = self.linear(lower)
        if self.size.pool is None:
            return upper
        image, size = np.zeros(z.shape), self.size.pool_size
        for place, (i, j, c), window in windows(z, size, self.step):
            slope = shares(window, self.size.pool)[1]
            image[i : i + size, j : j + size, c] += upper[place] * slope
        return image

    def backward(self, lower, upper, weight=None):
        """Through `weight` where one is given."""
        weight = self.weight if weight is None else np.asarray(weight)
        if self.dense:
            return (weight @ upper).reshape(lower.shape)
        z = self.unpool(lower, upper)
        return transposed(z, weight, self.size.stride, self.size.padding, lower.shape)

    def gradients(self, lower, upper):
        """∂/∂weight and ∂/∂bias of (forward + bias)·upper."""
        if self.dense:
            return np.outer(lower.ravel(), upper), upper
        z = self.unpool(lower, upper)
        geometry = (self.size.kernel, self.size.stride, self.size.padding)
        return kernel_gradient(lower, z, *geometry), upper.sum((0, 1))


def drives(layers, x, rates, feedback=None):
    """What each layer gets; `feedback[k]` are the weights from layer k + 1 to k."""
    found = []
    for k, layer in enumerate(layers):
        drive = layer.forward(rates[k - 1] if k else x) + layer.bias
        if k + 1 < len(layers):
            weight = None if feedback is None else feedback[k]
            drive = drive + layers[k + 1].backward(rates[k], rates[k + 1], weight)
        found.append(drive)
    return found


def primitive(layers, x, rates):
    below = [x, *rates[:-1]]
    return sum(
        np.sum((layer.forward(lower) + layer.bias) * upper)
        for layer, lower, upper in zip(layers, below, rates, strict=True)
    )
