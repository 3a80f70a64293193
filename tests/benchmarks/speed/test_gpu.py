"""Cards and their ceilings, and the whole GPU benchmark on the CPU."""

import numpy as np
import pytest
import torch

from benchmarks.speed import bench_gpu
from benchmarks.speed.bench_gpu import count_flop, measure, peak_tflops
from benchmarks.speed.railways import Railway


@pytest.mark.parametrize(
    ("card", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA A10G", None),  # another card than the A10
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
        ("Tesla T4", 65),
        ("NVIDIA GeForce GTX 1080", None),
    ],
)
def test_ceiling_of_a_card(card: str, peak: float | None):
    assert peak_tflops(card) == peak


def test_flop_of_products_and_of_attention_are_counted():
    a, b = torch.randn(3, 5), torch.randn(5, 7)
    assert count_flop(lambda: a @ b) == 2 * 3 * 5 * 7
    x = torch.randn(1, 2, 10, 4)  # one snapshot, 2 heads, 10 trains, 4 numbers
    attention = torch.nn.functional.scaled_dot_product_attention
    assert count_flop(lambda: attention(x, x, x)) == 2 * (2 * 2 * 10 * 10 * 4)


def test_without_cuda_it_says_so_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bench_gpu.main([]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert "no CUDA device" in line


def test_the_same_measurement_runs_on_the_cpu(
    network: Railway, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(bench_gpu, "ROUNDS", 1)
    instant, _ = network.busiest(network.builder())
    single, several = (network.batches(network.builder(), np.full(count, instant), count)[0] for count in (1, 2))
    measure(network, single, several, peak=1.0, compiled=False)
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split(":")[0] for line in lines] == [
        "training fp32", "training bfloat16", "inference fp32", "inference bfloat16",
    ]  # fmt: skip
    assert all("TFLOP/s" in line and "of the ceiling" in line for line in lines)
