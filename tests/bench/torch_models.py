"""The networks of the benchmarks in plain PyTorch, with the parameter names of the authors' code.

* `Supernet`: the DARTS search network (Liu, Simonyan and Yang, ICLR 2019), with `k` = 4 and edge normalisation that of
  PC-DARTS (Xu et al., ICLR 2020): the operations see a quarter of the channels, which are then shuffled.
* `CellStages`: the search network of NAS-Bench-201 (Dong and Yang, ICLR 2020).
* `Derived`: the network of a DARTS genotype, without drop-path and auxiliary head.
* `ResNet`: a residual network for small images (He et al., CVPR 2016), depths 8 and 20.

Every network maps images to logits; `features` gives what is pooled before the classifier.
"""
import torch
import torch.nn.functional as F
from torch import nn

DARTS_OPERATIONS = ("none", "max_pool_3x3", "avg_pool_3x3", "skip_connect",
                    "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5")
NB201_OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
DARTS_V2 = {
    "normal": [("sep_conv_3x3", 0), ("sep_conv_3x3", 1), ("sep_conv_3x3", 0), ("sep_conv_3x3", 1),
               ("sep_conv_3x3", 1), ("skip_connect", 0), ("skip_connect", 0), ("dil_conv_3x3", 2)],
    "reduce": [("max_pool_3x3", 0), ("max_pool_3x3", 1), ("skip_connect", 2), ("max_pool_3x3", 1),
               ("max_pool_3x3", 0), ("skip_connect", 2), ("skip_connect", 2), ("max_pool_3x3", 1)],
    "concat": [2, 3, 4, 5],
}


def norm(c, affine=False):
    return nn.BatchNorm2d(c, affine=affine)


class Chain(nn.Module):
    """Layers in sequence, named op.0, op.1, …"""

    def __init__(self, *layers):
        super().__init__()
        self.op = nn.Sequential(*layers)

    def forward(self, x):
        return self.op(x)


def relu_conv_bn(c_in, c_out, kernel=1, stride=1, affine=False):
    conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False)
    return Chain(nn.ReLU(), conv, norm(c_out, affine))


class FactorizedReduce(nn.Module):
    """Stride-2 identity: two 1×1 convolutions side by side, the second one pixel further."""

    def __init__(self, c_in, c_out, affine):
        super().__init__()
        self.conv_1 = nn.Conv2d(c_in, c_out // 2, 1, 2, bias=False)
        self.conv_2 = nn.Conv2d(c_in, c_out - c_out // 2, 1, 2, bias=False)
        self.bn = norm(c_out, affine)

    def forward(self, x):
        x = F.relu(x)
        return self.bn(torch.cat((self.conv_1(x), self.conv_2(x[:, :, 1:, 1:])), 1))


class Zero(nn.Module):
    def __init__(self, stride):
        super().__init__()
        self.stride = stride

    def forward(self, x):
        return x[:, :, ::self.stride, ::self.stride] * 0.0


def separable(c, kernel, stride, dilation, affine):
    depthwise = nn.Conv2d(c, c, kernel, stride, dilation * (kernel // 2), dilation, groups=c, bias=False)
    return [nn.ReLU(), depthwise, nn.Conv2d(c, c, 1, bias=False), norm(c, affine)]


def operation(name, c, stride, affine):
    if name == "none":
        return Zero(stride)
    if name == "max_pool_3x3":
        return nn.MaxPool2d(3, stride, 1)
    if name == "avg_pool_3x3":
        return nn.AvgPool2d(3, stride, 1, count_include_pad=False)
    if name == "skip_connect":
        return nn.Identity() if stride == 1 else FactorizedReduce(c, c, affine)
    if name.startswith("nor_conv"):
        return relu_conv_bn(c, c, int(name[-1]), stride, affine)
    kernel = int(name[-1])
    if name.startswith("dil_conv"):
        return Chain(*separable(c, kernel, stride, 2, affine))
    return Chain(*separable(c, kernel, stride, 1, affine), *separable(c, kernel, 1, 1, affine))


class MixedOp(nn.Module):
    """Σ_o w_o·o(x); with k > 1 on the first 1/k of the channels, the rest passing by."""

    def __init__(self, c, stride, names, k, pool_norm):
        super().__init__()
        self.k = k
        self._ops = nn.ModuleList()
        for name in names:
            op = operation(name, c // k, stride, affine=False)
            self._ops.append(nn.Sequential(op, norm(c // k)) if pool_norm and "pool" in name else op)

    def forward(self, x, weights):
        if self.k == 1:
            return sum(w * op(x) for w, op in zip(weights, self._ops))
        part = x.shape[1] // self.k
        mixed = sum(w * op(x[:, :part]) for w, op in zip(weights, self._ops))
        rest = x[:, part:]
        if mixed.shape[2] != x.shape[2]:
            rest = F.max_pool2d(rest, 2, 2)
        both = torch.cat((mixed, rest), 1)
        n, c, h, w = both.shape  # channel shuffle
        return both.view(n, self.k, c // self.k, h, w).transpose(1, 2).reshape(n, c, h, w)


class SearchCell(nn.Module):
    def __init__(self, nodes, c_before, c_last, c, reduction, after_reduction, k):
        super().__init__()
        self.nodes, self.reduction = nodes, reduction
        self.preprocess0 = FactorizedReduce(c_before, c, False) if after_reduction else relu_conv_bn(c_before, c)
        self.preprocess1 = relu_conv_bn(c_last, c)
        self._ops = nn.ModuleList(MixedOp(c, 2 if reduction and source < 2 else 1, DARTS_OPERATIONS, k, True)
                                  for node in range(nodes) for source in range(node + 2))

    def forward(self, s0, s1, weights, edge_weights):
        states, row = [self.preprocess0(s0), self.preprocess1(s1)], 0
        for _ in range(self.nodes):
            terms = []
            for s in states:
                term = self._ops[row](s, weights[row])
                terms.append(term if edge_weights is None else edge_weights[row] * term)
                row += 1
            states.append(sum(terms))
        return torch.cat(states[2:], 1)


class Supernet(nn.Module):
    def __init__(self, channels=16, layers=8, classes=10, nodes=4, k=1):
        super().__init__()
        self.nodes, c, stem = nodes, channels, 3 * channels
        self.stem = nn.Sequential(nn.Conv2d(3, stem, 3, padding=1, bias=False), norm(stem, True))
        self.cells = nn.ModuleList()
        before = last = stem
        after_reduction = False
        for i in range(layers):
            reduction = i in (layers // 3, 2 * layers // 3)
            c *= 2 if reduction else 1
            self.cells.append(SearchCell(nodes, before, last, c, reduction, after_reduction, k))
            before, last, after_reduction = last, nodes * c, reduction
        self.classifier = nn.Linear(last, classes)
        edges = nodes * (nodes + 3) // 2
        make = lambda *shape: (1e-3 * torch.randn(*shape)).requires_grad_()
        self.alphas_normal, self.alphas_reduce = make(edges, 8), make(edges, 8)
        if k > 1:
            self.betas_normal, self.betas_reduce = make(edges), make(edges)
        self.edge_normalisation = k > 1

    def named_architecture(self):
        names = ["alphas_normal", "alphas_reduce"] + ["betas_normal", "betas_reduce"] * self.edge_normalisation
        return [(n, getattr(self, n)) for n in names]

    def edge_weights(self, betas):
        """The softmax of β over the edges into each node."""
        sizes = [node + 2 for node in range(self.nodes)]
        return torch.cat([F.softmax(part, -1) for part in betas.split(sizes)])

    def features(self, x):
        weights = {False: F.softmax(self.alphas_normal, -1), True: F.softmax(self.alphas_reduce, -1)}
        edges = {False: None, True: None}
        if self.edge_normalisation:
            edges = {False: self.edge_weights(self.betas_normal), True: self.edge_weights(self.betas_reduce)}
        s0 = s1 = self.stem(x)
        for cell in self.cells:
            s0, s1 = s1, cell(s0, s1, weights[cell.reduction], edges[cell.reduction])
        return s1.mean((2, 3))

    def forward(self, x):
        return self.classifier(self.features(x))


class SingleInputCell(nn.Module):
    """A cell of NAS-Bench-201: four states, an edge between every two."""

    def __init__(self, c):
        super().__init__()
        self.edges = nn.ModuleDict()
        for to in range(1, 4):
            for source in range(to):
                self.edges[f"{to}<-{source}"] = nn.ModuleList(operation(n, c, 1, False) for n in NB201_OPERATIONS)

    def forward(self, x, weights):
        states, row = [x], 0
        for to in range(1, 4):
            terms = []
            for source in range(to):
                ops = self.edges[f"{to}<-{source}"]
                terms.append(sum(w * op(states[source]) for w, op in zip(weights[row], ops)))
                row += 1
            states.append(sum(terms))
        return states[-1]


class ResidualReduction(nn.Module):
    """The block of stride 2 between the stages of NAS-Bench-201."""

    def __init__(self, c_in, c_out):
        super().__init__()
        self.conv_a = relu_conv_bn(c_in, c_out, 3, 2, affine=True)
        self.conv_b = relu_conv_bn(c_out, c_out, 3, 1, affine=True)
        self.downsample = nn.Sequential(nn.AvgPool2d(2, 2), nn.Conv2d(c_in, c_out, 1, bias=False))

    def forward(self, x, _weights):
        return self.downsample(x) + self.conv_b(self.conv_a(x))


class CellStages(nn.Module):
    def __init__(self, channels=16, cells=5, classes=10):
        super().__init__()
        c = channels
        self.stem = nn.Sequential(nn.Conv2d(3, c, 3, padding=1, bias=False), norm(c, True))
        self.cells = nn.ModuleList()
        for stage in range(3):
            if stage > 0:
                self.cells.append(ResidualReduction(c, 2 * c))
                c *= 2
            self.cells.extend(SingleInputCell(c) for _ in range(cells))
        self.lastact = nn.Sequential(norm(c, True), nn.ReLU())
        self.classifier = nn.Linear(c, classes)
        self.arch_parameters = (1e-3 * torch.randn(6, 5)).requires_grad_()

    def named_architecture(self):
        return [("arch_parameters", self.arch_parameters)]

    def features(self, x):
        weights = F.softmax(self.arch_parameters, -1)
        x = self.stem(x)
        for cell in self.cells:
            x = cell(x, weights)
        return self.lastact(x).mean((2, 3))

    def forward(self, x):
        return self.classifier(self.features(x))


class DerivedCell(nn.Module):
    def __init__(self, genotype, c_before, c_last, c, reduction, after_reduction):
        super().__init__()
        self.genes, self.concat = genotype["reduce" if reduction else "normal"], genotype["concat"]
        self.preprocess0 = FactorizedReduce(c_before, c, True) if after_reduction else relu_conv_bn(c_before, c, affine=True)
        self.preprocess1 = relu_conv_bn(c_last, c, affine=True)
        self._ops = nn.ModuleList(operation(name, c, 2 if reduction and source < 2 else 1, True)
                                  for name, source in self.genes)

    def forward(self, s0, s1):
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        for i in range(0, len(self.genes), 2):
            states.append(sum(self._ops[j](states[self.genes[j][1]]) for j in (i, i + 1)))
        return torch.cat([states[i] for i in self.concat], 1)


class Derived(nn.Module):
    def __init__(self, channels=16, layers=8, classes=10, genotype=None):
        super().__init__()
        genotype = genotype or DARTS_V2
        c, stem = channels, 3 * channels
        self.stem = nn.Sequential(nn.Conv2d(3, stem, 3, padding=1, bias=False), norm(stem, True))
        self.cells = nn.ModuleList()
        before = last = stem
        after_reduction = False
        for i in range(layers):
            reduction = i in (layers // 3, 2 * layers // 3)
            c *= 2 if reduction else 1
            self.cells.append(DerivedCell(genotype, before, last, c, reduction, after_reduction))
            before, last, after_reduction = last, len(genotype["concat"]) * c, reduction
        self.classifier = nn.Linear(last, classes)

    def features(self, x):
        s0 = s1 = self.stem(x)
        for cell in self.cells:
            s0, s1 = s1, cell(s0, s1)
        return s1.mean((2, 3))

    def forward(self, x):
        return self.classifier(self.features(x))


class BasicBlock(nn.Module):
    def __init__(self, c_in, c_out, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False), norm(c_out, True)
        self.conv2, self.bn2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False), norm(c_out, True)
        self.downsample = None
        if stride != 1 or c_in != c_out:
            self.downsample = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), norm(c_out, True))

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + shortcut)


class ResNet(nn.Module):
    def __init__(self, depth=8, classes=10, width=16):
        super().__init__()
        blocks = {8: 1, 20: 3}[depth]
        self.conv1, self.bn1 = nn.Conv2d(3, width, 3, padding=1, bias=False), norm(width, True)
        c = width
        for stage in range(3):
            out = width << stage
            layer = nn.Sequential(*(BasicBlock(c if i == 0 else out, out, 2 if stage and i == 0 else 1)
                                    for i in range(blocks)))
            setattr(self, f"layer{stage + 1}", layer)
            c = out
        self.fc = nn.Linear(c, classes)

    def features(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        return self.layer3(self.layer2(self.layer1(x))).mean((2, 3))

    def forward(self, x):
        return self.fc(self.features(x))


#: What `--compile parts` compiles: the pieces that a network has many alike of.
PARTS = (MixedOp, SingleInputCell, DerivedCell, BasicBlock)


def compiled(net, how):
    """The network after `--compile`: as a whole, or part by part in place."""
    if how == "net":
        return torch.compile(net)
    if how == "parts":
        torch._dynamo.config.recompile_limit = 256
        for kind in PARTS:
            kind.forward = torch.compile(kind.forward, fullgraph=True, dynamic=False)
    return net
