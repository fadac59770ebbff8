"""Shared by the PyTorch baselines: their arguments, timing, and the line of JSON they print.

Arguments are parsed before PyTorch is imported, so that OpenMP and MKL see the number of threads.
"""
import argparse
import json
import os
import resource
import statistics
import struct
import time


def arguments(description):
    """A parser with what all baselines take; options are named as those of `tetlo bench`."""
    p = argparse.ArgumentParser(description=description)
    p.add_argument("--image", type=int, default=32)
    p.add_argument("--batch", type=int, default=8)
    p.add_argument("--threads", type=int, default=0, help="0: PyTorch's default")
    p.add_argument("--steps", type=int, default=5, help="timed steps")
    p.add_argument("--warmup", type=int, default=1)
    p.add_argument("--channels-last", action="store_true")
    p.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    p.add_argument("--compile", choices=("net", "parts"), default=None,
                   help="torch.compile the whole network (minutes for a supernet), or each edge or block (a few graphs)")
    p.add_argument("--foreach", action="store_true", help="the multi-tensor SGD and clipping")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--count", action="store_true", help="only print parameters and multiply-adds of an image")
    p.add_argument("--weights", help="safetensors: print the loss of these weights on --input instead")
    p.add_argument("--input", help="npz with x and y")
    return p


def start(args):
    """Sets the number of threads; to be called before the first import of PyTorch elsewhere."""
    if args.threads:
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(args.threads)
    import torch
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.base_rss_mib = peak_rss_mib()
    return torch


def peak_rss_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def variant(args):
    names = [n for n in ("channels_last", "bf16", "foreach") if getattr(args, n)]
    return "+".join(names + ([f"compile-{args.compile}"] if args.compile else [])) or "plain"


def random_batch(torch, args, classes=10):
    images = torch.randn(args.batch, 3, args.image, args.image)
    if args.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    return images, torch.randint(classes, (args.batch,))


def count(torch, net, image):
    """Parameters, and multiply-adds of an image in convolutions and linear layers."""
    macs = 0

    def hook(m, _, out):
        nonlocal macs
        if isinstance(m, torch.nn.Conv2d):
            macs += out.numel() * m.weight[0].numel()
        elif isinstance(m, torch.nn.Linear):
            macs += out.numel() * m.in_features
    hooks = [m.register_forward_hook(hook) for m in net.modules()]
    with torch.no_grad():
        net(torch.randn(2, 3, image, image))
    for h in hooks:
        h.remove()
    return {"params": sum(p.numel() for p in net.parameters()), "macs": macs // 2}


def read_safetensors(torch, path):
    """Tensors by name."""
    with open(path, "rb") as f:
        header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
        data = bytearray(f.read())
    header.pop("__metadata__", None)
    types = {"F32": torch.float32, "F64": torch.float64, "I64": torch.int64}
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        flat = torch.frombuffer(data[begin:end], dtype=types[entry["dtype"]])
        tensors[name] = flat.reshape(entry["shape"])
    return tensors


def load(torch, net, path):
    """Weights by the authors' names; every parameter must be there, and nothing may be left over."""
    tensors = read_safetensors(torch, path)
    arch = {n: p for n, p in net.named_architecture()} if hasattr(net, "named_architecture") else {}
    wanted = {**dict(net.named_parameters()), **arch}
    running = ("running_mean", "running_var", "num_batches_tracked")
    given = {n for n in tensors if not n.endswith(running)}
    if given != set(wanted):
        raise SystemExit(f"{path}: names differ: {sorted(given ^ set(wanted))[:6]} …")
    with torch.no_grad():
        for name, p in wanted.items():
            p.copy_(tensors[name].reshape(p.shape))


def loss_of_file(torch, net, args):
    """The cross entropy of `--weights` on `--input`, batch statistics, f64: what `tetlo network eval` writes."""
    import numpy
    load(torch, net, args.weights)
    arrays = numpy.load(args.input)
    net.double()
    if hasattr(net, "named_architecture"):
        for _, p in net.named_architecture():
            p.data = p.data.double()
    with torch.no_grad():
        logits = net(torch.from_numpy(arrays["x"]).double())
        return float(torch.nn.functional.cross_entropy(logits, torch.from_numpy(arrays["y"])))


def measure(torch, args, job, multiply_adds, fields):
    """Times `job` after warming up, and prints the line. `multiply_adds` are those of a step that count."""
    for _ in range(args.warmup):
        job()
    times = []
    for _ in range(args.steps):
        began = time.perf_counter()
        job()
        times.append(1e3 * (time.perf_counter() - began))
    median = statistics.median(times)
    print(json.dumps({
        "impl": "torch " + torch.__version__, "variant": variant(args), **fields,
        "image": args.image, "batch": args.batch, "device": "cpu", "threads": torch.get_num_threads(),
        "simd": torch.backends.cpu.get_cpu_capability(), "steps": len(times),
        "ms_median": median, "ms_min": min(times), "ms_max": max(times),
        "peak_rss_mib": peak_rss_mib(), "base_rss_mib": args.base_rss_mib,
        "gflops": 2e-6 * multiply_adds * args.batch / median}))
