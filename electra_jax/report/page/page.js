"use strict";
// Draws the page from the JSON that it holds. Texts of runs reach the page as text nodes alone, never as markup.

const { runs, groups, calibration, summary } = JSON.parse(document.getElementById("data").textContent);
const MARKERS = ["circle", "square", "triangle", "diamond"];
const COLOURS = 8;
const shown = { runs: runs.map(() => true), train: true, eval: true, log: false };
const charts = [];
const figures = [...groups.flatMap((group) => group.figures), calibration];
const titleOf = (name) => figures.find((one) => one.name === name).title;

// --- elements ------------------------------------------------------------------------------------------------------

/** An HTML element with attributes, and children that are elements or texts. */
function element(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same of SVG. */
function drawn(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const colourOf = (run) => `var(--run-${run % COLOURS})`;

/** The path of a run's marker around a point. */
function marker(run, x, y, size) {
  const s = size;
  const paths = {
    circle: `M${x - s},${y}a${s},${s} 0 1,0 ${2 * s},0a${s},${s} 0 1,0 ${-2 * s},0`,
    square: `M${x - s},${y - s}h${2 * s}v${2 * s}h${-2 * s}z`,
    triangle: `M${x},${y - 1.2 * s}L${x + 1.2 * s},${y + s}L${x - 1.2 * s},${y + s}z`,
    diamond: `M${x},${y - 1.35 * s}L${x + 1.35 * s},${y}L${x},${y + 1.35 * s}L${x - 1.35 * s},${y}z`,
  };
  // Beyond eight runs the colours come again, with the next marker.
  return paths[MARKERS[(run + Math.floor(run / COLOURS)) % MARKERS.length]];
}

function swatch(run, kind = "eval") {
  const icon = drawn("svg", { width: 22, height: 12, "aria-hidden": "true" });
  icon.append(drawn("path", { d: "M1,6H21", class: `curve ${kind}`, stroke: colourOf(run) }));
  if (kind === "eval") icon.append(drawn("path", { d: marker(run, 11, 6, 4), fill: colourOf(run) }));
  return icon;
}

// --- numbers -------------------------------------------------------------------------------------------------------

const whole = new Intl.NumberFormat("en");

/** A value to read: four digits, thousands set apart. */
function format(value, digits = 4) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size >= 1000) return whole.format(Math.round(value));
  if (size !== 0 && size < 1e-4) return value.toExponential(2).replace("e-", "e−");
  return String(Number(value.toPrecision(digits)));
}

/** A value beside an axis. */
function tickText(value) {
  for (const [size, letter] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (Math.abs(value) >= size) return Number((value / size).toPrecision(3)) + letter;
  }
  if (value !== 0 && Math.abs(value) < 1e-3) return value.toExponential(0).replace("e-", "e−");
  return String(Number(value.toPrecision(4)));
}

/** About `count` round values that span the domain. */
function linearTicks([low, high], count) {
  const raw = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 2.5, 5, 10].find((factor) => power * factor >= raw * 0.999);
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) ticks.push(i * step);
  return ticks;
}

function logTicks([low, high]) {
  const all = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
    for (const factor of [1, 2, 5]) all.push(factor * 10 ** power);
  }
  const inside = all.filter((value) => value >= low * 0.999 && value <= high * 1.001);
  if (inside.length < 2) return linearTicks([low, high], 3);
  const isPower = (value) => Number.isInteger(Math.round(Math.log10(value) * 1e9) / 1e9);
  return inside.length > 6 ? inside.filter(isPower) : inside;
}

/** A little room around the values; of shares, nothing beyond 0 and 1. */
function domainOf(values, log, share) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (value === null || (log && value <= 0)) continue;
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  if (low > high) return null;
  if (log) return low === high ? [low / 2, high * 2] : [low / 1.08, high * 1.08];
  const room = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
  const floor = low >= 0 ? Math.max(0, low - room) : low - room;
  return share ? [floor, Math.max(Math.min(1, high + room), floor + 1e-9)] : [floor, high + room];
}

// --- a chart -------------------------------------------------------------------------------------------------------

/**
 * A chart of series [{run, kind, label, points: [[x, y], ...]}], y null where there is none.
 *
 * spec: title, note, unit, x (the axis's name), log, share, xDomain, yDomain, reference, diagonal, key (how a
 * horizontal position is told). `visible` says which series are on.
 */
class Chart {
  constructor(spec, series, visible) {
    Object.assign(this, { spec, series, visible });
    this.plot = element("div", { class: "plot" });
    this.table = element("details", {}, element("summary", {}, "Numbers"));
    this.table.addEventListener("toggle", () => this.fillTable());
    this.node = element("figure", {},
      element("figcaption", {}, spec.title, element("span", { class: "note" }, spec.note)), this.plot, this.table);
    this.width = 0;
    new ResizeObserver(([entry]) => {
      const width = Math.round(entry.contentRect.width);
      if (width > 0 && width !== this.width) {
        this.width = width;
        this.draw();
      }
    }).observe(this.plot);
    charts.push(this);
  }

  get on() {
    return this.series.filter((one) => this.visible(one) && one.points.length);
  }

  draw() {
    if (!this.width) return;
    hideTooltip();
    const log = this.spec.log === true || (this.spec.log === "choice" && shown.log);
    const values = this.on.flatMap((one) => one.points.map((point) => point[1]));
    const y = this.spec.yDomain || domainOf(values, log, this.spec.share);
    const x = this.spec.xDomain || [0, Math.max(1, ...this.on.map((one) => one.points.at(-1)[0]))];
    if (!y) {
      this.plot.replaceChildren(element("p", { class: "empty" }, "Nothing to draw."));
      return;
    }
    this.scale(x, y, log);
    const viewBox = `0 0 ${this.width} ${this.box.height}`;
    this.svg = drawn("svg", { viewBox, role: "img", tabindex: 0, "aria-label": this.describe() });
    this.drawAxes(x, y, log);
    for (const one of this.on) this.drawSeries(one, log);
    this.cross = drawn("line", { class: "cross", y1: this.box.top, y2: this.box.bottom, visibility: "hidden" });
    this.svg.append(this.cross);
    this.listen();
    this.plot.replaceChildren(this.svg);
    if (this.table.open) this.fillTable();
  }

  scale([x0, x1], [y0, y1], log) {
    const height = this.spec.square ? Math.min(this.width, 330) : 215;
    this.box = { left: 46, right: this.width - 10, top: 20, bottom: height - 36, height };
    const { left, right, top, bottom } = this.box;
    const to = log ? Math.log : (value) => value;
    this.x = (value) => left + ((value - x0) / (x1 - x0 || 1)) * (right - left);
    this.y = (value) => bottom - ((to(value) - to(y0)) / (to(y1) - to(y0) || 1)) * (bottom - top);
  }

  drawAxes(x, y, log) {
    const { left, right, top, bottom } = this.box;
    for (const value of log ? logTicks(y) : linearTicks(y, 4)) {
      this.svg.append(drawn("line", { class: "grid", x1: left, x2: right, y1: this.y(value), y2: this.y(value) }));
      this.svg.append(drawn("text", { x: left - 6, y: this.y(value) + 4, "text-anchor": "end" }, tickText(value)));
    }
    for (const value of linearTicks(x, Math.max(2, Math.floor((right - left) / 65)))) {
      const at = this.x(value);
      this.svg.append(drawn("line", { class: "axis", x1: at, x2: at, y1: bottom, y2: bottom + 4 }));
      this.svg.append(drawn("text", { x: at, y: bottom + 16, "text-anchor": "middle" }, tickText(value)));
    }
    this.svg.append(drawn("line", { class: "axis", x1: left, x2: right, y1: bottom, y2: bottom }));
    this.svg.append(drawn("text", { x: left - 40, y: 10 }, this.spec.unit));
    this.svg.append(drawn("text", { x: right, y: bottom + 31, "text-anchor": "end" }, this.spec.x));
    const at = this.spec.reference;
    if (at !== null && at !== undefined && at >= y[0] && at <= y[1]) {
      this.svg.append(drawn("line", { class: "reference", x1: left, x2: right, y1: this.y(at), y2: this.y(at) }));
    }
    if (this.spec.diagonal) {
      const ends = { x1: this.x(0), y1: this.y(0), x2: this.x(1), y2: this.y(1) };
      this.svg.append(drawn("line", { class: "reference", ...ends }));
    }
  }

  drawSeries(one, log) {
    let path = "";
    let pen = "M";
    const dots = [];
    for (const [x, y] of one.points) {
      if (y === null || (log && y <= 0)) {
        pen = "M";
        continue;
      }
      const at = [this.x(x).toFixed(1), this.y(y).toFixed(1)];
      path += pen + at.join(",");
      pen = "L";
      dots.push(at.map(Number));
    }
    this.svg.append(drawn("path", { d: path || "M0,0", class: `curve ${one.kind}`, stroke: colourOf(one.run) }));
    const most = Math.max(...this.on.filter((other) => other.kind === one.kind).map((other) => other.points.length));
    const room = (this.box.right - this.box.left) / 9; // markers that fit side by side
    if (dots.length > 1 && (one.kind === "train" || most > room)) return;
    const size = most > room / 2 ? 2.6 : 3.6;
    for (const [x, y] of dots) {
      this.svg.append(drawn("path", { d: marker(one.run, x, y, size), class: "marker", fill: colourOf(one.run) }));
    }
  }

  describe() {
    const ends = this.on.map((one) => {
      const last = one.points.filter((point) => point[1] !== null).at(-1);
      return last ? `${one.label} ends at ${format(last[1])}` : `${one.label} has no values`;
    });
    const { title, unit, x } = this.spec;
    return `${title} in ${unit}, by ${x}. ${ends.join("; ")}. Arrow keys read the values.`;
  }

  /** Values at the pointer, or at a point that the arrow keys walk to. */
  listen() {
    const stops = [...new Set(this.on.flatMap((one) => one.points.map((point) => point[0])))].sort((a, b) => a - b);
    if (!stops.length) return; // of a chart whose axes are given, with no run on
    this.svg.addEventListener("pointermove", (event) => {
      const area = this.svg.getBoundingClientRect();
      const at = (event.clientX - area.left) * (this.width / area.width);
      const off = (stop) => Math.abs(this.x(stop) - at);
      const nearest = stops.reduce((best, stop) => (off(stop) < off(best) ? stop : best));
      this.read(nearest, event.clientX, event.clientY);
      this.stop = stops.indexOf(nearest);
    });
    const leave = () => {
      charts.forEach((chart) => chart.point(null));
      hideTooltip();
    };
    this.svg.addEventListener("pointerleave", leave);
    this.svg.addEventListener("blur", leave);
    this.svg.addEventListener("keydown", (event) => {
      const moves = { ArrowLeft: -1, ArrowRight: 1, Home: -stops.length, End: stops.length };
      if (event.key === "Escape") leave();
      if (!(event.key in moves)) return;
      event.preventDefault();
      const from = this.stop ?? (moves[event.key] > 0 ? -1 : stops.length);
      this.stop = Math.max(0, Math.min(stops.length - 1, from + moves[event.key]));
      const area = this.svg.getBoundingClientRect();
      this.read(stops[this.stop], area.left + this.x(stops[this.stop]), area.top + this.box.top);
    });
  }

  read(x, left, top) {
    const same = charts.filter((chart) => chart.spec.x === this.spec.x);
    same.forEach((chart) => chart.point(x));
    const lines = this.on.map((one) => {
      const point = nearestTo(one.points, x);
      const value = point[1] === null ? "–" : format(point[1]);
      const label = point[0] === x ? one.label : `${one.label} at ${format(point[0], 3)}`; // where it has a value
      return element("div", {}, swatch(one.run, one.kind), element("span", {}, label), element("span", {}, value));
    });
    showTooltip(left, top, element("b", {}, this.spec.key(x)), ...lines);
  }

  point(x) {
    if (!this.cross) return;
    const inside = x !== null && this.x(x) >= this.box.left - 1 && this.x(x) <= this.box.right + 1;
    this.cross.setAttribute("visibility", inside ? "visible" : "hidden");
    if (inside) fill(this.cross, { x1: this.x(x), x2: this.x(x) }, []);
  }

  fillTable() {
    if (!this.table.open) return;
    const stops = [...new Set(this.on.flatMap((one) => one.points.map((point) => point[0])))].sort((a, b) => a - b);
    const values = this.on.map((one) => new Map(one.points));
    const head = [this.spec.x, ...this.on.map((one) => one.label)];
    const body = stops.map((x) => [format(x), ...values.map((one) => (one.has(x) ? format(one.get(x)) : ""))]);
    const label = `${this.spec.title}: numbers`;
    const area = element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label });
    area.append(tableOf(head, body));
    this.table.replaceChildren(this.table.firstChild, area);
  }
}

function nearestTo(points, x) {
  let best = null;
  for (const point of points) if (best === null || Math.abs(point[0] - x) < Math.abs(best[0] - x)) best = point;
  return best;
}

function tableOf(head, body) {
  const cells = (row) => row.map((cell, i) => (i ? element("td", {}, cell) : element("th", { scope: "row" }, cell)));
  return element("table", {},
    element("thead", {}, element("tr", {}, ...head.map((cell) => element("th", { scope: "col" }, cell)))),
    element("tbody", {}, ...body.map((row) => element("tr", {}, ...cells(row)))));
}

// --- the tooltip ---------------------------------------------------------------------------------------------------

const tooltip = document.getElementById("tooltip");

function showTooltip(left, top, ...content) {
  tooltip.replaceChildren(...content);
  tooltip.hidden = false;
  const { width, height } = tooltip.getBoundingClientRect();
  const x = left + 16 + width > innerWidth ? left - width - 16 : left + 16;
  tooltip.style.left = `${Math.max(8, Math.min(x, innerWidth - width - 8))}px`;
  tooltip.style.top = `${Math.max(8, Math.min(top + 16, innerHeight - height - 8))}px`;
}

function hideTooltip() {
  tooltip.hidden = true;
}

// --- the parts of the page -----------------------------------------------------------------------------------------

const several = runs.length > 1;
const KINDS = { train: "training", eval: "held-out" };

function drawLead() {
  const names = runs.map((run) => run.name).join(", ");
  const steps = runs.map((run) => Math.max(...run.train.step, ...run.eval.step));
  const ends = [...new Set(steps)].map((step) => whole.format(step)).join(" and ");
  document.getElementById("lead").textContent =
    `${names}: ${ends} steps. Thin lines are of training, thick ones with markers of held-out rows.`;
}

function drawControls() {
  const bar = document.getElementById("controls");
  const toggle = (label, icon, get, set) => {
    const button = element("button", { type: "button", "aria-pressed": get() }, ...icon, label);
    button.addEventListener("click", () => {
      set(!get());
      button.setAttribute("aria-pressed", get());
      refresh();
    });
    bar.append(button);
  };
  if (several) {
    runs.forEach((run, i) => toggle(run.name, [swatch(i)], () => shown.runs[i], (on) => (shown.runs[i] = on)));
    bar.append(element("span", { class: "gap" }));
  }
  for (const kind of ["train", "eval"]) toggle(KINDS[kind], [], () => shown[kind], (on) => (shown[kind] = on));
  toggle("logarithmic", [], () => shown.log, (on) => (shown.log = on));
}

/** Draw everything that depends on what is shown. */
function refresh() {
  charts.forEach((chart) => chart.draw());
  for (const node of document.querySelectorAll("[data-run]")) node.hidden = !shown.runs[node.dataset.run];
}

function drawSummary() {
  const names = summary.filter((name) => runs.some((run) => name in run.eval));
  const speed = runs.some((run) => "tokens_per_second" in run.train);
  const head = ["run", "step", ...names.map(titleOf), ...(speed ? ["Tokens/s"] : [])];
  const body = runs.map((run, i) => {
    const last = (column) => (column || []).filter((value) => value !== null).at(-1);
    const step = last(run.eval.step) ?? last(run.train.step);
    const rates = (run.train.tokens_per_second || []).filter((value) => value !== null).sort((a, b) => a - b);
    const middle = rates[Math.floor(rates.length / 2)];
    const held = names.map((name) => format(run.newest[name]));
    return [run.name, format(step), ...held, ...(speed ? [format(middle)] : [])];
  });
  const table = tableOf(head, body);
  table.querySelectorAll("tbody tr").forEach((row, i) => {
    row.dataset.run = i;
    row.firstChild.prepend(swatch(i), " ");
  });
  document.querySelector("#summary .scroll").append(table);
}

function seriesOf(name) {
  return ["train", "eval"].flatMap((kind) => runs.map((run, i) => ({
    run: i,
    kind,
    label: several ? `${run.name}, ${KINDS[kind]}` : KINDS[kind],
    points: name in run[kind] ? run[kind].step.map((step, at) => [step, run[kind][name][at]]) : [],
  })));
}

function chartOf(figure, more = {}) {
  const key = (step) => `step ${whole.format(step)}`;
  const spec = { ...figure, ...more, x: "step", key, log: figure.wide ? "choice" : false };
  spec.share = figure.unit === "share" || figure.unit === "area";
  return new Chart(spec, seriesOf(figure.name), (one) => shown.runs[one.run] && shown[one.kind]);
}

function drawGroups() {
  for (const group of groups) {
    const area = element("div", { class: "charts" });
    for (const figure of group.figures) {
      area.append(chartOf(figure).node);
    }
    document.getElementById("groups").append(element("section", {}, element("h2", {}, group.title), area));
  }
}

const FEW = 10; // tokens, of which a share says little

function drawCalibration() {
  const section = document.getElementById("calibration");
  const known = runs.map((run, i) => ({ ...run.calibration, run: i, name: run.name })).filter((one) => "error" in one);
  const overSteps = runs.some((run) => calibration.name in run.train || calibration.name in run.eval);
  section.hidden = !known.length && !overSteps;
  if (!known.length) {
    section.querySelector(".note").textContent = "No run has a histogram of its newest evaluation.";
    if (overSteps) section.querySelector(".charts").append(chartOf(calibration).node);
    return;
  }
  const x = "probability of having been replaced";
  const key = (value) => `probability ${format(value, 3)}`;
  const visible = (one) => shown.runs[one.run];
  const name = (one, more) => [several ? one.name : "", more].filter(Boolean).join(", ");
  const inside = (one, column, least) =>
    one.predicted.map((p, i) => [p, column[i]]).filter((_, i) => one.original[i] + one.replaced[i] >= least);
  const reliability = known.map((one) => ({
    run: one.run,
    kind: "eval",
    label: name(one, `error ${format(one.error, 3)}`),
    points: inside(one, one.share, FEW),
  }));
  const countsOf = (one) => (kind) =>
    ({ run: one.run, kind, label: name(one, kind), points: inside(one, one[kind], 1) });
  const counts = known.flatMap((one) => ["original", "replaced"].map(countsOf(one)));
  const shared = { x, key, xDomain: [0, 1], square: true };
  const three = [
    new Chart({
      ...shared,
      title: "Reliability",
      note: "On the dotted line, a probability means what it says; below the line, too many alarms. " +
        `Levels of fewer than ${FEW} tokens are left out.`,
      unit: "share replaced",
      yDomain: [0, 1],
      diagonal: true,
    }, reliability, visible),
    new Chart({
      ...shared,
      title: "How its probabilities are spread",
      note: "Tokens in each fifteenth of the axis: replaced ones solid, original ones dashed.",
      unit: "tokens",
      log: true,
    }, counts, visible),
    ...(overSteps ? [chartOf(calibration, { square: true })] : []),
  ];
  section.querySelector(".charts").append(...three.map((chart) => chart.node));
}

// --- rows of text --------------------------------------------------------------------------------------------------

const LOUD = 0.5; // probability above which a token is taken for a replaced one
const CJK = /^[\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef]/;
const OUTCOMES = {
  found: "replaced, and found",
  missed: "replaced, and missed",
  hit: "the generator's sample is the original",
  alarm: "original, and taken for replaced",
};

/** What became of a token [text, probability, original, masked]. */
function outcomeOf([text, probability, original]) {
  const loud = probability > LOUD;
  if (original === null) return loud ? "alarm" : "";
  if (original === text) return loud ? "hit alarm" : "hit";
  return loud ? "found" : "missed";
}

function tokenNode(token, before) {
  const [text, probability, original] = token;
  const outcome = outcomeOf(token);
  const classes = ["token", outcome, original === null ? "" : "picked", /^\[[A-Z]+\]$/.test(text) ? "special" : ""];
  const joined = text.startsWith("##") || (CJK.test(text) && before && CJK.test(before[0]));
  if (before && !joined) classes.push("word");
  const bare = (name) => name.replace(/^##(?=.)/, "");
  const tag = original === null ? "span" : "ruby";
  const node = element(tag, { class: classes.filter(Boolean).join(" ") }, bare(text));
  node.style.setProperty("--p", probability ?? 0);
  if (original !== null) node.append(element("rt", {}, original === text ? "✓" : bare(original)));
  if (outcome) node.setAttribute("tabindex", 0);
  const tell = () => {
    const { right, bottom } = node.getBoundingClientRect();
    showTooltip(right - 24, bottom - 12, ...detailsOf(token));
  };
  node.addEventListener("pointerenter", tell);
  node.addEventListener("focus", tell);
  node.addEventListener("pointerleave", hideTooltip);
  node.addEventListener("blur", hideTooltip);
  return node;
}

function detailsOf(token) {
  const [text, probability, original, masked] = token;
  const line = (name, value) => element("div", {}, element("span", {}, name), element("span", {}, value));
  const percent = probability === null ? "not asked" : `${(100 * probability).toFixed(1)}%`;
  const lines = [element("b", {}, text), line("probability of having been replaced", percent)];
  if (original !== null) {
    lines.push(line("original", original), line("the generator read", masked ? "[MASK]" : original));
    lines.push(line("the generator wrote", text));
  }
  for (const outcome of outcomeOf(token).split(" ").filter(Boolean)) lines.push(element("div", {}, OUTCOMES[outcome]));
  return lines;
}

function drawExamples() {
  const legend = document.querySelector("#examples .legend");
  const sample = (outcome, text, over) => {
    const node = element("ruby", { class: `token ${over ? "picked" : ""} ${outcome}` }, text);
    if (over) node.append(element("rt", {}, over));
    return node;
  };
  legend.append(
    element("li", {}, "probability of having been replaced: 0", element("span", { class: "scale" }), "1"),
    element("li", {}, sample("found", "sample", "original"), OUTCOMES.found),
    element("li", {}, sample("missed", "sample", "original"), OUTCOMES.missed),
    element("li", {}, sample("hit", "sample", "✓"), OUTCOMES.hit),
    element("li", {}, sample("alarm", "token", ""), OUTCOMES.alarm));
  legend.hidden = !runs.some((run) => run.examples);
  runs.forEach((run, i) => {
    const part = element("div", { "data-run": i });
    const at = run.examples ? ` at step ${whole.format(run.examples.step)}` : "";
    part.append(element("h3", {}, swatch(i), run.name + at));
    if (!run.examples) part.append(element("p", { class: "note" }, run.no_examples));
    for (const row of run.examples ? run.examples.rows : []) {
      const tokens = row.map((token, at) => tokenNode(token, row[at - 1]));
      const lang = row.some(([text]) => CJK.test(text)) ? "zh" : "en";
      part.append(element("div", { class: "row", lang }, ...tokens));
    }
    document.querySelector("#examples .rows").append(part);
  });
}

// --- settings ------------------------------------------------------------------------------------------------------

function drawSettings() {
  const names = [...new Set(runs.flatMap((run) => Object.keys(run.settings)))];
  const differs = (name) => new Set(runs.map((run) => run.settings[name] ?? null)).size > 1;
  const body = names.map((name) => [name, ...runs.map((run) => run.settings[name] ?? "not set")]);
  const table = tableOf(["setting", ...runs.map((run) => run.name)], body);
  const same = [];
  table.querySelectorAll("tbody tr").forEach((row, i) => {
    if (differs(names[i])) row.classList.add("differs");
    else same.push(row);
    runs.forEach((run, at) => { if (!(names[i] in run.settings)) row.children[at + 1].classList.add("absent"); });
  });
  const area = document.querySelector("#settings .scroll");
  area.append(table);
  if (!several || same.length === names.length) return;
  const button = element("button", { type: "button", "aria-pressed": false }, "only what differs");
  const show = (only) => {
    button.setAttribute("aria-pressed", only);
    same.forEach((row) => { row.hidden = only; });
  };
  button.addEventListener("click", () => show(button.getAttribute("aria-pressed") === "false"));
  area.before(button);
  show(true);
}

drawLead();
drawControls();
drawSummary();
drawGroups();
drawCalibration();
drawExamples();
drawSettings();
