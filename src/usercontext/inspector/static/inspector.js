// What the pages gain where scripts run: keys, and new reports that appear by themselves.
// No text of a report is ever made into markup here: pages come ready from the server.
"use strict";

(() => {
  const rows = () => [...document.querySelectorAll("[data-row]")];
  let at = -1;
  let pending = "";

  const mark = (index) => {
    const all = rows();
    if (!all.length) return;
    at = Math.max(0, Math.min(index, all.length - 1));
    all.forEach((row, i) => row.classList.toggle("at", i === at));
    all[at].scrollIntoView({ block: "nearest" });
  };

  const go = (selector) => {
    const link = document.querySelector(selector);
    if (link) link.click();
  };

  const keys = {
    j: () => mark(at + 1),
    k: () => mark(at - 1),
    o: () => open(),
    Enter: () => open(),
    "[": () => go("[data-older]"),
    "]": () => go("[data-newer]"),
    "/": () => document.querySelector(".search input").focus(),
  };

  const open = () => {
    const row = rows()[at];
    if (row) row.querySelector("a.title").click();
  };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.matches("input")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    if (event.key === "Enter" && event.target.matches("a, summary, button")) return;
    if (pending === "g") {
      pending = "";
      if (/^[pur]$/.test(event.key)) go(`nav a[data-key="${event.key}"]`);
      return;
    }
    if (event.key === "g") {
      pending = "g";
      return;
    }
    if (keys[event.key]) {
      event.preventDefault();
      keys[event.key]();
    }
  });

  // Live: the server says that there is more, and the page is asked for once more.
  const parts = () => document.querySelectorAll("[data-live]");
  let busy = false;
  let again = false;

  const refresh = async () => {
    if (busy) {
      again = true;
      return;
    }
    busy = true;
    try {
      const answer = await fetch(location.href, { headers: { accept: "text/html" } });
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      const olds = parts();
      const news = fresh.querySelectorAll("[data-live]");
      if (answer.ok && olds.length === news.length) {
        olds.forEach((old, i) => old.replaceWith(document.adoptNode(news[i])));
        if (at >= 0) mark(at);
      }
      const foot = fresh.querySelector("footer p");
      if (foot) document.querySelector("footer p").replaceWith(document.adoptNode(foot));
    } finally {
      busy = false;
    }
    if (again) {
      again = false;
      setTimeout(refresh, 1000);
    }
  };

  if (window.EventSource) {
    const stream = new EventSource(`/live?after=${document.body.dataset.newest}`);
    const badge = document.getElementById("live");
    stream.onopen = () => { badge.hidden = false; };
    stream.onerror = () => { badge.hidden = true; };
    stream.addEventListener("reports", () => {
      if (!new URLSearchParams(location.search).has("after")) refresh();
    });
  }
})();
