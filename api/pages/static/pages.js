// What htmx does not do: hears which parts of a page are out of date, while somebody looks at it.
// A hidden page holds no connection (a browser has few for one service); seen again, it is told what it missed.
(() => {
  const place = document.querySelector("[data-live]");
  if (!place) return;
  const notice = document.getElementById("connection");
  let stream = null;
  const close = () => { if (stream) stream.close(); stream = null; };
  const connect = () => {
    if (stream || document.hidden) return;
    stream = new EventSource(place.dataset.live);
    for (const name of place.dataset.parts.split(" "))
      stream.addEventListener(name, () => htmx.trigger(document.body, "live:" + name));
    stream.onopen = () => { notice.hidden = true; };
    stream.onerror = () => {
      notice.hidden = false;
      if (stream && stream.readyState === EventSource.CLOSED) { close(); setTimeout(connect, 5000); }
    };
  };
  document.addEventListener("visibilitychange", () => document.hidden ? close() : connect());
  addEventListener("pagehide", close);
  addEventListener("pageshow", connect);
})();
