"use strict";
(() => {
  const root = document.documentElement;
  const probe = document.getElementById("probe");
  const systemIsDark = matchMedia("(prefers-color-scheme: dark)");
  const canDrag = matchMedia("(pointer: fine)").matches;
  const config = { responsive: true, displayModeBar: false, doubleClick: "reset" };
  const figures = new Map();

  const css = (name) => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  };

  // Fields that hold colours may name a variable of the page ("@ink"), so that one figure serves light and dark.
  const painted = (value, isColor = false) => {
    if (typeof value === "string") return isColor && value[0] === "@" ? css(value.slice(1)) : value;
    if (Array.isArray(value)) return value.map((item) => painted(item, isColor));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, painted(item, /colors?$/.test(key))]));
  };

  // The names of phases above the plot, upright where one of them has too little room to lie.
  const nameBands = (chart, bands, layout) => {
    const [left, right] = layout.xaxis.range;
    const scale = (chart.clientWidth - 70) / (right - left);
    const seen = bands
      .map(([from, to, text]) => ({ text, start: Math.max(from, left), end: Math.min(to, right) }))
      .filter(({ start, end, text }) => text && (end - start) * scale > 14);
    const upright = seen.some(({ start, end, text }) => (end - start) * scale < 7 * text.length);
    if (upright) layout.margin.t = 78;
    layout.annotations.push(
      ...seen.map(({ text, start, end }) => ({
        text,
        x: (start + end) / 2,
        y: 1,
        yref: "paper",
        yanchor: "bottom",
        textangle: upright ? -90 : 0,
        showarrow: false,
        font: { size: 12, color: css("muted") },
      })),
    );
  };

  // The peak's label, moved sideways where it would leave the picture.
  const placePeak = (chart, layout) => {
    const peak = layout.annotations.find((note) => note.name === "peak");
    const [left, right] = layout.xaxis.range;
    const at = 75 + ((peak.x - left) / (right - left)) * (chart.clientWidth - 90);
    const half = 3.6 * Math.max(...peak.text.split("<br>").map((line) => line.length)) + 8;
    peak.ax = Math.min(Math.max(at, half), chart.clientWidth - half) - at;
    peak.visible = left <= peak.x && peak.x <= right;
  };

  const draw = (chart) => {
    const { figure, view } = figures.get(chart);
    const data = painted(figure.data);
    const layout = painted(figure.layout);
    layout.height = figure.height;
    if (figure.bands.length) {
      layout.dragmode = canDrag ? "zoom" : false;
      if (view.range) layout.xaxis.range = view.range;
      nameBands(chart, figure.bands, layout);
      placePeak(chart, layout);
    }
    if (chart.clientWidth < 520) layout.font.size = 11;
    if (view.level !== undefined) data[0].level = view.level;
    return Plotly.react(chart, data, layout, config);
  };

  const drawAll = () => figures.forEach((_, chart) => draw(chart));

  const open = (chart, level) => {
    figures.get(chart).view.level = level;
    draw(chart);
    chart.scrollIntoView({ block: "nearest" });
  };

  const drawn = [...document.querySelectorAll(".chart")].map((chart) => {
    const figure = JSON.parse(chart.nextElementSibling.textContent);
    const view = {};
    figures.set(chart, { figure, view });
    chart.replaceChildren();
    const done = draw(chart);
    chart.on("plotly_relayout", (change) => {
      if (!Object.keys(change).some((key) => key.startsWith("xaxis"))) return;
      view.range = [...chart.layout.xaxis.range];
      draw(chart);
    });
    chart.on("plotly_icicleclick", (event) => {
      view.level = event.nextLevel;
    });
    chart.closest("figure").querySelectorAll("[data-relayout]").forEach((button) => {
      button.addEventListener("click", () => Plotly.relayout(chart, JSON.parse(button.dataset.relayout)));
    });
    return done;
  });

  // A table's names open boxes of the icicle above it.
  const icicles = [...figures.keys()].filter((chart) => figures.get(chart).figure.data[0].type === "icicle");
  document.querySelectorAll("[data-level]").forEach((button) => {
    const isAbove = (chart) => chart.compareDocumentPosition(button) & Node.DOCUMENT_POSITION_FOLLOWING;
    const icicle = icicles.filter(isAbove).at(-1);
    button.addEventListener("click", () => open(icicle, button.dataset.level));
  });

  const theme = document.getElementById("theme");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : systemIsDark.matches);
  const retitle = () => {
    theme.textContent = isDark() ? "Light" : "Dark";
  };
  theme.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    retitle();
    drawAll();
  });
  systemIsDark.addEventListener("change", () => {
    retitle();
    drawAll();
  });
  retitle();

  Promise.all(drawn).then(() => {
    root.dataset.drawn = "";
  });

  let pending;
  addEventListener("resize", () => {
    clearTimeout(pending);
    pending = setTimeout(drawAll, 150);
  });
})();
