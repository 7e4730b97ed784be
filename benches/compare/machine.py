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
    """Of each process its parent, CPU-seconds, those of children it has buried, and resident bytes."""
    found = {}
    for folder in pathlib.Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                text = (folder / "stat").read_text()
            except OSError:
                continue
            fields = text.rpartition(")")[2].split()
            own, buried = (int(fields[11]) + int(fields[12])), (int(fields[13]) + int(fields[14]))
            found[int(folder.name)] = (int(fields[1]), own + buried, int(fields[21]) * PAGE_LEN)
    return found


def tree(roots):
    """The processes and all that they started."""
    everybody, found, left = processes(), {}, list(roots)
    while left:
        pid = left.pop()
        if pid in everybody and pid not in found:
            found[pid] = everybody[pid]
            left += [other for other, (parent, _, _) in everybody.items() if parent == pid]
    return found


def cpu_seconds(roots):
    return sum(ticks for _, ticks, _ in tree(roots).values()) / TICKS_PER_SECOND


def resident_mib(roots):
    """Resident (pages that two processes share count twice), and proportional (they count once)."""
    found, proportional = tree(roots), 0
    for pid in found:
        try:
            lines = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        proportional += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return round(sum(resident for _, _, resident in found.values()) / 2**20, 1), round(proportional / 1024, 1)


def busy_and_stolen():
    """CPU-seconds since the machine's start: of all processes, and taken by the machine's host."""
    fields = [int(field) for field in pathlib.Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    user, nice, system, _, _, irq, soft, stolen = fields
    return (user + nice + system + irq + soft) / TICKS_PER_SECOND, stolen / TICKS_PER_SECOND


class Meter:
    """Brackets a run: CPU of the tunnel, of the whole machine, and of everybody who has no part in it."""

    def __init__(self, roots):
        self.roots = list(roots)

    def __enter__(self):
        self.load = os.getloadavg()[0]
        self.began = (cpu_seconds(self.roots), cpu_seconds([os.getpid()]), *busy_and_stolen(), time.monotonic())
        return self

    def __exit__(self, *_):
        tunnel, ours, busy, stolen, at = self.began
        self.seconds = time.monotonic() - at
        now_busy, now_stolen = busy_and_stolen()
        self.cpu = cpu_seconds(self.roots) - tunnel
        everybody = now_busy - busy
        # The tunnel and the load are our own children.
        others = max(0.0, everybody - (cpu_seconds([os.getpid()]) - ours))
        self.figures = {
            "seconds": round(self.seconds, 3),
            "tunnel_cpu_s": round(self.cpu, 3),
            "machine_cpu_s": round(everybody, 3),
            "others": round(others / (self.seconds * CORES), 4),
            "stolen": round((now_stolen - stolen) / (self.seconds * CORES), 4),
            "load_before": round(self.load, 2),
            "at": time.strftime("%H:%M:%S"),
        }


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
