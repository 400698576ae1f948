// What a style sheet cannot say: which parts of a page scroll, and what is folded open on paper.

// From a file a browser may not fetch other pages: the results of a search then stand without excerpts.
if (location.protocol === "file:" && typeof DOCUMENTATION_OPTIONS !== "undefined")
  DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;

// A part that scrolls sideways can be reached by keyboard; one that fits is no stop on the way. (Listings and tables
// are seen to by the theme.)
function markScrolling() {
  for (const part of document.querySelectorAll("div.math > mjx-container, .concept-map-frame")) {
    if (part.scrollWidth > part.clientWidth + 1) {
      part.tabIndex = 0;
      if (!part.hasAttribute("role")) part.setAttribute("role", "group");
      if (!part.hasAttribute("aria-label")) part.setAttribute("aria-label", "scrolls sideways");
    } else part.removeAttribute("tabindex");
  }
}

// On paper, answers and code are open and the Chinese summary stays in its place; afterwards all is as it was.
let opened = [];
function unfold() {
  opened = [...document.querySelectorAll("main details:not([open])")];
  for (const box of opened) box.open = true;
}
function fold() {
  for (const box of opened) box.open = false;
  opened = [];
}

addEventListener("DOMContentLoaded", markScrolling);
addEventListener("resize", markScrolling);
addEventListener("beforeprint", unfold);
addEventListener("afterprint", fold);
