"""Torch's launcher for dist_train.sh and dist_test.sh: torchrun.py PROCESSES SCRIPT [arguments]; see torchrun.sh.

What it adds to torchrun: on one machine nothing listens on other addresses than 127.0.0.1; what a run said last, such
as why it failed, stands last, and its exit code is that of this process.
"""

import os
import signal
import socket
import sys
import tempfile
from pathlib import Path

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # while torch is imported; not ignored, as by nohup
    signal.signal(signal.SIGINT, lambda *_: (os.write(2, b'interrupted\n'), os._exit(130)))

from torch.distributed import DistNetworkError, run, TCPStore
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import (
    rendezvous_handler_registry,
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
)

HERE = '127.0.0.1'


class OneMachine(RendezvousHandler):
    """The only node. Torch's own handlers listen on all addresses, and whoever reaches their store can run code."""

    def __init__(self, parameters: RendezvousParameters):
        self.run_id = parameters.run_id

    def next_rendezvous(self) -> RendezvousInfo:
        """A new store for each attempt: an old one has the addresses of lost processes."""
        listener = socket.create_server((HERE, 0), backlog=1024)
        port = listener.getsockname()[1]
        # Without libuv, since the store with it did not take a socket in torch 2.6.
        store = TCPStore(HERE, port, is_master=True, master_listen_fd=listener.detach(), use_libuv=False)
        return RendezvousInfo(store, 0, 1, RendezvousStoreInfo(HERE, port))

    use_agent_store = True

    def get_backend(self) -> str:
        return 'one_machine'

    def get_run_id(self) -> str:
        return self.run_id

    def is_closed(self) -> bool:
        return False

    def set_closed(self) -> None:
        pass

    def num_nodes_waiting(self) -> int:
        return 0

    def shutdown(self) -> bool:
        return True


def main(processes: str, script: str, *arguments: str) -> None:
    environment = os.environ.get
    if environment('NNODES', '1') == '1':
        rendezvous_handler_registry.register('one_machine', OneMachine)
        where = ['--rdzv-backend=one_machine', f'--rdzv-endpoint={HERE}']
        for library in ('GLOO', 'NCCL'):
            os.environ.setdefault(f'{library}_SOCKET_IFNAME', 'lo')
    else:
        where = [f'--nnodes={environment("NNODES")}', f'--node-rank={environment("NODE_RANK")}']
        where += [f'--master-addr={environment("MASTER_ADDR")}', f'--master-port={environment("PORT", "29500")}']
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # under nohup, which torchrun does not respect
        where.append('--signals-to-handle=SIGTERM,SIGINT,SIGQUIT')
    os.environ['BEIT_MM_LAUNCHER'] = str(os.getpid())  # processes end when it is gone
    with tempfile.TemporaryDirectory(prefix='beit_mm_', ignore_cleanup_errors=True) as logs:
        options = [*where, f'--nproc-per-node={processes}', f'--max-restarts={environment("MAX_RESTARTS", "0")}']
        options.append(f'--log-dir={logs}')
        code, reason = 0, ''
        try:
            run.run(run.parse_args([*options, script, *arguments]))
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            number = failure.exitcode
            how = f'ended with {number}' if number >= 0 else f'was ended by {signal.Signals(-number).name}'
            code, reason = 1, f'error: process {rank} (pid {failure.pid}) {how}'
        except SignalException as error:
            code, reason = 128 + error.sigval, f'ended by {signal.Signals(error.sigval).name}'
        except DistNetworkError as error:  # of several nodes
            code, reason = 1, f'error: MASTER_ADDR and PORT must be free on node 0 and reached by all others: {error}'
        # What the first process to end wrote, of the last attempt.
        attempts = sorted(Path(logs).glob('*/attempt_*'), key=lambda path: int(path.name.removeprefix('attempt_')))
        if attempts and (attempts[-1] / 'end').is_file():
            first, reason = (attempts[-1] / 'end').read_text().split('\n', 1)
            code = int(first)
    if reason:
        print(reason, file=sys.stderr, flush=True)
    sys.exit(code)


if __name__ == '__main__':
    main(*sys.argv[1:])
