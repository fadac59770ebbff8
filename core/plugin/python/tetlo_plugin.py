"""Plugins of tetlo in Python: transfer losses, regularisers, stopping rules, selections.

One file, which needs NumPy, and PyTorch only for functions with ``autograd="torch"``. tetlo lends it to
the scripts it starts, which see nothing else of their own folder: a comparison keeps and runs a copy of
that one file. A copy of this helper beside the script is for tests without tetlo. A whole plugin::

    import numpy as np
    import tetlo_plugin as tetlo

    @tetlo.transfer_loss("mean-gap", summary="squared gap of the means", version="0.1.0",
                         options={"scale": tetlo.number(1.0, minimum=0.0, about="Factor of the loss.")})
    def mean_gap(batch, options):
        gap = batch.main.mean() - batch.aux.mean()
        slope = 2.0 * options["scale"] * gap
        return options["scale"] * gap**2, {
            "main": np.full(batch.main.shape, slope / batch.main.size),
            "aux": np.full(batch.aux.shape, -slope / batch.aux.size),
        }

    if __name__ == "__main__":
        tetlo.serve()

The same with PyTorch's gradients (the arrays of the batch are then tensors)::

    @tetlo.transfer_loss("mean-gap", summary="squared gap of the means", autograd="torch")
    def mean_gap(batch, options):
        return (batch.main.mean() - batch.aux.mean()) ** 2

``tetlo plugins check mean_gap.py`` tests it; ``{ plugin = "mean-gap", library = "mean_gap.py" }`` in a
config uses it. A loss must be a function of its batch and options alone: random numbers come from
``batch.draws`` or ``batch.rng``, which are the same in all passes of a step. tetlo starts scripts with
``OMP_NUM_THREADS=1`` unless it is set: NumPy's and PyTorch's results depend on the number of threads.

The protocol, for whoever writes a plugin in another language. A frame is the length of what follows (8
bytes, little-endian, at most 2^30), then the bytes of a safetensors file; its ``__metadata__`` holds texts.
tetlo sends one frame a call, with ``call`` and ``id``, on standard input, and reads one frame with the same
``id`` from standard output. Its end of file is the plugin's end. An answer may be ``error`` (a text) alone.

========= ============================================== =============================================
call      request                                        answer
========= ============================================== =============================================
hello     ``protocol`` ("1"), ``tetlo`` (its version)    ``protocol``, ``built_with``, ``manifest``: a
                                                         JSON list of ``kind``, ``name``, ``version``,
                                                         ``summary``, ``schema`` (of the options)
create    ``kind``, ``name``, ``options`` (JSON)         ``looks``: JSON of ``dtypes`` and, of a loss,
                                                         ``needs``, ``min_batch``, ``reaches_main``,
                                                         ``teacher_is_smooth``, ``invariances``
loss      ``images``, ``draws`` (JSON: state of Stream), tensor ``loss`` (F64, no dimension), and for
          ``wanted`` (JSON list of names); tensors       each wanted name a tensor ``grad_NAME`` of
          ``main``, ``aux``, ``main_logits``,            its type and shape
          ``aux_logits``, ``main_maps_0`` …,
          ``aux_maps_0`` …, ``labels`` (I64)
penalty   ``epoch``, ``epochs``, ``step``, ``wanted``;   tensor ``penalty``, and gradients likewise
          tensors ``alphas_0`` …
stop      ``trace`` (JSON)                               ``stop``: JSON, ``null`` or
                                                         ``[stop_epoch, return_epoch]``
select    ``space`` (JSON); tensors by name (F64)        ``genotype`` (JSON)
========= ============================================== =============================================

Answers to the last four may carry ``seconds``, the time inside the author's function.
"""

import json
import math
import os
import platform
import struct
import sys
import threading
import time
import traceback
from importlib import metadata
from types import SimpleNamespace

import numpy as np

PROTOCOL = "1"
_LARGEST = 1 << 30
_DTYPES = {"F64": "<f8", "F32": "<f4", "I64": "<i8"}
_CODES = {np.dtype(text): code for code, text in _DTYPES.items()}
_plugins = []
_pipes = None


class PluginError(Exception):
    """What an author's function answered does not do."""


# --- options: each function gives the JSON schema of one option -------------------------------------


def _option(schema, default, about, **bounds):
    if default is None and "type" in schema:
        schema["type"] = [schema["type"], "null"]
    more = dict(bounds, description=about or None, default=default)
    return {**schema, **{key: value for key, value in more.items() if value is not None}}


def number(default=None, *, minimum=None, maximum=None, above=None, below=None, about=""):
    """A number, from `minimum` to `maximum`, or strictly `above` and `below`. No default: it may be None."""
    return _option({"type": "number"}, default, about, minimum=minimum, maximum=maximum,
                   exclusiveMinimum=above, exclusiveMaximum=below)


def integer(default=None, *, minimum=None, maximum=None, about=""):
    """A whole number. No default: it may be None."""
    return _option({"type": "integer"}, default, about, minimum=minimum, maximum=maximum)


def boolean(default=False, *, about=""):
    """True or false."""
    return _option({"type": "boolean"}, default, about)


def text(default=None, *, about=""):
    """A text. No default: it may be None."""
    return _option({"type": "string"}, default, about)


def choice(default, choices, *, about=""):
    """One of these texts."""
    return _option({"enum": list(choices)}, default, about)


# --- what an author declares ------------------------------------------------------------------------


def _register(kind, name, summary, version, options, autograd, dtypes, looks):
    if autograd not in (None, "torch"):
        raise ValueError(f"autograd must be None or 'torch', not {autograd!r}")

    def mark(function):
        line = (summary or (function.__doc__ or "").strip().split("\n")[0]).strip()
        _plugins.append(SimpleNamespace(
            kind=kind, name=name, summary=line, version=version, options=dict(options or {}),
            autograd=autograd, dtypes=list(dtypes), looks=looks, function=function))
        return function

    return mark


def transfer_loss(name, *, summary=None, version="0.1.0", options=None, needs=("embeddings",),
                  min_batch=1, reaches_main=True, teacher_is_smooth=True, invariances=(),
                  dtypes=("f64",), autograd=None):
    """Marks `function(batch, options)`: a loss, and its gradients by the names of what it differentiates.

    The gradients are a dict such as `{"main": array, "aux": array}`, of `main_maps` and `aux_maps` lists of
    arrays; all that `batch.wants(name)` must be there, None for a gradient that is zero. With
    `autograd="torch"` the function gets tensors and returns a scalar tensor. `needs`: of "embeddings",
    "logits", "maps", "labels". `reaches_main=False`: no gradient reaches the main model;
    `teacher_is_smooth=False`: its values jump with the main model's features, so that no gradient is the
    derivative of them. `invariances`: what leaves the loss as it is, of "order", "scale", "rotation",
    "shift". Each of these may be a function of the options. `dtypes`: of "f64", "f32", the best first.
    """
    looks = dict(needs=needs, min_batch=min_batch, reaches_main=reaches_main,
                 teacher_is_smooth=teacher_is_smooth, invariances=invariances)
    return _register("transfer-loss", name, summary, version, options, autograd, dtypes, looks)


def regularizer(name, *, summary=None, version="0.1.0", options=None, dtypes=("f64",), autograd=None):
    """Marks `function(alphas, progress, options)`: a penalty, and a list of its gradients.

    `alphas` has a matrix (edges × operations) for each kind of cell; `progress` has `epoch` (from 0),
    `epochs`, `step`, `fraction` (from 0 to 1). With `autograd="torch"` it returns a scalar tensor.
    """
    return _register("regularizer", name, summary, version, options, autograd, dtypes, {})


def stop_rule(name, *, summary=None, version="0.1.0", options=None):
    """Marks `function(trace, options)`: None, or the epoch to stop after and the epoch whose cell to return.

    `trace["genotype_per_epoch"]` is a list, a genotype for each epoch so far;
    `trace["hessian_epoch"]` and `trace["hessian_lambda_max"]` are eigenvalues where they were computed;
    `trace["epochs"]` is how many are planned.
    """
    return _register("stop-rule", name, summary, version, options, None, ("f64",), {})


def selection(name, *, summary=None, version="0.1.0", options=None):
    """Marks `function(space, alphas, options)`: the genotype that is derived.

    `space` is the search space as a dict, as `tetlo plugins show` prints it; `alphas` has a matrix
    (edges × operations) by name. A genotype is `{"normal": [[operation, from], …], "normal_concat":
    [2, 3, 4, 5], "reduce": …, "reduce_concat": …}`, or `{"arch": "|nor_conv_3x3~0|+…"}`.
    """
    return _register("selection", name, summary, version, options, None, ("f64",), {})


# --- random numbers ---------------------------------------------------------------------------------


def _philox(key, counter, count):
    """`count` blocks of Philox4x32-10 from this counter on, its first word counting up: count × 4."""
    low = np.uint64(0xFFFFFFFF)
    first = (np.arange(count, dtype=np.uint64) + np.uint64(counter[0])) & low
    c = [first] + [np.full(count, word, np.uint64) for word in counter[1:]]
    k, l = key
    for _ in range(10):
        a, b = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [(b >> np.uint64(32)) ^ c[1] ^ np.uint64(k), b & low,
             (a >> np.uint64(32)) ^ c[3] ^ np.uint64(l), a & low]
        k, l = (k + 0x9E3779B9) & 0xFFFFFFFF, (l + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack(c, axis=1)


class Stream:
    """tetlo's random numbers (Philox4x32-10): the numbers that a built-in plugin would draw."""

    def __init__(self, state):
        """From key (2 numbers), counter (4), block (4) and how many of the block are used."""
        state = [int(word) for word in state]
        if len(state) != 11 or not all(0 <= word < 1 << 32 for word in state) or state[10] > 4:
            raise PluginError("the state of random numbers is not 11 numbers of 32 bits")
        self._key, self._counter = state[:2], state[2:6]
        self._words, self._used, self._blocks = state[6:10], state[10], 8

    def next_u32(self):
        """32 random bits."""
        if self._used == len(self._words):
            # Blocks are computed ahead, more and more of them: the numbers are the same.
            self._words = _philox(self._key, self._counter, self._blocks).ravel().tolist()
            self._counter[0] = (self._counter[0] + self._blocks) & 0xFFFFFFFF
            self._used, self._blocks = 0, min(2 * self._blocks, 1024)
        self._used += 1
        return self._words[self._used - 1]

    def next_u64(self):
        """64 random bits."""
        low = self.next_u32()
        return low | (self.next_u32() << 32)

    def uniform(self):
        """Uniform on [0, 1)."""
        return (self.next_u64() >> 11) * 2.0**-53

    def below(self, n):
        """Uniform on 0 to n - 1."""
        if not 0 < n < 1 << 32:
            raise ValueError("a range of 1 to 2^32 - 1 values")
        reject_under = ((1 << 32) - n) % n
        while True:
            product = self.next_u32() * n
            if product & 0xFFFFFFFF >= reject_under:
                return product >> 32

    def normal(self):
        """Standard normal."""
        radius = math.sqrt(-2.0 * math.log(1.0 - self.uniform()))
        return radius * math.cos(math.tau * self.uniform())

    def shuffle(self, items):
        """Shuffles a list in place."""
        for i in range(len(items) - 1, 0, -1):
            j = self.below(i + 1)
            items[i], items[j] = items[j], items[i]

    def permutation(self, n):
        """A random order of 0 to n - 1."""
        order = list(range(n))
        self.shuffle(order)
        return order


# --- a batch ----------------------------------------------------------------------------------------


class Batch:
    """What a transfer loss sees of both models; what it did not ask for is None or an empty list.

    `main`, `aux`: embeddings, n × dimension; `main_logits`, `aux_logits`: n × classes; `main_maps`,
    `aux_maps`: lists of n × channels × height × width, the finest first; `labels`: n; `n`: images;
    `draws`: random numbers of this step, a Stream.
    """

    def __init__(self, n, arrays, labels=None, draws=(0,) * 10 + (4,), wanted=None):
        """`arrays` by name, maps as `main_maps_0` and so on; `wanted`: names, None for all."""
        self.n, self.labels, self.draws = n, labels, Stream(draws)
        self._arrays, self._state, self._rng = arrays, draws, None
        self._wanted = set(arrays if wanted is None else wanted)
        for name in ("main", "aux", "main_logits", "aux_logits"):
            setattr(self, name, arrays.get(name))
        self.main_maps = [arrays[key] for key in _flat(arrays, "main_maps")]
        self.aux_maps = [arrays[key] for key in _flat(arrays, "aux_maps")]

    def wants(self, name):
        """Is a gradient wanted in "main", "aux_maps" …?"""
        names = _flat(self._arrays, name) if name.endswith("_maps") else [name]
        return not self._wanted.isdisjoint(names)

    @property
    def rng(self):
        """A numpy Generator seeded by `draws`."""
        if self._rng is None:
            self._rng = np.random.default_rng([self.draws.next_u32() for _ in range(4)])
        return self._rng

    def _with(self, arrays, labels):
        """The same with other arrays, before any draw."""
        return Batch(self.n, arrays, labels, self._state, self._wanted)


def _flat(arrays, name):
    """The names of a model's feature maps, in order."""
    return [key for key in (f"{name}_{i}" for i in range(len(arrays))) if key in arrays]


# --- values and gradients ---------------------------------------------------------------------------


def _torch():
    try:
        import torch
    except ImportError as error:
        raise PluginError(f"it needs PyTorch, which this Python ({sys.executable}) lacks: {error}") from error
    return torch


def _by_torch(function, arrays, wanted):
    """The scalar of `function(tensors by name)` and its gradients by name."""
    torch = _torch()
    tensors = {name: torch.from_numpy(array).requires_grad_(name in wanted)
               for name, array in arrays.items()}
    began = time.perf_counter()
    value = function(tensors)
    names = [name for name in arrays if name in wanted]
    if not torch.is_tensor(value) or value.dim() != 0:
        what = f"shape {tuple(value.shape)}" if torch.is_tensor(value) else type(value).__name__
        raise PluginError(f"the function must return a scalar tensor, it returned {what}")
    if names and not value.requires_grad:
        raise PluginError(f"the scalar depends on none of {', '.join(names)}")
    found = torch.autograd.grad(value, [tensors[n] for n in names], allow_unused=True) if names else []
    seconds = time.perf_counter() - began
    gradients = {n: None if g is None else g.detach().cpu().numpy() for n, g in zip(names, found)}
    return value.item(), gradients, seconds


def _checked(value, gradients, arrays, wanted, seconds):
    """Value and wanted gradients as arrays of the right type and shape."""
    value = np.asarray(value, np.float64)
    if value.ndim != 0:
        raise PluginError(f"the value must be one number, it has shape {value.shape}")
    unknown = sorted(set(gradients) - set(arrays))
    if unknown:
        raise PluginError(f"a gradient in `{unknown[0]}`, but the inputs are {', '.join(arrays)}")
    result = {}
    for name in (n for n in arrays if n in wanted):
        array = arrays[name]
        if name not in gradients:
            raise PluginError(f"no gradient in `{name}` (None says that it is zero)")
        gradient = gradients[name]
        gradient = np.zeros_like(array) if gradient is None else np.asarray(gradient, array.dtype)
        if gradient.shape != array.shape:
            raise PluginError(f"the gradient in `{name}` has shape {gradient.shape}, `{name}` {array.shape}")
        result[name] = gradient
    return value, result, seconds


def _pair(answer, what):
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise PluginError(f"the function must return the value and its gradients ({what})")
    return answer


def _loss(plugin, batch, options):
    """Loss, gradients by name, seconds inside the function."""
    arrays, wanted = batch._arrays, batch._wanted
    if plugin.autograd:
        labels = None if batch.labels is None else _torch().from_numpy(batch.labels)
        call = lambda tensors: plugin.function(batch._with(tensors, labels), options)
        value, gradients, seconds = _by_torch(call, arrays, wanted)
        return _checked(value, gradients, arrays, wanted, seconds)
    began = time.perf_counter()
    answer = plugin.function(batch, options)
    seconds = time.perf_counter() - began
    value, given = _pair(answer, "a dict of arrays")
    gradients = {}
    for name, gradient in given.items():
        if name.endswith("_maps"):
            names = _flat(arrays, name)
            parts = [None] * len(names) if gradient is None else list(gradient)
            if len(parts) != len(names):
                raise PluginError(f"{len(parts)} gradients for the {len(names)} `{name}`")
            gradients.update(zip(names, parts))
        else:
            gradients[name] = gradient
    return _checked(value, gradients, arrays, wanted, seconds)


def _penalty(plugin, arrays, wanted, progress, options):
    """Penalty, gradients by name, seconds inside the function."""
    if plugin.autograd:
        call = lambda tensors: plugin.function(list(tensors.values()), progress, options)
        value, gradients, seconds = _by_torch(call, arrays, wanted)
    else:
        began = time.perf_counter()
        answer = plugin.function(list(arrays.values()), progress, options)
        seconds = time.perf_counter() - began
        value, given = _pair(answer, "a list of arrays")
        if len(given) != len(arrays):
            raise PluginError(f"{len(given)} gradients for {len(arrays)} matrices")
        gradients = dict(zip(arrays, given))
    return _checked(value, gradients, arrays, wanted, seconds)


# --- for an author's own tests ----------------------------------------------------------------------


def example_batch(n=8, *, dims=(6, 4), classes=0, maps=(), seed=0):
    """A random batch: embeddings of `dims` numbers (main, aux), logits and labels of so many `classes`,
    feature maps of these (channels, height, width) in both models."""
    rng = np.random.default_rng(seed)
    shapes = {"main": (n, dims[0]), "aux": (n, dims[1])}
    if classes:
        shapes.update(main_logits=(n, classes), aux_logits=(n, classes))
    for i, shape in enumerate(maps):
        shapes.update({f"main_maps_{i}": (n, *shape), f"aux_maps_{i}": (n, *shape)})
    arrays = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    labels = rng.integers(0, classes, n) if classes else None
    return Batch(n, arrays, labels, [seed, 0, 0, 0, 6, 0, 0, 0, 0, 0, 4])


def gradient_error(function, batch, options=None, step=1e-5):
    """The largest error of a loss's gradients against central differences, relative to the largest of them.

    `function` is a function marked as a transfer loss. Where it says that no gradient reaches the main
    model, or that its values jump there, only the auxiliary model's is compared.
    """
    plugin = next(p for p in _plugins if p.function is function)
    options = _complete(plugin, options or {})
    looks = {key: _of_options(value, options) for key, value in plugin.looks.items()}
    batch = batch._with(batch._arrays, batch.labels)
    if not (looks["reaches_main"] and looks["teacher_is_smooth"]):
        batch._wanted = {name for name in batch._wanted if name.startswith("aux")}
    used = {n for n in batch._arrays if ("maps" if "maps" in n else "logits" if "logits" in n
                                         else "embeddings") in looks["needs"]}
    batch._wanted &= used
    _, gradients, _ = _loss(plugin, batch, options)

    def value(arrays):
        moved = batch._with(arrays, batch.labels)
        moved._wanted = set()
        return float(_loss(plugin, moved, options)[0])

    worst, largest = 0.0, 1e-12
    for name, gradient in gradients.items():
        for place in np.ndindex(gradient.shape):
            ends = []
            for sign in (1.0, -1.0):
                arrays = {key: array.copy() for key, array in batch._arrays.items()}
                arrays[name][place] += sign * step
                ends.append(value(arrays))
            difference = (ends[0] - ends[1]) / (2.0 * step)
            worst = max(worst, abs(float(gradient[place]) - difference))
            largest = max(largest, abs(difference))
    return worst / largest


# --- the conversation with tetlo --------------------------------------------------------------------


def _read(source):
    """The next frame: texts and arrays by name. None at the end of file."""
    length = _exactly(source, 8)
    if length is None:
        return None
    length = struct.unpack("<Q", length)[0]
    if length > _LARGEST:
        raise PluginError(f"a frame of {length} bytes, at most {_LARGEST} are allowed")
    data = _exactly(source, length)
    if data is None:
        return None
    size = struct.unpack_from("<Q", data)[0]
    header = json.loads(data[8:8 + size].decode())
    texts, arrays = header.pop("__metadata__", {}), {}
    for name, about in header.items():
        dtype, (begin, end) = np.dtype(_DTYPES[about["dtype"]]), about["data_offsets"]
        array = np.frombuffer(data, dtype, (end - begin) // dtype.itemsize, 8 + size + begin)
        arrays[name] = array.reshape(about["shape"])
    return texts, arrays


def _exactly(source, length):
    data = bytearray(length)
    view, at = memoryview(data), 0
    while at < length:
        got = source.readinto(view[at:])
        if not got:
            return None
        at += got
    return data


def _write(sink, texts, arrays):
    header, at, parts = {"__metadata__": texts}, 0, []
    for name, array in arrays.items():
        array = np.asarray(array, order="C")
        header[name] = {"dtype": _CODES[array.dtype], "shape": array.shape,
                        "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
        parts.append(array.reshape(-1).view(np.uint8).data)
    header = json.dumps(header).encode()
    header += b" " * (-len(header) % 8)
    parts.insert(0, struct.pack("<QQ", 8 + len(header) + at, len(header)) + header)
    for part in parts:
        view = memoryview(part)
        while view:
            view = view[sink.write(view):]


def _of_options(value, options):
    return value(options) if callable(value) else value


def _complete(plugin, given):
    """The options with defaults, None for those that have none."""
    return {key: given.get(key, about.get("default")) for key, about in plugin.options.items()}


def _plain(value):
    """NumPy's numbers and arrays for json."""
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else str(value)


def _json(value):
    return json.dumps(value, default=_plain, allow_nan=False)


class _Conversation:
    """Answers to calls, each from texts and arrays to texts and arrays."""

    def __init__(self):
        self.plugin, self.options = None, None

    def answer(self, texts, arrays):
        calls = {"hello": self.hello, "create": self.create, "loss": self.loss,
                 "penalty": self.penalty, "stop": self.stop, "select": self.select}
        if texts.get("call") not in calls:
            raise PluginError(f"the call `{texts.get('call')}` is unknown")
        return calls[texts["call"]](texts, arrays)

    def hello(self, texts, _arrays):
        if texts.get("protocol") != PROTOCOL:
            raise PluginError(f"this tetlo_plugin.py speaks protocol {PROTOCOL}, tetlo {texts.get('tetlo')} "
                              f"protocol {texts.get('protocol')}; take the file of that tetlo")
        listed = [{"kind": p.kind, "name": p.name, "version": p.version, "summary": p.summary,
                   "schema": {"type": "object", "properties": p.options}} for p in _plugins]
        built_with = f"Python {platform.python_version()}, NumPy {np.__version__}"
        if "torch" in sys.modules or any(p.autograd for p in _plugins):
            try:
                built_with += f", PyTorch {metadata.version('torch')}"
            except metadata.PackageNotFoundError:
                built_with += ", no PyTorch"
        return {"protocol": PROTOCOL, "built_with": built_with, "manifest": _json(listed)}, {}

    def create(self, texts, _arrays):
        for plugin in _plugins:
            if (plugin.kind, plugin.name) == (texts["kind"], texts["name"]):
                self.plugin, self.options = plugin, _complete(plugin, json.loads(texts["options"]))
                if plugin.autograd:
                    _torch()
                looks = {key: _of_options(value, self.options) for key, value in plugin.looks.items()}
                looks = {key: list(v) if isinstance(v, (tuple, set)) else v for key, v in looks.items()}
                return {"looks": _json({"dtypes": plugin.dtypes, **looks})}, {}
        raise PluginError(f"there is no {texts['kind']} `{texts['name']}`")

    def loss(self, texts, arrays):
        labels = arrays.pop("labels", None)
        batch = Batch(int(texts["images"]), arrays, labels, json.loads(texts["draws"]),
                      json.loads(texts["wanted"]))
        return self._numbers("loss", *_loss(self.plugin, batch, dict(self.options)))

    def penalty(self, texts, arrays):
        progress = SimpleNamespace(**{key: int(texts[key]) for key in ("epoch", "epochs", "step")})
        progress.fraction = progress.epoch / (progress.epochs - 1) if progress.epochs > 1 else 0.0
        arrays = {f"alphas_{i}": arrays[f"alphas_{i}"] for i in range(len(arrays))}
        wanted = set(json.loads(texts["wanted"]))
        return self._numbers(
            "penalty", *_penalty(self.plugin, arrays, wanted, progress, dict(self.options)))

    def _numbers(self, name, value, gradients, seconds):
        arrays = {name: value, **{f"grad_{key}": g for key, g in gradients.items()}}
        return {"seconds": repr(seconds)}, arrays

    def stop(self, texts, _arrays):
        return self._decision("stop", json.loads(texts["trace"]))

    def select(self, texts, arrays):
        return self._decision("genotype", json.loads(texts["space"]), arrays)

    def _decision(self, name, *arguments):
        began = time.perf_counter()
        answer = self.plugin.function(*arguments, dict(self.options))
        seconds = time.perf_counter() - began
        return {name: _json(answer), "seconds": repr(seconds)}, {}

    def tell(self, error):
        """One line of text about an exception: its type, its text and the author's line."""
        words = " ".join(str(error).split())[:1000]
        if isinstance(error, PluginError):
            return words
        line = ""
        for frame in traceback.extract_tb(error.__traceback__):
            if self.plugin and frame.filename == self.plugin.function.__code__.co_filename:
                line = f" ({os.path.basename(frame.filename)}, line {frame.lineno})"
        return f"{type(error).__name__}: {words}{line}"


def _take_pipes():
    """Keeps standard input and output for frames: print() goes to standard error, input() finds nothing."""
    global _pipes
    if _pipes is None:
        _pipes = os.fdopen(os.dup(0), "rb", 0), os.fdopen(os.dup(1), "wb", 0)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        os.dup2(2, 1)
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(line_buffering=True)


def _end_with(parent):
    """Ends this process when tetlo has died, even in the midst of a call."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def serve():
    """Answers tetlo's calls until it ends. Stands at the end of a plugin's file."""
    if _pipes is None and sys.stdin.isatty():
        script = os.path.basename(sys.argv[0])
        for plugin in _plugins:
            print(f"{script}: {plugin.kind} `{plugin.name}` {plugin.version} for tetlo: {plugin.summary}")
        print(f"tetlo starts it; to test it: tetlo plugins check {sys.argv[0]}")
        return
    _take_pipes()
    source, sink = _pipes
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    conversation = _Conversation()
    while (request := _read(source)) is not None:
        texts, arrays = request
        try:
            answer, results = conversation.answer(texts, arrays)
        except Exception as error:  # an author's mistake is an answer
            if not isinstance(error, PluginError):
                traceback.print_exc()
            answer, results = {"error": conversation.tell(error)}, {}
        try:
            _write(sink, {"id": texts.get("id", ""), **answer}, results)
        except BrokenPipeError:
            return


# tetlo says in the environment that it speaks to this process: from here on nothing else is written there.
if os.environ.pop("TETLO_PLUGIN_PIPES", None):
    _take_pipes()
