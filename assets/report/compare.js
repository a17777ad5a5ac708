// @ts-nocheck: runs in the page that compares runs, where uPlot is a global
(() => {
  "use strict";
  const { title, runs: given } = JSON.parse(document.getElementById("run").textContent);
  const { root, element, section, color, themeButton, followTheme, mesh } = reportParts;
  const { compact, plain, percent, bytes, milliseconds, count, duration } = reportParts;
  const { STATES, sampleFigures, smooth, evaluatedNames, chartSections, rangeOf, axis, valueAxis } = reportParts;

  // ---- the runs

  const COLORS = ["--stage-0", "--stage-1", "--stage-2", "--stage-3", "--stage-4", "--stage-5", "--run-6", "--run-7"];
  const runs = given.map(({ name, state }, index) => ({
    name,
    state,
    rows: state.rows,
    color: COLORS[index % COLORS.length],
    // More runs than colours: the next ones are dashed.
    dash: [undefined, [7, 5], [2, 4]][Math.floor(index / COLORS.length) % 3],
    shown: true,
  }));
  const tone = (run) => ({ "--tone": `var(${run.color})` });
  const line = (run) => element("i", { class: run.dash ? "line dashed" : "line", style: tone(run), "aria-hidden": "true" });

  /** What stands below the charts, of a row. Pages of older versions know the step alone. */
  const AXES = {
    step: { label: "Step", of: ({ step }) => step, format: compact, read: (value) => `step ${count(value)}` },
    tokens: { label: "Tokens", of: ({ tokens }) => tokens, format: compact, read: (value) => `${compact(value)} tokens` },
    time: { label: "Time", of: ({ elapsed }) => elapsed, format: (value) => clock(value), read: duration },
  };
  const clock = (seconds) => {
    if (seconds < 100) return `${Math.round(seconds)} s`;
    return seconds < 7200 ? `${+(seconds / 60).toFixed(1)} min` : `${+(seconds / 3600).toFixed(1)} h`;
  };
  const choice = { axis: "step", smoothing: 2.5, log: false };

  const last = ({ rows }, name) => rows.findLast(({ mean }) => mean[name] !== undefined)?.mean[name];
  const lastSmoothed = ({ rows }, name) =>
    smooth(rows, rows.map(({ mean }) => mean[name] ?? null)).findLast((value) => value !== null);

  // ---- charts

  /** One curve: where its points are and how high. Empty for a run without the metric. */
  const curveOf = (run, spec) => {
    const at = AXES[choice.axis].of;
    const rows = spec.evaluation
      ? run.state.evaluations.flatMap(({ step, stage, metrics }) => {
          const row = run.rows.findLast((each) => each.step <= step) ?? run.rows[0];
          const value = metrics[spec.evaluation];
          return row === undefined || value === undefined ? [] : [{ ...row, step, stage, mean: { [spec.name]: value } }];
        })
      : run.rows;
    const known = rows.filter((row) => at(row) !== undefined);
    const raw = known.map(({ mean }) => mean[spec.name] ?? null);
    const positive = (values) => (isLog(spec) ? values.map((value) => (value > 0 ? value : null)) : values);
    const line = spec.smoothed ? smooth(known, raw, choice.smoothing / 100) : raw;
    return { x: known.map(at), raw: positive(raw), line: positive(line) };
  };
  const isLog = (spec) => Boolean(spec.log) || (choice.log && !spec.range);

  const cards = [];
  const sync = uPlot.sync("runs");
  const resized = new ResizeObserver((entries) => {
    for (const { target, contentRect } of entries) {
      const chart = cards.find(({ plot }) => plot === target)?.chart;
      if (chart && contentRect.width > 0) chart.setSize({ width: Math.floor(contentRect.width), height: chart.height });
    }
  });

  /** The whole of the x axis: to the end of the longest run that is shown. */
  const whole = () => {
    const ends = runs.filter(({ shown }) => shown).map(({ rows }) => AXES[choice.axis].of(rows.at(-1) ?? {}) ?? 0);
    return [0, Math.max(1e-9, ...ends)];
  };
  let zoom = null;

  const chartCard = (spec) => {
    const values = element("div", { class: "values" });
    const hint = spec.hint ? element("span", { class: "hint" }, spec.hint) : null;
    const head = element("header", {}, element("h3", {}, spec.title), hint, values);
    const plot = element("div", { class: "plot" });
    const card = { spec, plot, values, chart: undefined };
    resized.observe(plot);
    cards.push(card);
    return element("article", { class: spec.wide ? "chart wide" : "chart" }, head, plot);
  };

  const drawCard = (card) => {
    const { spec, plot, values } = card;
    card.chart?.destroy();
    const shown = runs.filter((run) => run.shown);
    const curves = shown.map((run) => ({ run, ...curveOf(run, spec) }));
    const isSmoothed = spec.smoothed && choice.smoothing > 0;
    const tables = curves.flatMap(({ x, raw, line }) => [...(isSmoothed ? [[x, raw]] : []), [x, line]]);
    const series = curves.flatMap(({ run }) => [
      ...(isSmoothed ? [{ stroke: () => color(run.color), width: 1, alpha: 0.18, points: { show: false } }] : []),
      { stroke: () => color(run.color), width: 2, dash: run.dash, points: { show: Boolean(spec.points), size: 6, fill: () => color(run.color) } },
    ]);
    // Joined, a point that another run has is undefined here, over which a curve is drawn; null is a gap.
    const data = tables.length > 0 ? uPlot.join(tables) : [[]];

    const read = (at) => {
      const nodes = curves.flatMap(({ run, x, line }) => {
        const index = at === null ? line.findLastIndex((value) => value !== null) : nearest(x, at);
        const value = line[index];
        if (value === null || value === undefined) return [];
        return [element("span", { title: run.name }, element("b", { style: tone(run) }, spec.format(value)))];
      });
      const where = at === null ? [] : [element("span", {}, AXES[choice.axis].read(at))];
      values.replaceChildren(...where, ...nodes);
    };

    const everyValue = () => curves.flatMap(({ raw, line }) => (isSmoothed ? [...raw, ...line] : line));
    const near = (_, low, high) => (low === null ? [0.1, 1] : [low / 1.08, high * 1.08]); // not whole decades
    const scale = isLog(spec) ? { distr: 3, range: near } : { range: () => spec.range ?? rangeOf(everyValue(), spec) };
    card.chart = new uPlot(
      {
        width: Math.max(200, plot.clientWidth),
        height: spec.wide ? (innerWidth < 760 ? 230 : 340) : 190,
        padding: [8, 20, 0, 0],
        legend: { show: false },
        cursor: { sync: { key: sync.key, setSeries: false }, drag: { x: true, y: false, setScale: false }, points: { show: false }, x: true, y: false },
        select: { show: true },
        scales: { x: { time: false, range: () => zoom ?? whole() }, y: scale },
        axes: [
          { ...axis(), size: 30, values: (_, splits) => splits.map((value) => AXES[choice.axis].format(value)) },
          valueAxis(spec, isLog(spec)),
        ],
        series: [{}, ...series],
        hooks: {
          setCursor: [(self) => read(self.cursor.left >= 0 ? self.posToVal(self.cursor.left, "x") : null)],
          setSelect: [
            (self) => {
              const { left, width } = self.select;
              if (width < 4) return;
              setZoom([self.posToVal(left, "x"), self.posToVal(left + width, "x")]);
            },
          ],
          ready: [(self) => self.over.addEventListener("dblclick", () => setZoom(null))],
        },
      },
      data,
      plot,
    );
    read(null);
  };

  /** Index of the last point at or before a place. */
  const nearest = (x, at) => {
    let [low, high] = [0, x.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (x[middle] <= at) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  };

  const setZoom = (range) => {
    zoom = range;
    for (const { chart } of cards) {
      chart.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
      const [min, max] = range ?? whole();
      chart.setScale("x", { min, max });
    }
  };
  const drawAll = () => cards.forEach(drawCard);

  const evaluated = evaluatedNames(runs.flatMap(({ state }) => state.evaluations));

  const charts = () =>
    chartSections(
      runs.map(({ rows }) => rows),
      evaluated.map((name) => ({ name: `evaluation ${name}`, evaluation: name, title: name.replaceAll("_", " "), points: true, format: plain })),
      chartCard,
    );

  // ---- the page's parts

  const head = () =>
    element(
      "div",
      { class: "top" },
      element("div", {}, element("div", { class: "over" }, "Comparison of training runs"), element("h1", {}, title)),
      themeButton(setTheme),
    );

  const legend = () => {
    const buttons = runs.map((run) => {
      const state = element("small", {}, STATES[run.state.state]);
      const button = element("button", { class: "run", type: "button", "aria-pressed": "true", title: `Show or hide ${run.name}` }, line(run), element("span", {}, run.name), state);
      button.addEventListener("click", () => {
        run.shown = !run.shown;
        button.setAttribute("aria-pressed", String(run.shown));
        drawAll();
      });
      return element("li", {}, button);
    });
    return element("ul", { class: "runs", "aria-label": "Runs" }, ...buttons);
  };

  const choices = () => {
    const axes = Object.entries(AXES).map(([name, { label }]) => {
      const input = element("input", { type: "radio", name: "axis", value: name });
      input.checked = name === choice.axis;
      input.addEventListener("change", () => {
        choice.axis = name;
        zoom = null;
        drawAll();
      });
      return element("label", {}, input, label);
    });
    const share = () => (choice.smoothing === 0 ? "none" : `${choice.smoothing} %`);
    const output = element("output", {}, share());
    const slider = element("input", { type: "range", min: "0", max: "20", step: "0.5", value: String(choice.smoothing), "aria-label": "Smoothing, in per cent of a stage" });
    slider.addEventListener("input", () => {
      choice.smoothing = Number(slider.value);
      output.textContent = share();
      drawAll();
    });
    const log = element("input", { type: "checkbox" });
    log.addEventListener("change", () => {
      choice.log = log.checked;
      drawAll();
    });
    return element(
      "div",
      { class: "choices" },
      element("fieldset", {}, element("legend", {}, "Over"), ...axes),
      element("label", { title: "How much of a stage a curve's mean remembers" }, "Smoothing", slider, output),
      element("label", {}, log, "Logarithmic"),
    );
  };

  /** @param cells of each line: its name, then one for each run */
  const table = (kind, lines) => {
    const heads = runs.map((run) => element("th", { scope: "col" }, line(run), run.name));
    const body = lines.map(([name, ...cells]) => {
      const nodes = cells.map((cell) => element("td", cell?.best ? { class: "best" } : {}, cell?.text ?? cell ?? "–"));
      return element("tr", {}, element("th", { scope: "row" }, name), ...nodes);
    });
    const node = element("table", { class: `compare ${kind}` }, element("thead", {}, element("tr", {}, element("th", {}), ...heads)), element("tbody", {}, ...body));
    return element("div", { class: "tablebox", tabindex: "0" }, node);
  };

  /** A line of numbers; the best one stands out where better is lower or higher, and not all are alike. */
  const numbers = (name, values, format, better) => {
    const known = values.filter((value) => value !== undefined && Number.isFinite(value));
    if (known.length === 0) return undefined;
    const best = better === "lower" ? Math.min(...known) : better === "higher" ? Math.max(...known) : undefined;
    const differs = known.some((value) => value !== best);
    return [name, ...values.map((value) => (value === undefined ? undefined : { text: format(value), best: differs && value === best }))];
  };

  const finals = () => {
    const latest = (run, name) => run.state.evaluations.findLast(({ metrics }) => metrics[name] !== undefined)?.metrics[name];
    const of = (get) => runs.map(get);
    const lines = [
      ["state", ...of(({ state }) => STATES[state.state])],
      numbers("steps", of(({ state }) => state.steps), count),
      numbers("tokens", of(({ state }) => state.tokens), compact),
      numbers("time of training", of(({ state }) => state.elapsed), duration),
      numbers("loss, smoothed", of((run) => lastSmoothed(run, "loss")), plain, "lower"),
      numbers("masked cross-entropy, smoothed", of((run) => lastSmoothed(run, "masked_nll")), plain, "lower"),
      ...evaluated.map((name) => numbers(`${name.replaceAll("_", " ")}, last`, of((run) => latest(run, name)), plain)),
      numbers("gradient norm, smoothed", of((run) => lastSmoothed(run, "grad_norm")), plain),
      numbers("learning rate, last", of((run) => last(run, "lr")), plain),
      numbers("tokens a second, whole run", of(({ state }) => (state.elapsed > 0 ? state.tokens / state.elapsed : undefined)), compact, "higher"),
      numbers("model FLOPs utilisation", of((run) => lastSmoothed(run, "mfu")), percent, "higher"),
      numbers("time of a step", of((run) => lastSmoothed(run, "step_seconds")), milliseconds),
      numbers("process memory", of((run) => last(run, "rss")), bytes),
      numbers("device memory", of((run) => last(run, "device_memory")), bytes),
      numbers("share of communication", of((run) => lastSmoothed(run, "communication_share")), percent, "lower"),
      numbers("straggler", of((run) => lastSmoothed(run, "straggler")), percent, "lower"),
      numbers("warnings", of(({ state }) => state.warnings.length), count),
    ];
    return section("Final numbers", table("numbers", lines.filter((cells) => cells !== undefined)));
  };

  /** What a run was made with, as one level of names. */
  const optionsOf = ({ state }) => {
    const { model, parameters, device, seed, parallel, stages = [], versions = {} } = state.run ?? {};
    const flat = { model, parameters, device, seed, ranks: mesh(parallel) };
    stages.forEach(({ name, ...facts }, index) => {
      flat[`stage ${index + 1}`] = name;
      for (const [key, value] of Object.entries(facts)) flat[`stage ${index + 1}: ${key}`] = value ?? undefined;
    });
    for (const [name, version] of Object.entries(versions)) flat[name] = version;
    return flat;
  };

  const options = () => {
    const flats = runs.map(optionsOf);
    const names = [...new Set(flats.flatMap((flat) => Object.keys(flat)))].filter((name) => flats.some((flat) => flat[name] !== undefined));
    const lines = (list) => list.map((name) => [name, ...flats.map((flat) => (flat[name] === undefined ? undefined : String(flat[name])))]);
    const differing = names.filter((name) => new Set(flats.map((flat) => flat[name])).size > 1);
    const alike = names.filter((name) => !differing.includes(name));
    return section(
      "What the runs were made with",
      differing.length > 0
        ? table("options", lines(differing))
        : element("p", { class: "note" }, "Model, device, seed, stages and versions are the same in all runs."),
      alike.length > 0 && differing.length > 0
        ? element("details", { class: "more" }, element("summary", {}, `${count(alike.length)} more that are the same in all runs`), table("options", lines(alike)))
        : null,
    );
  };

  const samples = () => {
    const nodes = runs.flatMap((run) => {
      const set = run.state.samples.at(-1);
      if (!set) return [];
      const chip = element("span", { class: "chip", style: tone(run) }, run.name);
      return [element("details", { class: "sampleset" }, element("summary", {}, `Step ${count(set.step)}`, chip), ...sampleFigures(set.samples))];
    });
    return nodes.length > 0 ? section("Last samples", ...nodes) : null;
  };

  const setTheme = (theme) => {
    root.dataset.theme = theme;
    drawAll();
  };

  document.getElementById("report").replaceChildren(
    ...[
      head(),
      element("div", { class: "controls" }, legend(), choices()),
      ...charts(),
      finals(),
      options(),
      samples(),
      element("footer", {}, "Written by stable-diffcoder. All data of the charts is in this file."),
    ].filter((node) => node !== null),
  );
  followTheme(setTheme);
})();
