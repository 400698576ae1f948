// How the previews of sphinx-tippy behave: seen on hover and on focus, spoken, typeset, gone on Escape.
(() => {
  const here = document.currentScript.src;

  // A page without equations has no MathJax; a preview of one that has them fetches it, once.
  const mathjax = () => {
    if (!window.MathJax) {
      window.MathJax = { options: { enableMenu: false }, svg: { fontCache: "global" }, startup: { typeset: false } };
      const script = document.createElement("script");
      script.src = new URL("mathjax/tex-svg-full.js", here);
      document.head.append(script);
      window.MathJax.loading = new Promise(done => script.addEventListener("load", done));
    }
    return Promise.resolve(window.MathJax.loading).then(() => window.MathJax.startup.promise);
  };

  const onShow = instance => {
    const raw = [...instance.popper.querySelectorAll(".math")].some(e => !e.querySelector("mjx-container"));
    if (raw) mathjax().then(() => MathJax.typesetPromise([instance.popper])).then(() => instance.popperInstance?.update());
  };

  const onEscape = {
    name: "hideOnEscape",
    defaultValue: true,
    fn: instance => {
      const press = event => event.key === "Escape" && instance.hide();
      return {
        onShow: () => document.addEventListener("keydown", press),
        onHide: () => document.removeEventListener("keydown", press),
      };
    },
  };

  tippy.setDefaultProps({
    appendTo: () => document.body, // not into the paragraph, where a table that scrolls would cut it off
    aria: { content: "describedby", expanded: false },
    touch: ["hold", 400], // a tap follows the link
    plugins: [onEscape],
    onShow,
    onCreate: instance => instance.reference.removeAttribute("title"), // or the browser would show a second one
  });
})();
