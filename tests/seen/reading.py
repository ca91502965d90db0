"""What a browser is asked about a page: headings, texts beside pictures, contrast, what lies outside of its width."""

from __future__ import annotations

from typing import Any

CONTRAST = """
() => {
  const parse = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = rgb => {
    const linear = v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const [r, g, b] = rgb.slice(0, 3).map(v => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const opaque = rgb => rgb.length >= 3 && (rgb.length < 4 || rgb[3] === 1);
  const behind = element => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (opaque(colour)) return colour;
    }
    return [255, 255, 255];
  };
  const painted = text => {
    text.scrollIntoView({block: "center", inline: "center"});
    const box = text.getBoundingClientRect();
    for (const one of document.elementsFromPoint(box.x + box.width / 2, box.y + box.height / 2)) {
      const style = getComputedStyle(one);
      if (one.tagName === "path" && style.fill !== "none" && style.fillOpacity === "1") return parse(style.fill);
    }
    return behind(text.closest("svg").parentElement);
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, words = walker.currentNode.textContent.trim();
    if (!words || element.closest("style, title, .hidden")) continue;
    const drawn = element.closest("svg") !== null, style = getComputedStyle(element);
    const ink = parse(drawn ? style.fill : style.color), paper = drawn ? painted(element) : behind(element);
    const [low, high] = [light(ink), light(paper)].sort((a, b) => a - b);
    found.push([words.slice(0, 40), (high + 0.05) / (low + 0.05)]);
  }
  return found;
}
"""
HEADINGS = "() => [...document.querySelectorAll('h1,h2,h3,h4')].map(one => [Number(one.tagName[1]), one.textContent])"
PICTURES = """
() => [...document.querySelectorAll("svg[role=img], img")].map(one => {
  const box = one.getBoundingClientRect();
  const parts = one.tagName === "IMG" ? one.naturalWidth : one.querySelectorAll("path, text, image, use").length;
  return {alt: one.getAttribute("aria-label") || one.alt || "", width: box.width, height: box.height, parts};
})
"""
ASIDE = """
() => [...document.querySelectorAll("body *")].filter(one => {
  const box = one.getBoundingClientRect();
  return box.right > innerWidth + 1 && !one.closest(".scroll, pre, .hidden") && box.width > 0;
}).map(one => one.outerHTML.slice(0, 120))
"""
LETTERS = """
() => [...document.querySelectorAll("svg text")].map(one => {
  const svg = one.closest("svg");
  return parseFloat(getComputedStyle(one).fontSize) * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
})
"""


def faint(page: Any, least: float = 4.5) -> list[tuple[str, float]]:
    """Texts that stand out from what is behind them by less than that (WCAG 2.1, 1.4.3)."""
    return [(words, round(ratio, 2)) for words, ratio in page.evaluate(CONTRAST) if ratio < least]


def skipped(page: Any) -> list[str]:
    """Headings that stand more than one level below the one before."""
    found = page.evaluate(HEADINGS)
    levels = [0, *(level for level, _ in found)]
    return [text for (level, text), before in zip(found, levels, strict=False) if level > before + 1]
