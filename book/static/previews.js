// How the previews of sphinx-tippy behave: seen on hover and on focus, spoken, gone on Escape.
(() => {
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
    onCreate: instance => instance.reference.removeAttribute("title"), // or the browser would show a second one
  });
})();
