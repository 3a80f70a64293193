"""Speed on a GPU: training steps and predictions of 3,000-train snapshots, and their share of the card's peak FLOP/s.

    .venv/bin/python benchmarks/speed/bench_gpu.py                          # needs CUDA; without it, measures nothing
    .venv/bin/python benchmarks/speed/bench_gpu.py FOLDER                   # event tables of your own
    .venv/bin/python benchmarks/speed/bench_gpu.py --set model.d_model=256  # a larger model; any configuration key
    .venv/bin/python benchmarks/speed/bench_gpu.py --device cpu --trains 300 --snapshots 2

The FLOP of matrix products are counted with torch.utils.flop_counter. The ceiling is the peak of the tensor cores in
the vendor's data sheet: dense bfloat16 (float16 where noted), without sparsity. It is also the ceiling of 32-bit runs.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.speed.pairs import take_turns
from benchmarks.speed.railways import Railway, railway
from benchmarks.speed.steps import TrainingSteps, loss_of, predict
from transformer.features.batches import Batch
from transformer.model.module import DelayModule

ROUNDS = 10
# Dense TFLOP/s by a pattern of CUDA's name for the card; the first match counts. Source: NVIDIA's data sheets.
PEAK_TFLOPS = (
    (r"H200 NVL", 835.0),
    (r"H200", 989.0),
    (r"H100 PCIe", 756.0),
    (r"H100 NVL", 835.0),
    (r"H100", 989.0),  # SXM: "NVIDIA H100 80GB HBM3"
    (r"A100", 312.0),
    (r"A30\b", 165.0),
    (r"A10\b", 125.0),
    (r"L40S", 362.0),
    (r"L40\b", 181.0),
    (r"L4\b", 121.0),
    (r"T4\b", 65.0),  # float16
    (r"V100", 125.0),  # float16, SXM2
)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="speed on a GPU")
    parser.add_argument("folder", nargs="?", help="event tables of your own")
    parser.add_argument("--device", default="cuda", help="device of PyTorch; default: cuda")
    parser.add_argument("--trains", type=int, default=3_000, help="least number of trains in a snapshot; default: 3000")
    parser.add_argument("--snapshots", type=int, default=8, help="snapshots in a training step; default: 8")
    parser.add_argument("--peak-tflops", type=float, help="peak TFLOP/s of a card that is not in PEAK_TFLOPS")
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, help="measure torch.compile, too; default: on CUDA only"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change one key of the configuration"
    )
    chosen = parser.parse_args(arguments)
    device = torch.device(chosen.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("no CUDA device: nothing was measured")
        return 0
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    peak = chosen.peak_tflops or (peak_tflops(card) if device.type == "cuda" else None)
    ceiling = f"ceiling {peak:g} TFLOP/s" if peak else "no ceiling known (--peak-tflops)"
    print(f"{card}, torch {torch.__version__}, {ceiling}")
    with railway(chosen.folder, overrides=chosen.set) as network:
        instant, trains = network.busiest(network.builder())
        builder = network.side_by_side(-(-chosen.trains // trains))
        single = on(device, network.batches(builder, np.array([instant]), 1)[0])
        several = on(device, network.batches(builder, np.full(chosen.snapshots, instant), chosen.snapshots)[0])
        compiled = device.type == "cuda" if chosen.compile is None else chosen.compile
        measure(network, single, several, peak, compiled)
    return 0


def measure(network: Railway, single: Batch, several: Batch, peak: float | None, compiled: bool) -> None:
    """Print milliseconds and FLOP/s of a prediction of `single` and of a training step on `several` snapshots."""
    device, n_snapshots = single["label"].device, len(several["instant"])
    print(f"{single['train_mask'].sum():,} trains a snapshot, {n_snapshots} snapshots a training step")

    def module() -> DelayModule:
        return network.module().to(device)

    flop = {
        "inference": count_flop(partial(predict, module().eval(), single)),
        # Snapshots do not see each other, so the FLOP of a step are those of one snapshot times their number.
        "training": n_snapshots * count_flop(lambda: loss_of(module(), single).backward()),
    }
    contestants: dict[str, Callable[[], object]] = {}
    for precision, autocast in (("fp32", None), (str(half(device)).removeprefix("torch."), half(device))):
        for suffix, compile_it in (("", lambda module: module), (", compiled", partial(torch.compile, dynamic=False))):
            if suffix and not compiled:
                continue
            name = f"{precision}{suffix}"
            contestants[f"training {name}"] = TrainingSteps(compile_it(module()), [several], autocast)
            contestants[f"inference {name}"] = partial(predict, compile_it(module().eval()), single, autocast)
    times = take_turns(contestants, ROUNDS, warm_up=3)
    for task, baseline in (("training", "training fp32"), ("inference", "inference fp32")):
        for name in (name for name in contestants if name.startswith(task)):
            tflops = flop[task] / times.median_ms(name) / 1e9
            share = f", {tflops / peak:.1%} of the ceiling" if peak else ""
            compared = "" if name == baseline else f"{times.ratio(baseline, name):.2f} times as fast as fp32, "
            print(f"{name}: {times.median_ms(name):.1f} ms, {compared}{tflops:.3g} TFLOP/s{share}")


def peak_tflops(card: str) -> float | None:
    """Return the peak TFLOP/s of the card that CUDA calls `card`, or None if it is not in PEAK_TFLOPS."""
    return next((peak for pattern, peak in PEAK_TFLOPS if re.search(pattern, card)), None)


def count_flop(run: Callable[[], object]) -> int:
    """Return the FLOP of the matrix products in `run`, attention included."""
    # The counter does not know the fused kernels of some devices. It knows the products of unfused attention.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        run()
    return counter.get_total_flops()


def half(device: torch.device) -> torch.dtype:
    """Return the 16-bit type that a training uses on this device: float16 on cards without bfloat16."""
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return torch.bfloat16


def on(device: torch.device, batch: Batch) -> Batch:
    return {name: values.to(device) for name, values in batch.items()}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
