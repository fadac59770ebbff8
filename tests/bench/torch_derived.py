#!/usr/bin/env python3
"""Training steps of derived networks and ResNets in plain PyTorch on the CPU: the baseline of `tetlo bench derived`.

Forward, backward, SGD (momentum 0.9, weight decay 3e-4, gradient norm clipped to 5) on random images. Prints one line of
JSON with the fields of `tetlo bench`.
"""
import json
import sys

from torch_common import arguments, count, loss_of_file, measure, random_batch, start

PARSER = arguments(__doc__.splitlines()[0])
PARSER.add_argument("--network", choices=("darts-v2", "resnet-8", "resnet-20"), default="darts-v2")
PARSER.add_argument("--channels", type=int, default=16)
PARSER.add_argument("--layers", type=int, default=8)
PARSER.add_argument("--phase", choices=("fwd", "step"), default="step")


def main():
    args = PARSER.parse_args()
    torch = start(args)
    from torch_models import Derived, ResNet, compiled
    if args.network == "darts-v2":
        net = Derived(args.channels, args.layers)
    else:
        net = ResNet(int(args.network.split("-")[1]))
    if args.weights:
        print(loss_of_file(torch, net, args))
        return
    counts = count(torch, net, args.image)
    fields = {"network": args.network, "phase": args.phase, **counts}
    if args.count:
        print(json.dumps(fields))
        return
    net = net.to(memory_format=torch.channels_last if args.channels_last else torch.contiguous_format)
    images, labels = random_batch(torch, args)
    weights, foreach = list(net.parameters()), True if args.foreach else None
    optimizer = torch.optim.SGD(weights, 0.025, momentum=0.9, weight_decay=3e-4, foreach=foreach)
    run = compiled(net, args.compile)

    def loss():
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            return torch.nn.functional.cross_entropy(run(images).float(), labels)

    def step():
        optimizer.zero_grad()
        loss().backward()
        torch.nn.utils.clip_grad_norm_(weights, 5.0, foreach=foreach)
        optimizer.step()

    def forward():
        with torch.no_grad():
            loss()

    job, passes = (forward, 1) if args.phase == "fwd" else (step, 3)
    measure(torch, args, job, passes * counts["macs"], fields)


if __name__ == "__main__":
    sys.exit(main())
