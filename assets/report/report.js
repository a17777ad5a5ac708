// @ts-nocheck: runs in the report's page, where uPlot is a global
(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("run").textContent);
  const { root, element, section, color, themeButton, followTheme, mesh } = reportParts;
  const { compact, plain, bytes, milliseconds, count, duration } = reportParts;
  const { STATES, sampleFigures, smooth, evaluatedNames, chartSections, rangeOf, axis, valueAxis } = reportParts;
  const tone = (stage) => `var(--stage-${stage % 6})`;
  const stageColor = (stage) => color(`--stage-${stage % 6}`);

  // ---- rows of the run

  const { rows, stages } = data;
  const xs = rows.map((row) => row.step);
  const column = (name) => rows.map((row) => row.mean[name] ?? null);
  const peaks = (name) => rows.map((row) => row.peak[name] ?? null);
  const stageEnd = (stage) => stage.end ?? data.steps;
  const stageAt = (step) => stages.find((stage) => step > stage.begin && step <= stageEnd(stage));

  // ---- the page's parts

  const head = () => {
    const status = element("span", { class: `status ${data.state}` }, STATES[data.state]);
    const heading = element("h1", {}, data.title, status);
    return element("div", { class: "top" }, element("div", {}, element("div", { class: "over" }, "Training report"), heading), themeButton(setTheme));
  };

  const tiles = () => {
    const smoothed = smooth(rows, column("loss")).filter((value) => value !== null);
    const list = [
      ["loss, smoothed", smoothed.length ? plain(smoothed[smoothed.length - 1]) : undefined],
      ["steps", count(data.steps)],
      ["tokens", compact(data.tokens)],
      ["of training", duration(data.elapsed)],
      ["tokens/s", data.elapsed > 0 ? compact(data.tokens / data.elapsed) : undefined],
      ["parameters", data.run?.parameters ? compact(data.run.parameters) : undefined],
    ];
    const shown = list.filter(([, value]) => value !== undefined);
    return element("div", { class: "tiles" }, ...shown.map(([name, value]) => element("div", { class: "tile" }, element("b", {}, value), element("span", {}, name))));
  };

  const facts = () => {
    const run = data.run ?? {};
    const versions = Object.entries(run.versions ?? {}).map(([name, version]) => `${name} ${version}`);
    const list = [
      ["Model", run.model],
      ["Device", run.device],
      ["Ranks", mesh(run.parallel)],
      ["Seed", run.seed],
      ["Versions", versions.join(", ")],
      ["Begun", run.startedAt && new Date(run.startedAt).toLocaleString()],
      [data.state === "running" ? "As of" : "Ended", new Date(data.updatedAt).toLocaleString()],
    ];
    const shown = list.filter(([, value]) => value !== undefined && value !== "");
    return element("dl", { class: "facts" }, ...shown.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, String(value)))));
  };

  const curriculum = () => {
    const planned = data.run?.stages ?? [];
    if (planned.length === 0) return null;
    const known = planned.map((plan, index) => {
      const stage = stages.find((each) => each.index === index);
      const done = stage ? stageEnd(stage) - stage.begin : 0;
      const steps = stage && stage.end !== null ? done : (plan.steps ?? done);
      return { plan, index, stage, done, steps };
    });
    const total = known.reduce((sum, { steps }) => sum + steps, 0) || 1;
    const segments = known.map(({ plan, index, stage, done, steps }) => {
      const isOver = stage && stage.end !== null;
      const what = steps === 0 ? "not begun" : isOver || done === 0 ? `${count(steps)} steps` : `${count(done)} of ${count(steps)} steps`;
      const style = { "--tone": tone(index), "--share": Math.max(0.04, steps / total), "--done": steps ? Math.min(1, done / steps) : 0 };
      const time = stage?.seconds ? `, ${duration(stage.seconds)}` : "";
      const title = `${plan.name}: ${plan.kind}, ${what}${time}, ${plan.globalBatchSize} x ${plan.seqLen} tokens a step`;
      return element("div", { class: "segment", style, title }, element("b", {}, plan.name), element("span", {}, `${plan.kind} · ${what}${time}`));
    });
    return section("Curriculum", element("div", { class: "strip" }, ...segments));
  };

  // ---- charts

  const sync = uPlot.sync("steps");
  let drawn = [];
  let watched = new ResizeObserver((entries) => {
    for (const { target, contentRect } of entries) {
      const chart = drawn.find((each) => each.root.parentElement === target);
      if (chart && contentRect.width > 0) chart.setSize({ width: Math.floor(contentRect.width), height: chart.height });
    }
  });

  /** The stages' names above their bands, as far as they fit. */
  const nameBands = (chart) => {
    const { ctx, bbox } = chart;
    ctx.save();
    ctx.font = `600 ${12 * devicePixelRatio}px ${color("--sans")}`;
    for (const stage of stages) {
      const from = Math.max(bbox.left, chart.valToPos(stage.begin, "x", true));
      const to = Math.min(bbox.left + bbox.width, chart.valToPos(stageEnd(stage), "x", true));
      ctx.fillStyle = stageColor(stage.index);
      if (ctx.measureText(stage.name).width < to - from - 4) ctx.fillText(stage.name, from, bbox.top - 8 * devicePixelRatio);
    }
    ctx.restore();
  };

  /** Bands of the stages behind the curves, with their names over the large chart. */
  const bands = (wide) => (chart) => {
    const { ctx, bbox } = chart;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    for (const stage of stages) {
      const from = chart.valToPos(stage.begin, "x", true);
      const to = chart.valToPos(stageEnd(stage), "x", true);
      ctx.fillStyle = stageColor(stage.index);
      ctx.globalAlpha = 0.055;
      ctx.fillRect(from, bbox.top, to - from, bbox.height);
      ctx.globalAlpha = 0.35;
      if (stage.begin > 0) ctx.fillRect(Math.round(from), bbox.top, devicePixelRatio, bbox.height);
    }
    ctx.restore();
    if (wide) nameBands(chart);
  };

  const chartCard = (spec) => {
    const read = element("span", { class: "read" });
    const title = element("header", {}, element("h3", {}, spec.title), spec.hint ? element("span", { class: "hint" }, spec.hint) : null, read);
    if (spec.legend) {
      const keys = spec.legend.map(([name, width, opacity]) => {
        const line = element("i", { style: { "border-top-width": `${width}px`, opacity } });
        return element("span", {}, line, name);
      });
      read.before(element("span", { class: "legend" }, ...keys));
    }
    const plot = element("div", { class: "plot" });
    const card = element("article", { class: spec.wide ? "chart wide" : "chart" }, title, plot);
    card.draw = () => drawChart(spec, plot, read);
    return card;
  };

  const drawChart = (spec, plot, read) => {
    const positive = (values) => (spec.log ? values.map((value) => (value !== null && value > 0 ? value : null)) : values);
    const x = spec.x ?? xs;
    const raw = positive(spec.values ?? column(spec.name));
    const line = spec.smoothed ? smooth(rows, raw) : raw;
    const behind = spec.smoothed ? raw : spec.peak ? positive(peaks(spec.name)) : null;
    const stageOf = (step) => stageAt(step)?.index ?? 0;

    // One series for each stage, so that a curve has its stage's colour.
    const parts = stages.map((stage) => ({
      stage: stage.index,
      pick: (values) => values.map((value, i) => (stageOf(x[i]) === stage.index ? value : null)),
    }));
    const table = [x];
    const series = [{}];
    const few = x.length < 60;
    for (const { stage, pick } of parts) {
      if (behind) {
        table.push(pick(behind));
        series.push({ stroke: () => stageColor(stage), width: 1, alpha: few ? 0.35 : 0.22, points: { show: false } });
      }
      table.push(pick(line));
      series.push({
        stroke: () => stageColor(stage),
        width: 2,
        points: { show: Boolean(spec.points), size: 7, fill: () => stageColor(stage) },
      });
    }

    const shown = (index) => {
      const at = index ?? x.length - 1;
      read.replaceChildren();
      if (at < 0 || x.length === 0) return;
      const value = line[at] ?? (index === null || index === undefined ? [...line].reverse().find((each) => each !== null) : null);
      if (index !== null && index !== undefined) read.append(element("span", {}, `step ${count(x[at])}`));
      if (spec.wide && spec.smoothed && index !== null && index !== undefined && raw[at] !== null) {
        read.append(element("span", {}, `this step ${spec.format(raw[at])}`));
      }
      read.append(element("b", {}, value === null || value === undefined ? "–" : spec.format(value)));
    };

    const scale = spec.log
      ? { distr: 3 }
      : { range: () => (spec.range ? spec.range : rangeOf(behind ? [...raw, ...line] : line, spec)) };
    const chart = new uPlot(
      {
        width: Math.max(200, plot.clientWidth),
        height: spec.wide ? (innerWidth < 760 ? 230 : 320) : 190,
        padding: [spec.wide ? 24 : 6, 20, 0, 0],
        legend: { show: false },
        cursor: {
          sync: { key: sync.key, setSeries: false },
          drag: { x: true, y: false },
          points: { size: 7, width: 2 },
          x: true,
          y: false,
        },
        scales: { x: { time: false, range: (_, low, high) => zoomOr(low, high) }, y: scale },
        axes: [
          { ...axis(), size: 30, values: (_, splits) => splits.map((value) => (Number.isInteger(value) ? compact(value) : "")) },
          valueAxis(spec, spec.log),
        ],
        series,
        hooks: {
          drawClear: [bands(spec.wide)],
          setCursor: [(self) => shown(self.cursor.idx)],
        },
      },
      table,
      plot,
    );
    drawn.push(chart);
    watched.observe(plot);
    shown(null);
  };

  /** All charts show the whole run, or the part that was zoomed into. */
  const whole = [0, Math.max(1, data.steps)];
  const zoomOr = (low, high) => (low === null || low <= (xs[0] ?? 0) || high >= data.steps ? whole : [low, high]);

  const evaluations = evaluatedNames(data.evaluations).map((name) => {
    const found = data.evaluations.filter(({ metrics }) => metrics[name] !== undefined);
    return { title: name.replaceAll("_", " "), x: found.map(({ step }) => step), values: found.map(({ metrics }) => metrics[name]), points: true, format: plain };
  });

  // ---- samples, checkpoints, warnings

  const samples = () => {
    const sets = [...data.samples].reverse();
    if (sets.length === 0) return null;
    const nodes = sets.map(({ step, stage, samples: list }, index) => {
      const name = stages.find((each) => each.index === stage)?.name ?? "";
      const chip = element("span", { class: "chip", style: { "--tone": tone(stage) } }, name);
      return element("details", { class: "sampleset", ...(index === 0 && { open: "" }) }, element("summary", {}, `Step ${count(step)}`, chip), ...sampleFigures(list));
    });
    return section("Samples", ...nodes);
  };

  /** @param kind of the cells after the first: "text", or "short", which is not broken into lines */
  const table = (title, names, lines, kind = "text") => {
    if (lines.length === 0) return null;
    const cells = (tag) => (line) => element("tr", {}, ...line.map((cell, i) => element(tag, { class: i === 0 ? "number" : kind }, cell)));
    const body = element("tbody", {}, ...lines.map(cells("td")));
    return section(title, element("div", { class: "tablebox" }, element("table", {}, element("thead", {}, cells("th")(names)), body)));
  };

  const ranks = () => {
    const mostShown = 64;
    const list = [...(data.ranks ?? [])].sort((a, b) => b.seconds / b.steps - a.seconds / a.steps);
    if (list.length === 0) return null;
    const shown = list.slice(0, mostShown).map((each) => [
      count(each.rank),
      milliseconds(each.seconds / each.steps),
      milliseconds(each.dataSeconds / each.steps),
      `${count(each.slowest)} of ${count(each.steps)}`,
      bytes(each.rss),
    ]);
    const title = list.length > mostShown ? `Ranks, the ${mostShown} slowest of ${list.length}` : "Ranks, the slowest first";
    return table(title, ["rank", "step, mean", "data wait, mean", "was the slowest", "memory"], shown, "short");
  };

  const setTheme = (theme) => {
    root.dataset.theme = theme;
    for (const chart of drawn) chart.destroy();
    drawn = [];
    for (const card of document.querySelectorAll(".chart")) card.draw();
  };

  document.getElementById("report").replaceChildren(
    ...[
      head(),
      data.message ? element("p", { class: "message" }, data.message) : null,
      tiles(),
      facts(),
      curriculum(),
      ...chartSections([rows], evaluations, chartCard),
      ranks(),
      samples(),
      table("Checkpoints", ["step", "name"], data.checkpoints.map(({ step, name }) => [count(step), name])),
      table("Warnings", ["step", "what happened"], data.warnings.map(({ step, message }) => [count(step), message])),
      element("footer", {}, "Written by stable-diffcoder. All data of the charts is in this file."),
    ].filter((node) => node !== null),
  );
  followTheme(setTheme);
})();
