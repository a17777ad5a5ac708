// Facts of the machine: processor, memory, disk, terminal. Each is null where it cannot be found out.

import { spawnSync } from "node:child_process";
import { readFileSync, statfsSync } from "node:fs";
import { availableParallelism, cpus, freemem, totalmem } from "node:os";

/** Instruction sets that decide how fast training is on a CPU, with the names that Linux gives them. */
const interestingFeatures = [
  "avx2",
  "fma",
  "avx512f",
  "avx512_bf16",
  "avx512_vnni",
  "amx_bf16",
  "amx_int8",
  "asimd",
  "bf16",
  "sve",
];

function readIfThere(path) {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return null;
  }
}

/** @param {string | null} [cpuinfo] text of /proc/cpuinfo; null where there is none */
export function cpuFeatures(cpuinfo = readIfThere("/proc/cpuinfo")) {
  let flags;
  if (cpuinfo !== null) {
    flags = /^(?:flags|Features)\s*:\s*(.*)$/m.exec(cpuinfo)?.[1];
  } else if (process.platform === "darwin") {
    const run = spawnSync("sysctl", ["-n", "machdep.cpu.features", "machdep.cpu.leaf7_features"], { encoding: "utf8" });
    flags = run.stdout?.toLowerCase().replaceAll("avx1.0", "avx");
  }
  if (flags === undefined || flags === null) return null;
  const there = new Set(flags.split(/\s+/));
  return interestingFeatures.filter((name) => there.has(name));
}

/** Memory limit of the container in bytes, or null for none. */
function containerMemory() {
  for (const path of ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]) {
    const bytes = Number(readIfThere(path)?.trim() ?? Number.NaN);
    if (Number.isFinite(bytes) && bytes < totalmem()) return bytes;
  }
  return null;
}

/** CPUs' worth of time that the container may use, or null for no limit. */
export function containerCpus(text = readIfThere("/sys/fs/cgroup/cpu.max")) {
  const [quota, period] = (text ?? "").trim().split(/\s+/).map(Number);
  return Number.isFinite(quota) && period > 0 ? quota / period : null;
}

function availableMemory() {
  const kilobytes = /^MemAvailable:\s+(\d+) kB/m.exec(readIfThere("/proc/meminfo") ?? "")?.[1];
  return kilobytes === undefined ? freemem() : Number(kilobytes) * 1024;
}

/** @param {string} folder whose file system is asked about */
export function machineFacts(folder) {
  let diskFree = null;
  try {
    const { bavail, bsize } = statfsSync(folder);
    diskFree = bavail * bsize;
  } catch {
    // a file system that does not say
  }
  return {
    platform: `${process.platform}-${process.arch}`,
    cpu: {
      model: cpus()[0]?.model?.trim() || null,
      cores: availableParallelism(),
      quota: containerCpus(),
      features: cpuFeatures(),
    },
    memory: { total: containerMemory() ?? totalmem(), available: availableMemory() },
    diskFree,
    terminal: {
      isTerminal: Boolean(process.stdout.isTTY),
      columns: process.stdout.columns ?? null,
      colors: process.stdout.isTTY ? 2 ** process.stdout.getColorDepth() : null,
    },
  };
}
