// The programs that set-up needs, and for each missing one the command that brings it.
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { activePython } from "./libtorch.mjs";
import { SetupProblem } from "./problem.mjs";

/** Oldest Node that the addon and the sources run on. */
export const minimumNode = [20, 19];
/** Oldest CMake that knows all that CMakeLists.txt uses. */
export const minimumCmake = [3, 18];

/**
 * "debian", "fedora", "macos" or "other": whose commands to name.
 * @param {{ platform?: NodeJS.Platform, osRelease?: string }} [options]
 */
export function systemFamily({ platform = process.platform, osRelease } = {}) {
  if (platform === "darwin") return "macos";
  let text = osRelease;
  if (text === undefined) text = existsSync("/etc/os-release") ? readFileSync("/etc/os-release", "utf8") : "";
  const ids = [...text.matchAll(/^ID(?:_LIKE)?="?([^"\n]*)"?$/gm)].flatMap((match) => match[1].split(" "));
  if (ids.some((id) => ["debian", "ubuntu"].includes(id))) return "debian";
  if (ids.some((id) => ["fedora", "rhel", "centos"].includes(id))) return "fedora";
  return "other";
}

const installCommands = {
  compiler: {
    debian: "sudo apt-get install -y g++",
    fedora: "sudo dnf install -y gcc-c++",
    macos: "xcode-select --install",
    other: "install g++ 11 or newer, or clang++ 14 or newer",
  },
  cmake: {
    debian: "sudo apt-get install -y cmake ninja-build",
    fedora: "sudo dnf install -y cmake ninja-build",
    macos: "brew install cmake ninja",
    other: "install CMake 3.18 or newer (python3 -m pip install cmake ninja also works)",
  },
  make: {
    debian: "sudo apt-get install -y ninja-build",
    fedora: "sudo dnf install -y ninja-build",
    macos: "brew install ninja",
    other: "install ninja or GNU make",
  },
  python: {
    debian: "sudo apt-get install -y python3 python3-pip python3-venv",
    fedora: "sudo dnf install -y python3 python3-pip",
    macos: "brew install python",
    other: "install Python 3.10 or newer with pip",
  },
  pip: {
    debian: "sudo apt-get install -y python3-pip",
    fedora: "sudo dnf install -y python3-pip",
    macos: "python3 -m ensurepip --upgrade",
    other: "python3 -m ensurepip --upgrade",
  },
  node: {
    debian: "install Node 20.19 or newer, for example with nvm: nvm install 22",
    fedora: "install Node 20.19 or newer, for example with nvm: nvm install 22",
    macos: "brew install node@22",
    other: "install Node 20.19 or newer, for example with nvm: nvm install 22",
  },
};

/**
 * The command that installs a tool on this system.
 * @param {keyof typeof installCommands} tool
 * @param {string} [family]
 */
export function installCommand(tool, family = systemFamily()) {
  return installCommands[tool][family];
}

/** Runs `file --version` and gives its first number, or null if it does not run. */
function versionOf(file, args, env) {
  const run = spawnSync(file, args, { env, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"], timeout: 30_000 });
  if (run.error || run.status !== 0) return null;
  const text = `${run.stdout}${run.stderr}`;
  return { text: text.trim().split("\n")[0], version: text.match(/\d+\.\d+(\.\d+)?/)?.[0] ?? "" };
}

function atLeast(version, minimum) {
  const [major, minor = 0] = version.split(".").map(Number);
  return major > minimum[0] || (major === minimum[0] && minor >= minimum[1]);
}

/** @returns {{ path: string, version: string, text: string } | null} */
export function findCompiler(env = process.env) {
  for (const path of env.CXX ? [env.CXX] : ["c++", "g++", "clang++"]) {
    const found = versionOf(path, ["--version"], env);
    if (found) return { path, ...found };
  }
  return null;
}

/** @returns {{ path: string, version: string } | null} */
export function findCmake(env = process.env) {
  const found = versionOf("cmake", ["--version"], env);
  return found && { path: "cmake", version: found.version };
}

/** @returns {{ name: "ninja" | "make", version: string } | null} */
export function findBuildTool(env = process.env) {
  for (const name of /** @type {const} */ (["ninja", "make"])) {
    const found = versionOf(name, ["--version"], env);
    if (found) return { name, version: found.version };
  }
  return null;
}

/** @returns {{ path: string, version: string, pip: string | null } | null} */
export function findPython(env = process.env) {
  const path = activePython(env);
  const found = path && versionOf(path, ["--version"], env);
  if (!found) return null;
  return { path, version: found.version, pip: versionOf(path, ["-m", "pip", "--version"], env)?.version ?? null };
}

/** Throws on a system that nobody has ported to. */
export function requirePlatform(platform = process.platform) {
  if (platform !== "linux" && platform !== "darwin") {
    throw new SetupProblem("PLATFORM", `diffcoder runs on Linux and macOS, not on ${platform}.`, [
      "on Windows use WSL 2: it is a Linux, with CUDA",
    ]);
  }
}

/** Throws if this Node is too old. */
export function requireNode(version = process.versions.node) {
  if (!atLeast(version, minimumNode)) {
    throw new SetupProblem("NODE_TOO_OLD", `Node ${version} is older than ${minimumNode.join(".")}.`, [
      installCommand("node"),
    ]);
  }
}

/** Throws unless the addon can be compiled here. */
export function requireBuildTools(env = process.env) {
  const compiler = findCompiler(env);
  if (!compiler) {
    const named = env.CXX ? `CXX is "${env.CXX}", which does not run.` : "There is no C++ compiler.";
    throw new SetupProblem("NO_COMPILER", named, [installCommand("compiler")]);
  }
  const cmake = findCmake(env);
  if (!cmake) throw new SetupProblem("NO_CMAKE", "There is no CMake.", [installCommand("cmake")]);
  if (!atLeast(cmake.version, minimumCmake)) {
    const message = `CMake ${cmake.version} is older than ${minimumCmake.join(".")}.`;
    throw new SetupProblem("CMAKE_TOO_OLD", message, [
      installCommand("cmake"),
      "python3 -m pip install --upgrade cmake",
    ]);
  }
  if (!findBuildTool(env))
    throw new SetupProblem("NO_MAKE", "There is neither ninja nor make.", [installCommand("make")]);
}

/** Throws unless there is a Python with pip; returns it. */
export function requirePip(env = process.env) {
  const python = findPython(env);
  if (!python) {
    throw new SetupProblem("NO_PYTHON", "libtorch must be fetched, and there is no Python 3 to do it with.", [
      installCommand("python"),
      "or set LIBTORCH to a folder that holds libtorch's lib/ and include/",
    ]);
  }
  if (!python.pip) {
    throw new SetupProblem("NO_PIP", `libtorch must be fetched, and ${python.path} has no pip.`, [
      installCommand("pip"),
      "or set LIBTORCH to a folder that holds libtorch's lib/ and include/",
    ]);
  }
  return python;
}
