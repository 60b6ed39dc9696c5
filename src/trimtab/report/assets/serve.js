"use strict";
/* What the pages of the server share. Names and messages of runs only ever become text. */
const server = (() => {
  function make(tag, attributes = {}, ...children) {
    const node = tag === "svg" || tag === "path" ? document.createElementNS("http://www.w3.org/2000/svg", tag)
      : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) if (value !== null && value !== undefined) node.setAttribute(name, value);
    node.append(...children.filter(child => child !== null && child !== undefined));
    return node;
  }
  const words = state => String(state).replaceAll("-", " ");
  const address = name => "/run/" + String(name).split("/").map(encodeURIComponent).join("/");
  const count = number => Number(number).toLocaleString("en-US");
  function format(number) {
    if (number === null || number === undefined) return "–";
    const value = Number(number);
    if (!isFinite(value)) return String(number);
    const size = Math.abs(value);
    return size !== 0 && (size < 1e-3 || size >= 1e6) ? value.toExponential(2) : String(Number(value.toPrecision(4)));
  }
  function tellSeconds(seconds) {
    if (seconds < 100) return (seconds < 9.95 ? Number(seconds.toPrecision(2)) : Math.round(seconds)) + " s";
    const minutes = Math.round(seconds / 60), hours = Math.floor(seconds / 3600);
    if (minutes < 120) return minutes + " min";
    if (hours < 48) return Math.floor(minutes / 60) + " h " + minutes % 60 + " min";
    return Math.floor(hours / 24) + " days " + hours % 24 + " h";
  }
  function tellBytes(bytes) {
    const units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let unit = 0;
    while (bytes >= 1024 && unit < 4) { bytes /= 1024; unit += 1; }
    return (bytes < 1000 ? Number(bytes.toPrecision(3)) : Math.round(bytes)) + " " + units[unit];
  }
  /* Events of the server, which the browser asks for again by itself when the line broke. */
  function follow(path, handlers, onLost) {
    const source = new EventSource(path);
    for (const [name, handle] of Object.entries(handlers)) source.addEventListener(name, event => handle(JSON.parse(event.data)));
    source.addEventListener("error", () => onLost(source.readyState === EventSource.CLOSED));
    return source;
  }
  return { make, words, address, count, format, tellSeconds, tellBytes, follow };
})();
