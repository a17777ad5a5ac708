// @ts-nocheck: runs in the report's page
// What the page of one run and the page that compares several have in common.
const reportParts = (() => {
  "use strict";
  const root = document.documentElement;

  // ---- numbers and elements

  const fixed = (value, digits) => Number(value.toPrecision(digits)).toString();
  const compact = (value) => {
    for (const [size, unit] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
      if (Math.abs(value) >= size) return fixed(value / size, 3) + unit;
    }
    return fixed(value, 3);
  };
  const plain = (value) => {
    const size = Math.abs(value);
    if (size === 0) return "0";
    return size < 1e-3 || size >= 1e5 ? value.toExponential(1).replace(".0e", "e").replace("e+", "e") : fixed(value, 4);
  };
  const percent = (value) => `${fixed(100 * value, 3)} %`;
  const bytes = (value) => {
    for (const [size, unit] of [[2 ** 40, "TiB"], [2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"]]) {
      if (value >= size) return `${fixed(value / size, 3)} ${unit}`;
    }
    return `${value} B`;
  };
  const milliseconds = (value) => (value >= 1 ? `${fixed(value, 3)} s` : `${fixed(1000 * value, 3)} ms`);
  const count = (value) => Math.round(value).toLocaleString("en-US");
  const duration = (seconds) => {
    const s = Math.round(seconds);
    if (s < 60) return `${s} s`;
    if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
    if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.round((s % 3600) / 60)} min`;
    return `${Math.floor(s / 86400)} d ${Math.round((s % 86400) / 3600)} h`;
  };
  const element = (tag, attributes = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) {
      if (key === "style") for (const [name, setting] of Object.entries(value)) node.style.setProperty(name, setting);
      else node.setAttribute(key, value);
    }
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  };
  const color = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  /** The button that turns light into dark. @param set called with the theme */
  const themeButton = (set) => {
    const button = element("button", { class: "theme", title: "Light or dark", "aria-label": "Switch between light and dark" });
    button.innerHTML =
      '<svg viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="2"><circle cx="12" cy="12" r="8"/><path d="M12 4a8 8 0 0 1 0 16z" fill="currentColor" stroke="none"/></svg>';
    button.addEventListener("click", () => set(root.dataset.theme === "dark" ? "light" : "dark"));
    return button;
  };

  /** Uses the reader's theme, and another when that or the button says so. */
  const followTheme = (set) => {
    const wantsDark = matchMedia("(prefers-color-scheme: dark)");
    set(wantsDark.matches ? "dark" : "light");
    wantsDark.addEventListener("change", ({ matches }) => set(matches ? "dark" : "light"));
  };

  const section = (title, ...children) => element("section", {}, element("h2", {}, title), ...children);

  /** What the states of a run are called. */
  const STATES = { running: "training", done: "finished", stopped: "stopped", failed: "failed" };

  /** Texts that the model wrote, each as a figure. */
  const sampleFigures = (samples) =>
    samples.map(({ prompt, text, note }) =>
      element(
        "figure",
        {},
        element("pre", {}, prompt ? element("span", { class: "prompt" }, prompt) : null, text),
        note ? element("figcaption", {}, note) : null,
      ),
    );

  // ---- rows of a run

  const has = (rows, name) => rows.some(({ mean }) => mean[name] !== undefined);

  /** Exponential mean of values, one for each row; begins anew with each stage and remembers a share of its rows. */
  const smooth = (rows, values, share = 0.025) => {
    if (share === 0) return values;
    const sizes = new Map();
    for (const { stage } of rows) sizes.set(stage, (sizes.get(stage) ?? 0) + 1);
    let stage;
    let mean = 0;
    let weight = 0;
    return values.map((value, i) => {
      if (rows[i].stage !== stage) {
        stage = rows[i].stage;
        mean = 0;
        weight = 0;
      }
      if (value === null) return null;
      const decay = 1 - 1 / Math.max(1, share * sizes.get(stage));
      mean = decay * mean + (1 - decay) * value;
      weight = decay * weight + (1 - decay);
      return mean / weight;
    });
  };

  // ---- charts

  /** The library's own metrics, and how each is drawn. */
  const CHARTS = [
    { name: "loss", title: "Loss", hint: "per token", legend: [["smoothed", 2.5, 1], ["each step", 1, 0.45]], wide: true, smoothed: true, format: plain },
    { name: "grad_norm", title: "Gradient norm", hint: "before clipping, logarithmic", log: true, peak: true, format: plain },
    { name: "lr", title: "Learning rate", format: plain, zero: true },
    { name: "u_max", title: "Mask-ratio cap u_max", hint: "Eq. 10", range: [0, 1], format: plain },
    { name: "masked_share", title: "Masked share", smoothed: true, range: [0, 1], format: percent },
    { name: "masked_nll", title: "Masked cross-entropy", hint: "unweighted, nats", smoothed: true, format: plain },
    { name: "empty_blocks", title: "Blocks without a mask", smoothed: true, zero: true, format: percent },
    { name: "fallback_blocks", title: "Blocks with a forced mask", smoothed: true, zero: true, format: percent },
    { name: "tokens_per_second", title: "Clean tokens a second", smoothed: true, zero: true, format: compact },
    { name: "positions_per_second", title: "Positions a second", smoothed: true, zero: true, format: compact },
    { name: "mfu", title: "Model FLOPs utilisation", smoothed: true, zero: true, format: percent },
    { name: "device_memory", title: "Device memory, highest", zero: true, format: bytes },
    { name: "rss", title: "Process memory", zero: true, format: bytes },
    { name: "live_tensors", title: "Live tensors", zero: true, format: count },
    { name: "data_seconds", title: "Waiting for data", hint: "a step", smoothed: true, zero: true, format: milliseconds },
    { name: "step_seconds", title: "Time of a step", smoothed: true, zero: true, format: milliseconds },
    { name: "communication_share", title: "Share of communication", hint: "of a step", smoothed: true, zero: true, format: percent },
    { name: "communication_seconds", title: "Communication", hint: "waiting, a step", smoothed: true, zero: true, format: milliseconds },
    { name: "straggler", title: "Straggler", hint: "slowest rank over the median", smoothed: true, zero: true, format: percent },
    { name: "step_seconds_max", title: "Slowest rank's step", hint: "its own work", smoothed: true, zero: true, format: milliseconds },
    { name: "step_seconds_min", title: "Fastest rank's step", hint: "its own work", smoothed: true, zero: true, format: milliseconds },
    { name: "slowest_rank", title: "Slowest rank", hint: "its number", zero: true, format: count },
    { name: "ranks", title: "Ranks", zero: true, format: count },
  ];
  const MAIN = ["loss", "grad_norm", "lr", "u_max", "masked_share", "masked_nll", "empty_blocks", "fallback_blocks"];
  const RANKS = ["communication_share", "communication_seconds", "straggler", "step_seconds_max", "step_seconds_min", "slowest_rank", "ranks"];

  const evaluatedNames = (evaluations) => [...new Set(evaluations.flatMap(({ metrics }) => Object.keys(metrics)))];

  /**
   * The sections of charts.
   *
   * @param runs the rows of each run that is shown
   * @param evaluations a spec for each chart of evaluations
   * @param card makes a chart of a spec
   */
  const chartSections = (runs, evaluations, card) => {
    const standard = new Set(CHARTS.map(({ name }) => name));
    const own = [...new Set(runs.flatMap((rows) => rows.flatMap(({ mean }) => Object.keys(mean))))].filter((name) => !standard.has(name));
    const found = CHARTS.filter(({ name }) => runs.some((rows) => has(rows, name)));
    const groups = {
      Curves: [
        ...found.filter(({ name }) => MAIN.includes(name)),
        ...own.map((name) => ({ name, title: name.replaceAll("_", " "), smoothed: true, format: plain })),
      ],
      Evaluations: evaluations,
      Machine: found.filter(({ name }) => !MAIN.includes(name) && !RANKS.includes(name)),
      Ranks: found.filter(({ name }) => RANKS.includes(name)),
    };
    const help = () => element("p", { class: "help" }, "Drag across a chart to zoom all of them, double-click to zoom out.");
    return Object.entries(groups)
      .filter(([, specs]) => specs.length > 0)
      .map(([title, specs]) => section(title, element("div", { class: "charts" }, ...specs.map(card)), title === "Curves" ? help() : null));
  };

  /** A robust range: one wild step must not flatten the rest. */
  const rangeOf = (values, spec) => {
    const known = values.filter((value) => value !== null && Number.isFinite(value)).sort((a, b) => a - b);
    if (known.length === 0) return [0, 1];
    const high = known[Math.min(known.length - 1, Math.ceil(known.length * 0.995))];
    const low = spec.zero ? Math.min(0, known[0]) : known[Math.floor((known.length - 1) * 0.002)];
    const room = 0.06 * (high - low || Math.abs(high) || 1);
    return [spec.zero && low === 0 ? 0 : low - room, high + room];
  };

  /** Of a log axis's ticks the powers of ten; with few of those, 2 and 5 times them as well. */
  const thinLog = (splits) => {
    const isPower = (value, factor) => Math.abs(Math.log10(value / factor) - Math.round(Math.log10(value / factor))) < 1e-6;
    const decades = splits.filter((value) => value && isPower(value, 1)).length;
    const factors = decades >= 3 ? [1] : [1, 2, 5];
    const kept = splits.map((value) => (value && factors.some((factor) => isPower(value, factor)) ? value : null));
    return kept.some(Boolean) ? kept : splits; // less than an octave
  };

  /** What all axes have. */
  const axis = () => ({
    stroke: () => color("--soft"),
    font: `12px ${color("--sans")}`,
    grid: { stroke: () => color("--grid"), width: 1 },
    ticks: { show: false },
  });

  const POWERS_OF_TWO = Array.from({ length: 50 }, (_, power) => 2 ** power);
  const WHOLE = Array.from({ length: 12 }, (_, power) => [1, 2, 5].map((factor) => factor * 10 ** power)).flat();

  /** The axis of a metric's values. Counts have whole ticks, bytes powers of two. */
  const valueAxis = ({ format }, isLog) => ({
    ...axis(),
    size: 62,
    gap: 6,
    values: (_, splits) => splits.map((value) => (value === null ? "" : format(value))),
    ...(isLog && { filter: (_, splits) => thinLog(splits) }),
    ...(!isLog && format === bytes && { incrs: POWERS_OF_TWO }),
    ...(!isLog && format === count && { incrs: WHOLE }),
  });

  /** "replicate 2 x shard 4, 8 ranks (nccl)"; undefined for a process of its own. */
  const mesh = (parallel) => {
    if (!parallel) return undefined;
    const parts = ["replicate", "shard", "context", "tensor"].filter((name) => parallel[name] > 1);
    const ranks = `${parallel.worldSize} ${parallel.worldSize === 1 ? "rank" : "ranks"} (${parallel.backend})`;
    return [...(parts.length ? [parts.map((name) => `${name} ${parallel[name]}`).join(" x ")] : []), ranks].join(", ");
  };

  return {
    ...{ root, element, section, color, themeButton, followTheme, mesh },
    ...{ compact, plain, percent, bytes, milliseconds, count, duration },
    ...{ STATES, sampleFigures, smooth, evaluatedNames, chartSections, rangeOf, axis, valueAxis },
  };
})();
