"""What is asked of a page in the browser: scripts, each of which returns what it saw."""

LOOK = """() => {
  const article = document.querySelector('article') || document.body;
  const text = article.cloneNode(true);
  text.querySelectorAll('pre, code, script, style, mjx-container').forEach(e => e.remove());
  const math = [...document.querySelectorAll('span.math, div.math')];
  return {
    equations: math.length,
    unrendered: math.filter(e => !e.querySelector('mjx-container')).map(e => e.textContent.trim().slice(0, 80)),
    broken: [...document.querySelectorAll('mjx-merror, [data-mjx-error], g[data-mml-node="merror"]')]
      .map(e => e.getAttribute('data-mjx-error') || e.textContent.slice(0, 80)),
    raw: (text.textContent.match(/\\$\\$|\\\\\\(|\\\\\\[|\\\\begin\\{/g) || []),
    images: [...document.images].map(e => ({
      source: e.getAttribute('src'), width: e.naturalWidth, alt: e.getAttribute('alt'), article: article.contains(e),
    })),
  };
}"""

# Images may wait to be loaded until they come into view.
LOAD_IMAGES = """() => Promise.all([...document.images].map(image => {
  image.loading = 'eager';
  return image.decode().catch(() => 0);
}))"""

# What sticks out of the article on a phone, unless it stands in something that scrolls by itself.
STICKS_OUT = """() => {
  const width = document.documentElement.clientWidth;
  const inside = e => {
    for (let a = e.parentElement; a; a = a.parentElement) if (getComputedStyle(a).overflowX !== 'visible') return true;
    return false;
  };
  return {
    page: document.documentElement.scrollWidth - width,
    parts: [...document.querySelectorAll('article *')]
      .filter(e => e.getBoundingClientRect().right > width + 1 && e.getBoundingClientRect().width > 0 && !inside(e))
      .map(e => e.outerHTML.slice(0, 120)),
  };
}"""

IMAGES = """() => [...document.querySelectorAll('article img')].map(e => ({
  source: e.getAttribute('src').slice(0, 90), width: e.getAttribute('width'), height: e.getAttribute('height'),
  lazy: e.loading === 'lazy', below: e.getBoundingClientRect().top > 2 * innerHeight}))"""

# The page is no wider than the window; parts that stand beside each other do not cover each other; an equation or a
# listing that is too long scrolls inside itself.
LAYOUT = """() => {
  const width = document.documentElement.clientWidth, found = [];
  const wide = document.documentElement.scrollWidth;
  if (wide > width) found.push(`the page is ${wide} px wide`);
  const article = document.querySelector('article.bd-article');
  if (!article) return found;
  const parts = [...article.querySelectorAll(':scope > section > *, :scope > section > section > *')]
    .filter(e => e.checkVisibility() && e.tagName !== 'SPAN')
    .filter(e => getComputedStyle(e).float === 'none' && getComputedStyle(e).position === 'static');
  for (let i = 1; i < parts.length; i++) {
    const a = parts[i - 1], b = parts[i];
    if (a.parentElement !== b.parentElement) continue;
    const above = a.getBoundingClientRect(), over = above.bottom - b.getBoundingClientRect().top;
    if (over > 1 && above.height) found.push(`${over} px of overlap at ${b.outerHTML.slice(0, 80)}`);
  }
  for (const e of article.querySelectorAll('div.math > mjx-container, div.highlight pre')) {
    const box = e.getBoundingClientRect(), way = getComputedStyle(e).overflowX;
    if (!box.width) continue;
    if (box.right > width + 1) found.push(`sticks out: ${e.outerHTML.slice(0, 80)}`);
    const cut = e.scrollWidth > e.clientWidth + 1 && !['auto', 'scroll'].includes(way);
    if (cut) found.push(`cut: ${e.outerHTML.slice(0, 80)}`);
  }
  return found;
}"""

# Every listing and printed output, folded ones opened: what is longer than its box scrolls, is shaded where it goes on,
# and the box itself lies inside the column.
CUT = """() => {
  for (const box of document.querySelectorAll('article details')) box.open = true;
  const text = document.querySelector('article') || document.body; // the page of results has none
  const column = text.getBoundingClientRect(), found = {cut: [], long: 0, narrow: 1e9};
  for (const e of document.querySelectorAll('article pre')) {
    if (!e.clientWidth) continue;
    const style = getComputedStyle(e), what = e.textContent.slice(0, 60);
    for (let a = e; a && a.tagName !== 'ARTICLE'; a = a.parentElement) {
      const box = a.getBoundingClientRect(), way = getComputedStyle(a).overflowX;
      const out = e.getBoundingClientRect().right > box.right + 1;
      if (a !== e && way !== 'visible' && out) found.cut.push('hidden: ' + what);
    }
    if (e.getBoundingClientRect().right > column.right + 1) found.cut.push('sticks out: ' + what);
    const probe = e.appendChild(document.createElement('span'));
    probe.textContent = '0'.repeat(100);
    const sides = parseFloat(style.paddingLeft) + parseFloat(style.paddingRight);
    const fits = 100 * (e.clientWidth - sides) / probe.getBoundingClientRect().width;
    probe.remove();
    if (e.closest('.cell_input')) found.narrow = Math.min(found.narrow, fits);
    if (e.scrollWidth <= e.clientWidth + 1) continue;
    found.long += 1;
    e.scrollLeft = 1e6;
    if (e.scrollLeft + e.clientWidth < e.scrollWidth - 1) found.cut.push('does not scroll: ' + what);
    if (!/local/.test(style.backgroundAttachment)) found.cut.push('no shaded edge: ' + what);
  }
  return found;
}"""

# Icon fonts have their icons in the private areas of Unicode, and no page loads such a font. A pseudo-element of a
# drawing is never shown.
BOXES = r"""() => {
  const secret = /[\ue000-\uf8ff\u{f0000}-\u{10ffff}]/u, found = [];
  for (const e of document.querySelectorAll('body, body *')) {
    if (e.closest('svg')) continue;
    for (const part of ['::before', '::after', '::marker']) {
      const text = getComputedStyle(e, part).content;
      if (secret.test(text)) found.push(part + ' of ' + e.outerHTML.slice(0, 120));
    }
    for (const c of e.childNodes) if (c.nodeType === 3 && secret.test(c.data)) found.push(c.data.trim());
    if (/\bfa-/.test(e.className) && !e.children.length) found.push('no drawing of ' + e.outerHTML.slice(0, 120));
  }
  return found;
}"""
