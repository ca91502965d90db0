"""What a person who sees badly, or not at all, needs of a page; asked of the browser."""

from __future__ import annotations

from typing import Any

READABLE = 4.5
"""Contrast of text with its ground that WCAG 2 asks for (level AA)."""

_CONTRASTS = """() => {
  const numbers = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, place) => sum + c * [0.2126, 0.7152, 0.0722][place], 0);
  const above = (el) => el.parentElement || (el.getRootNode().host ?? null);
  const ground = (el) => {
    for (let at = el; at; at = above(at)) {
      const found = numbers(getComputedStyle(at).backgroundColor);
      if (found.length === 3 || found[3] === 1) return found;
    }
    return [255, 255, 255];
  };
  const seen = [];
  const visit = (root) => {
    for (const el of root.querySelectorAll("*")) {
      if (el.shadowRoot) visit(el.shadowRoot);
      const style = getComputedStyle(el), box = el.getBoundingClientRect();
      const text = [...el.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data.trim()).join(" ").trim();
      const hidden = style.visibility === "hidden" || box.width <= 1 || box.height <= 1;
      if (!text || hidden || ["STYLE", "SCRIPT", "TITLE"].includes(el.tagName)) continue;
      const [a, b] = [light(numbers(style.color)), light(ground(el))];
      seen.push({ text: text.slice(0, 40), ratio: (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) });
    }
  };
  visit(document);
  return seen;
}"""

_CUT_OFF = """() => {
  const found = [];
  const visit = (root) => {
    for (const el of root.querySelectorAll("*")) {
      if (el.shadowRoot) visit(el.shadowRoot);
      if (el.matches(".scroll") && el.scrollWidth > el.clientWidth) found.push(el.getAttribute("aria-labelledby"));
    }
  };
  visit(document);
  return found;
}"""

_UNNAMED = """() => {
  const found = [];
  const visit = (root) => {
    for (const el of root.querySelectorAll("*")) {
      if (el.shadowRoot) visit(el.shadowRoot);
      const named = el.getAttribute("aria-label") || el.getAttribute("aria-labelledby") || el.getAttribute("alt");
      const needs = el.tagName === "IMG" || ["img", "progressbar", "region"].includes(el.getAttribute("role"));
      if (needs && !named) found.push(el.outerHTML.slice(0, 80));
      if (el.tagName === "TABLE" && !el.querySelector("caption")?.textContent) found.push("a table without a caption");
      if (el.tagName === "TH" && !el.getAttribute("scope")) found.push(el.outerHTML.slice(0, 80));
    }
  };
  visit(document);
  return found;
}"""


def pale(page: Any) -> list[dict[str, Any]]:
    """Texts that cannot be read well against their ground; the page must show some."""
    seen = page.evaluate(_CONTRASTS)
    assert len(seen) > 10, seen
    return [one for one in seen if one["ratio"] < READABLE]


def unnamed(page: Any) -> list[str]:
    """Pictures, bars, regions, tables and heads of tables that a screen reader has no words for."""
    return list(page.evaluate(_UNNAMED))


def too_wide(page: Any) -> float:
    """Pixels the page is wider than its window."""
    return float(page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))


def cut_off(page: Any) -> list[str]:
    """Regions that have to be scrolled sideways."""
    return list(page.evaluate(_CUT_OFF))
