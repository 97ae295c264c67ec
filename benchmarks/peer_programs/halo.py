"""Exchanges halo rows with plain PyTorch over gloo: halo.py --data DIR [--ranks P] [--width C] [--repetitions R]

P processes of one thread each read the parts of DIR/partition-P and do what a program without graphlora would: take the
rows that others need (index_select) and send them, by all_to_all_single or by isend and irecv, into the place behind their
own rows. The received rows are checked. A repetition lasts a millisecond at least and starts behind a barrier; the slowest
rank's time counts. Prints JSON: seconds of both forms. Shapes: n owned rows, h halo rows, S rows sent, C columns.
"""

import argparse
import json
import math
import os
import pathlib
import sys
import tempfile
import time

import torch
import torch.distributed as dist
from safetensors.torch import load_file

SHORTEST_SECONDS = 1e-3


def seconds_of(body, repetitions: int) -> list[float]:
    """Of each repetition, the slowest rank's."""
    def run(times: int) -> float:
        dist.barrier()
        start = time.perf_counter()
        for _ in range(times):
            body()
        seconds = torch.tensor([(time.perf_counter() - start) / times], dtype=torch.double)
        dist.all_reduce(seconds, op=dist.ReduceOp.MAX)
        return seconds.item()

    run(1)
    times = max(1, math.ceil(SHORTEST_SECONDS / run(1)))
    run(times)
    return [run(times) for _ in range(repetitions)]


def exchange(rank: int, ranks: int, place: str, arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=ranks)
    part = load_file(pathlib.Path(arguments.data) / f"partition-{ranks}" / f"part-{rank:05d}.safetensors")
    owned, halo, send_rows = part["owned"], part["halo"], part["send_rows"]
    send_counts = part["send_offsets"].diff().tolist()
    receive_counts = part["halo_offsets"].diff().tolist()
    x_mC = torch.zeros(len(owned) + len(halo), arguments.width)
    x_mC[: len(owned)] = owned.unsqueeze(1)  # below 2^24 nodes a float holds the number
    received_hC = x_mC[len(owned) :]

    def all_to_all() -> None:
        rows_SC = x_mC.index_select(0, send_rows)
        dist.all_to_all_single(received_hC, rows_SC, receive_counts, send_counts)

    def send_and_receive() -> None:
        rows_SC = x_mC.index_select(0, send_rows)
        work = [dist.irecv(rows, src=peer)
                for peer, rows in enumerate(received_hC.split(receive_counts)) if len(rows)]
        work += [dist.isend(rows, dst=peer) for peer, rows in enumerate(rows_SC.split(send_counts)) if len(rows)]
        for one in work:
            one.wait()

    result = {}
    for name, body in (("all_to_all_single", all_to_all), ("isend and irecv", send_and_receive)):
        received_hC.zero_()
        result[name] = seconds_of(body, arguments.repetitions)
        if not torch.equal(received_hC[:, 0].long(), halo):
            sys.exit(f"rank {rank}, {name}: other rows came than the part asks for")
    rows = torch.tensor([len(send_rows)])
    dist.all_reduce(rows)
    if rank == 0:
        print(json.dumps({"forms": result, "rows": rows.item(), "width": arguments.width}), flush=True)
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--repetitions", type=int, default=5)
    arguments = parser.parse_args()
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(exchange, (arguments.ranks, f"{folder}/store", arguments), nprocs=arguments.ranks)


if __name__ == "__main__":
    main()
