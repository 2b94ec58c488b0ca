"use strict";
// Repeats decide.py and charts.py over the rows in the page when a reader changes a limit or a price. Asks no network.
(() => {
  const $ = (id) => document.getElementById(id);
  const given = JSON.parse($("data").textContent);
  const rows = unpack(given.rows);
  const prices = given.prices.map((price) => ({ ...price }));
  const custom = {}; // dollars an hour and devices by platform, as a reader gave them

  function unpack({ texts, text_fields, columns }) {
    const names = Object.keys(columns);
    const count = columns.id.length;
    return Array.from({ length: count }, (_, i) => {
      const row = { index: i };
      for (const name of names) row[name] = columns[name][i];
      for (const name of text_fields) row[name] = texts[row[name]];
      row.per_device = row.tokens_per_s === null ? null : row.tokens_per_s / row.devices;
      row.per_user = row.user_ms === null ? null : 1000 / row.user_ms;
      row.times = given.times[i] || {};
      return row;
    });
  }

  // ---- what is asked -------------------------------------------------------------------------------------------
  const number = (id) => {
    const value = parseFloat($(id).value);
    return Number.isFinite(value) && value > 0 ? value : null;
  };
  const asked = () => ({
    model: $("model").value || null,
    platform: $("platform").value || null,
    input: number("input"),
    new: number("new"),
    batch: number("batch"),
    ttft: number("ttft"),
    tpot: number("tpot"),
    bits: number("bits") || 0,
    cited: $("cited").checked,
    utilisation: (number("utilisation") || 100) / 100,
  });

  const fits = (want, have) => want === null || have === null || have === want;
  const shown = (row, ask) =>
    (ask.model === null || row.model === ask.model) &&
    (ask.platform === null || row.platform === ask.platform) &&
    fits(ask.input, row.input) && fits(ask.new, row.new) && fits(ask.batch, row.batch) &&
    (ask.cited || row.provenance === "measured");
  const concerns = (row, ask) => shown(row, ask) && row.user_kind + row.status !== "ok";

  function refusal(row, ask) {
    if (row.status === "accuracy_fail" || row.accuracy === "wrong") return "wrong text";
    if (row.status !== "ok") return row.status === "oom" ? "out of memory" : row.status.replaceAll("_", " ");
    if (row.provenance === "simulated") return "simulated";
    if (row.bits < ask.bits) return "below the precision floor";
    if (ask.ttft !== null && row.ttft_ms === null) return "TTFT unknown";
    if (ask.ttft !== null && row.ttft_ms > ask.ttft) return "TTFT over the limit";
    if (ask.tpot !== null && row.user_ms === null) return "TPOT unknown";
    if (ask.tpot !== null && row.user_ms > ask.tpot) return "TPOT over the limit";
    return "";
  }

  const priceOf = (row) => custom[row.platform] || (row.price === null ? null : prices[row.price]);
  function dollars(row, ask) {
    const price = priceOf(row);
    if (!price || !row.tokens_per_s) return null;
    const share = row.devices <= price.devices ? row.devices / price.devices : Math.ceil(row.devices / price.devices);
    const one = ((price.per_hour * share) / ask.utilisation / 3600) * 1e6;
    return {
      value: one / row.tokens_per_s, low: row.high ? one / row.high : null, high: row.low ? one / row.low : null,
      bound: price.bound || "",
    };
  }

  function decide(ask) {
    const groups = new Map();
    for (const row of rows.filter((row) => concerns(row, ask))) {
      const key = JSON.stringify([row.model, row.platform]);
      if (!groups.has(key)) groups.set(key, []);
      groups.get(key).push(row);
    }
    return [...groups.values()].map((some) => {
      const fitting = some.filter((row) => !refusal(row, ask));
      let best = null;
      for (const row of fitting) {
        const more = (row.per_device || 0) - ((best && best.per_device) || 0);
        if (best === null || more > 0 || (more === 0 && (row.user_ms || 0) < (best.user_ms || 0))) best = row;
      }
      const counts = new Map();
      for (const row of some) {
        const why = refusal(row, ask);
        if (why) counts.set(why, (counts.get(why) || 0) + 1);
      }
      const why = [...counts].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1)).map(([w, n]) => `${n} ${w}`).join("; ");
      return { model: some[0].model, platform: some[0].platform, best, why, lookedAt: some.length };
    });
  }

  // ---- how numbers look ----------------------------------------------------------------------------------------
  const three = (value) => {
    if (value === null || value === undefined) return "–";
    const size = Math.abs(value);
    if (size >= 100) return value.toFixed(0);
    if (size >= 10) return value.toFixed(1);
    if (size >= 1) return value.toFixed(2);
    return String(parseFloat(value.toPrecision(3)));
  };
  const money = (cost) => {
    if (cost === null) return "no price";
    const spread = cost.low !== null && cost.high !== null ? ` [${three(cost.low)}–${three(cost.high)}]` : "";
    return `${cost.bound}$${three(cost.value)}${spread}`;
  };
  const cell = (line, text, kind) => {
    const td = document.createElement("td");
    td.textContent = text;
    if (kind) td.className = kind;
    line.append(td);
    return td;
  };

  // ---- drawing the tables --------------------------------------------------------------------------------------
  function drawDecision(ask) {
    const body = $("decision-rows");
    const lines = decide(ask).map((one) => {
      const line = document.createElement("tr");
      const head = document.createElement("th");
      head.scope = "row";
      head.textContent = one.model;
      line.append(head);
      cell(line, one.platform);
      if (one.best === null) {
        const none = cell(line, `none of ${one.lookedAt} qualifies: ${one.why}`, "none");
        none.colSpan = 7;
        return line;
      }
      const row = one.best;
      const link = document.createElement("a");
      link.href = `#r${row.index}`;
      link.textContent = row.how;
      cell(line, "").append(link, ` ${row.workload}`);
      cell(line, three(row.user_ms) + (row.user_kind === "wall" ? " *" : ""), "n");
      cell(line, three(row.ttft_ms), "n");
      cell(line, three(row.per_device), "n");
      cell(line, three(row.per_user), "n");
      cell(line, money(dollars(row, ask)), "n cost");
      const basis = cell(line, row.provenance);
      if (row.doubts) basis.append(`, ${row.doubts} doubt${row.doubts > 1 ? "s" : ""}`);
      return line;
    });
    body.replaceChildren(...lines);
    const met = lines.filter((line) => !line.querySelector(".none")).length;
    $("decision-said").textContent = `${met} of ${lines.length} have a configuration that meets the limits.`;
  }

  function drawRows(ask) {
    let count = 0;
    const lines = $("row-lines").rows;
    rows.forEach((row, i) => {
      const visible = shown(row, ask);
      lines[i].hidden = !visible;
      count += visible;
      lines[i].querySelector("[data-cost]").textContent = money(dollars(row, ask));
    });
    $("rows-said").textContent = `${count} of ${rows.length} rows.`;
  }

  // ---- drawing the charts --------------------------------------------------------------------------------------
  const who = (row) => ({
    platform: row.platform, model: row.model, what: `${row.model}, ${row.configuration}`,
    workload: row.workload, provenance: row.provenance,
  });
  const ok = (row) => row.status === "ok";
  const points = {
    pareto: (some) => some.filter((r) => ok(r) && r.per_device && r.per_user)
      .map((r) => ({ ...who(r), x: r.per_user, y: r.per_device, batch: r.batch })),
    lengths: (some) => some.filter((r) => ok(r) && r.input !== null).flatMap((r) => {
      const line = [r.model, r.platform, r.engine, r.dtype, `b${r.batch}`, r.devices].join(" ");
      return [["TTFT", r.ttft_ms], ["TPOT", r.tpot_ms]].filter(([, v]) => v)
        .map(([metric, y]) => ({ ...who(r), x: r.input, y, metric, line }));
    }),
    scaling: (some) => {
      const lines = new Map();
      for (const r of some.filter((r) => ok(r) && r.tokens_per_s && r.batch)) {
        const line = [r.model, r.platform, r.engine.replace(/ (tp|x)\d+$/, ""), r.dtype, r.workload, r.definition].join(" ");
        if (!lines.has(line)) lines.set(line, []);
        lines.get(line).push({ ...who(r), x: r.devices, y: r.tokens_per_s, line });
      }
      return [...lines.values()].filter((l) => new Set(l.map((p) => p.x)).size > 1).flat();
    },
    phases: (some) => some.filter(ok).flatMap((r) => Object.entries(r.times)
      .map(([phase, y]) => ({ ...who(r), phase, y, line: `${r.model} ${r.platform} ${r.engine} ${r.dtype} ${r.definition}` }))),
    roofline: (some) => some.filter(ok).flatMap((r) => [["MBU (decode)", r.mbu], ["MFU (prefill)", r.mfu]]
      .filter(([, v]) => v !== null).map(([metric, y]) => ({ ...who(r), metric, y }))),
    cost: (some, ask) => {
      const best = new Map();
      for (const r of some.filter(ok)) {
        const cost = dollars(r, ask);
        if (cost === null) continue;
        const line = `${r.model}, ${r.configuration}`;
        const point = { ...who(r), y: cost.value, low: cost.low ?? cost.value, high: cost.high ?? cost.value, line };
        if (!best.has(line) || best.get(line).y > point.y) best.set(line, point);
      }
      return [...best.values()].sort((a, b) => a.y - b.y).slice(0, given.cheapest);
    },
  };
  const views = {};
  async function startCharts() {
    if (typeof window.vegaEmbed !== "function") return;
    for (const figure of document.querySelectorAll("figure[data-chart]")) {
      const name = figure.dataset.chart;
      const holder = figure.querySelector(".live");
      try {
        const spec = JSON.parse(given.charts[name]);
        const data = points[name](rows.filter((row) => shown(row, asked())), asked());
        const made = await window.vegaEmbed(holder, { ...spec, data: { name: "rows", values: data } }, { renderer: "svg", actions: false });
        views[name] = made.view;
        holder.hidden = false;
        figure.querySelector(".still").hidden = true;
        figure.dataset.drawn = data.length;
      } catch (error) {
        holder.hidden = true; // a policy forbids scripts that make functions: the still drawing stays
        figure.dataset.still = String(error.message || error);
      }
    }
  }
  async function drawCharts(ask) {
    const some = rows.filter((row) => shown(row, ask));
    for (const [name, view] of Object.entries(views)) {
      const data = points[name](some, ask);
      const figure = document.querySelector(`figure[data-chart="${name}"]`);
      figure.dataset.drawn = data.length;
      figure.querySelector(".empty").hidden = data.length > 0;
      figure.querySelector(".live").hidden = data.length === 0; // an empty scale has no ends
      if (data.length) await view.data("rows", data).runAsync();
    }
  }

  // ---- prices, theme, downloads --------------------------------------------------------------------------------
  for (const line of $("price-rows").rows) {
    const [hour, devices] = line.querySelectorAll("input");
    const read = () => {
      const value = parseFloat(hour.value);
      const count = parseInt(devices.value, 10);
      const good = Number.isFinite(value) && value > 0 && count > 0;
      hour.setAttribute("aria-invalid", String(hour.value !== "" && !good));
      if (good) custom[line.dataset.platform] = { per_hour: value, devices: count };
      else delete custom[line.dataset.platform];
      update();
    };
    hour.addEventListener("input", read);
    devices.addEventListener("input", read);
  }

  const root = document.documentElement;
  $("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    $("theme").textContent = dark ? "Dark" : "Light";
  });

  const safe = (value) => {
    const text = value === null || value === undefined ? "" : String(value);
    const inert = typeof value !== "number" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
    return /[",\n\r]/.test(inert) ? `"${inert.replaceAll('"', '""')}"` : inert;
  };
  const save = (name, type, text) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  const chosen = () => {
    const ask = asked();
    return rows.filter((row) => shown(row, ask)).map(({ index, times, doubts, ...row }) => ({
      ...row, dollars_per_million: dollars(rows[index], ask)?.value ?? null,
    }));
  };
  $("save-csv").addEventListener("click", () => {
    const some = chosen();
    const names = Object.keys(some[0] || { id: "" });
    save("genqual.csv", "text/csv", [names, ...some.map((row) => names.map((n) => row[n]))].map((l) => l.map(safe).join(",")).join("\r\n"));
  });
  $("save-json").addEventListener("click", () => save("genqual.json", "application/json", JSON.stringify(chosen(), null, 1)));

  function update() {
    const ask = asked();
    drawDecision(ask);
    drawRows(ask);
    return drawCharts(ask);
  }

  for (const part of document.querySelectorAll("[data-needs-script]")) part.hidden = false;
  $("ask").addEventListener("input", () => { update(); });
  $("ask").addEventListener("submit", (event) => event.preventDefault());
  $("ask").addEventListener("reset", () => setTimeout(update));
  update();
  startCharts().then(() => { root.dataset.ready = "yes"; });
})();
