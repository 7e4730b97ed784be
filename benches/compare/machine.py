"""What a run cost and what disturbed it: CPU and memory of process trees, and the share of the machine that somebody
else took meanwhile, by /proc. Starts nothing and ends nothing.
"""

import os
import pathlib
import statistics
import time

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PAGE_LEN = os.sysconf("SC_PAGE_SIZE")
CORES = os.cpu_count()
# Share of the cores that others may take before a run, and in one: the kernel's own work for the load counts there.
QUIET_SHARE, DISTURBED_SHARE = 0.05, 0.10
LOOK_SECONDS = 5


def processes():
    """Of each process its parent, ticks of CPU with those of children it has buried, resident bytes, and which of those
    ticks were the kernel's."""
    found = {}
    for folder in pathlib.Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                text = (folder / "stat").read_text()
            except OSError:
                continue
            fields = text.rpartition(")")[2].split()
            own, kernel, buried, of_kernel = map(int, fields[11:15])
            ticks = own + kernel + buried + of_kernel
            found[int(folder.name)] = (int(fields[1]), ticks, int(fields[21]) * PAGE_LEN, kernel + of_kernel)
    return found


def tree(roots, everybody=None):
    """The processes and all that they started."""
    everybody, found, left = everybody or processes(), {}, list(roots)
    while left:
        pid = left.pop()
        if pid in everybody and pid not in found:
            found[pid] = everybody[pid]
            left += [other for other, (parent, *_) in everybody.items() if parent == pid]
    return found


def cpu_seconds(roots, everybody=None):
    return sum(ticks for _, ticks, *_ in tree(roots, everybody).values()) / TICKS_PER_SECOND


def resident_mib(roots):
    """Resident (pages that two processes share count twice), and proportional (they count once)."""
    found, proportional = tree(roots), 0
    for pid in found:
        try:
            lines = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        proportional += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return round(sum(resident for _, _, resident, _ in found.values()) / 2**20, 1), round(proportional / 1024, 1)


def busy_and_stolen():
    """CPU-seconds since the machine's start: of all processes, and taken by the machine's host."""
    fields = [int(field) for field in pathlib.Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    user, nice, system, _, _, irq, soft, stolen = fields
    return (user + nice + system + irq + soft) / TICKS_PER_SECOND, stolen / TICKS_PER_SECOND


class Meter:
    """Brackets a run: CPU of the tunnel, of brokers beside it, of the whole machine, and of everybody else."""

    def __init__(self, roots, brokers=()):
        self.roots, self.brokers = list(roots), list(brokers)

    def read(self):
        everybody = processes()
        # The tunnel and the load are our own children; brokers may have been started by somebody else.
        parts = (self.roots, self.brokers, [os.getpid(), *self.brokers], *([root] for root in self.roots))
        cpu = [cpu_seconds(roots, everybody) for roots in parts]
        kernel = sum(ticks for *_, ticks in tree(self.roots, everybody).values()) / TICKS_PER_SECOND
        return [kernel, *cpu], *busy_and_stolen(), time.monotonic()

    def __enter__(self):
        self.load = os.getloadavg()[0]
        self.began = self.read()
        return self

    def __exit__(self, *_):
        before, busy, stolen, at = self.began
        after, now_busy, now_stolen, now = self.read()
        self.seconds, everybody = now - at, now_busy - busy
        spent = [then - first for first, then in zip(before, after, strict=True)]
        kernel, self.cpu, self.brokers_cpu, ours, *each = spent
        others = max(0.0, everybody - ours)
        self.figures = {
            "seconds": round(self.seconds, 3),
            "tunnel_cpu_s": round(self.cpu, 3),
            "of_kernel_s": round(kernel, 3),
            "each_cpu_s": [round(one, 3) for one in each],
            "machine_cpu_s": round(everybody, 3),
            "others": round(others / (self.seconds * CORES), 4),
            "stolen": round((now_stolen - stolen) / (self.seconds * CORES), 4),
            "load_before": round(self.load, 2),
            "at": time.strftime("%H:%M:%S"),
        }
        if self.brokers:
            self.figures["brokers_cpu_s"] = round(self.brokers_cpu, 3)


def disturbance(seconds=LOOK_SECONDS):
    """Share of the cores that others take just now, and the load average."""
    with Meter([]) as meter:
        time.sleep(seconds)
    return meter.figures["others"] + meter.figures["stolen"], os.getloadavg()[0]


def description():
    cpus = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    models = {line.partition(":")[2].strip() for line in cpus if line.startswith("model name")}
    memory = pathlib.Path("/proc/meminfo").read_text().split()[1]
    kernel = os.uname()
    return {
        "cores": CORES,
        "cpu": ", ".join(sorted(models)),
        "memory_gib": round(int(memory) / 2**20, 1),
        "kernel": f"{kernel.sysname} {kernel.release}",
    }


def spread(values):
    """Median, least and most."""
    return statistics.median(values), min(values), max(values)
