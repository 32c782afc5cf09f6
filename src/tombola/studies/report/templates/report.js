"use strict";
(() => {
  const plots = JSON.parse(document.getElementById("plots").textContent);
  const root = document.documentElement;
  const places = plots.map((_, number) => document.getElementById(`plot-${number}`));
  const NARROW = 520; // pixels, below which names beside lines leave no room for the lines
  const COLUMN = 13; // pixels that the name of a column takes
  const BROAD = 16; // columns of a table in colours that has a row of its own

  const wished = window.matchMedia("(prefers-color-scheme: dark)");
  root.dataset.theme = wished.matches ? "dark" : "light";

  function colours() {
    const style = getComputedStyle(root);
    const [text, line] = ["--text", "--line"].map((name) => style.getPropertyValue(name).trim());
    return { text, line };
  }

  function columnsOf(plot) {
    return plot.data[0].type === "heatmap" ? plot.data[0].z[0].length : 0;
  }

  function namesIn(plot) {
    return plot.data.filter((trace) => trace.showlegend !== false).map((trace) => trace.name);
  }

  function rowsOf(names, width) {
    // As plotly fills the rows of a legend, by about what a name takes.
    let rows = 1;
    let left = width;
    for (const name of names) {
      const taken = 48 + 6.3 * name.length;
      if (taken > left && left < width) {
        rows += 1;
        left = width;
      }
      left -= taken;
    }
    return rows;
  }

  function hasItsLegendAbove(plot, number) {
    // On a narrow screen one legend a figure does for panels of the same finders: it switches all of them.
    const own = namesIn(plot).join("\n");
    return plots.some((other, before) =>
      before < number && places[before].dataset.figure === places[number].dataset.figure && namesIn(other).join("\n") === own);
  }

  function layoutOf(plot, number, width) {
    const { text, line } = colours();
    const layout = structuredClone(plot.layout);
    const axis = { gridcolor: line, linecolor: line, tickcolor: line, fixedrange: width < NARROW };
    Object.assign(layout, { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: true });
    layout.font = { color: text, size: 12 };
    layout.xaxis = { ...layout.xaxis, ...axis };
    layout.yaxis = { ...layout.yaxis, ...axis };
    if (plot.names && width >= NARROW * 0.8) {
      layout.annotations = plot.names.annotations;
      layout.shapes = [...(layout.shapes || []), ...plot.names.shapes];
      layout.margin.r = plot.names.width;
    }
    if (width - 200 < columnsOf(plot) * COLUMN) layout.xaxis.showticklabels = false; // pointing at one tells
    if (width < NARROW && hasItsLegendAbove(plot, number)) layout.showlegend = false;
    if (layout.showlegend) {
      const room = 29 * rowsOf(namesIn(plot), width - layout.margin.l - layout.margin.r) + 10;
      layout.legend = { orientation: "h", x: 0, xanchor: "left", y: -58 / 320, yanchor: "top", maxheight: room + 20, font: { size: 11 } };
      layout.height += room;
      layout.margin.b = 62 + room;
      layout.legend.y = -58 / (layout.height - layout.margin.t - layout.margin.b);
    }
    return layout;
  }

  function hideNames(place, plot) {
    // Names stand where lines end on the whole axes, and not where they end on a part of them.
    if (!plot.names || !place.layout.annotations || !place.layout.annotations.length) return;
    const shapes = place.layout.shapes.filter((shape) => shape.y1 !== undefined && shape.x1 !== 1.025);
    Plotly.relayout(place, { annotations: [], shapes });
  }

  function chosen(element) {
    document.querySelectorAll(".chosen").forEach((old) => old.classList.remove("chosen"));
    element.classList.add("chosen");
  }

  function showRuns(number) {
    const group = document.getElementById(`runs-${number}`);
    if (!group) return;
    group.open = true;
    chosen(group);
    group.scrollIntoView({ block: "center" });
    history.replaceState(null, "", `#runs-${number}`);
  }

  function switchEverywhere(place, event) {
    // A legend switches a finder in all panels of its figure.
    const { name, visible } = event.data[event.curveNumber];
    const next = visible === "legendonly" ? true : "legendonly";
    places.forEach((other, number) => {
      if (other.dataset.figure !== place.dataset.figure) return;
      const group = event.data[event.curveNumber].legendgroup;
      const indices = plots[number].data.flatMap((trace, index) =>
        (group ? trace.legendgroup === group : trace.name === name) ? [index] : []);
      if (indices.length) Plotly.restyle(other, { visible: next }, indices);
    });
    return false;
  }

  function drawOne(place, plot) {
    place.parentElement.querySelector("h3").innerHTML = plot.title;
    place.parentElement.classList.toggle("broad", columnsOf(plot) > BROAD);
    const config = { displaylogo: false, responsive: false, displayModeBar: false };
    const layout = layoutOf(plot, places.indexOf(place), place.clientWidth);
    const done = Plotly.react(place, structuredClone(plot.data), layout, config);
    if (place.dataset.ready) return done;
    place.dataset.ready = "yes";
    place.on("plotly_click", (event) => {
      const cell = event.points[0].customdata;
      if (typeof cell === "number") showRuns(cell);
    });
    place.on("plotly_legendclick", (event) => switchEverywhere(place, event));
    place.on("plotly_relayout", (change) => {
      const keys = Object.keys(change);
      if (keys.some((key) => key.endsWith(".autorange"))) drawOne(place, plot);
      else if (keys.some((key) => /axis\.range/.test(key))) hideNames(place, plot);
    });
    return done;
  }

  let drawings = 0;
  function draw() {
    const own = ++drawings;
    delete root.dataset.drawn;
    // Plotly may leave the last of a drawing for later; one that another has overtaken says nothing.
    Promise.all(places.map((place, number) => drawOne(place, plots[number]))).then(() => {
      if (own === drawings) root.dataset.drawn = String(plots.length);
    });
  }

  document.getElementById("theme").addEventListener("click", () => {
    root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
    draw();
  });
  let before = null;
  window.addEventListener("beforeprint", () => {
    before = root.dataset.theme;
    root.dataset.theme = "light";
    draw();
  });
  window.addEventListener("afterprint", () => {
    root.dataset.theme = before;
    draw();
  });
  let waiting = null;
  let last = window.innerWidth;
  window.addEventListener("resize", () => {
    if (window.innerWidth === last) return; // a phone's address bar comes and goes
    last = window.innerWidth;
    clearTimeout(waiting);
    waiting = setTimeout(draw, 150);
  });
  draw();
})();
