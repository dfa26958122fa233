"""Reuse of memory for model inputs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from runtime.pipeline.pixel_buffers import PixelBuffers


def test_memory_is_used_again_when_nothing_refers_to_it() -> None:
    buffers = PixelBuffers()
    first = buffers.take((2, 3, 8, 8))
    address = first.ctypes.data
    part = first[1, 2]
    del first
    part[:] = 7
    second = buffers.take((2, 3, 8, 8))
    assert second.ctypes.data != address, "a part of the first array is in use"
    second[:] = 0
    assert (part == 7).all()
    del part
    assert buffers.take((1, 3, 8, 8)).ctypes.data == address


def test_a_larger_array_replaces_an_unused_one() -> None:
    buffers = PixelBuffers()
    assert buffers.take((1, 3, 8, 8)).shape == (1, 3, 8, 8)
    large = buffers.take((4, 3, 8, 8))
    assert large.shape == (4, 3, 8, 8)
    address = large.ctypes.data
    del large
    assert buffers.take((1, 3, 8, 8)).ctypes.data == address


def test_threads_share_no_memory() -> None:
    buffers = PixelBuffers()

    def fill(number: int) -> bool:
        array = buffers.take((1, 3, 16, 16))
        array[:] = number
        return bool((array == number).all())

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(fill, range(500)))
