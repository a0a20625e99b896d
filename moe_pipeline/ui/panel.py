"""The base of every view: a `gr.HTML` whose value is a plain dict, drawn by `static/<view>.js`.

A dict travels as a structural difference (some hundred bytes a step) and the script patches what changed, where a
plotly figure would be sent and rebuilt whole. Text that a person typed goes into such a dict only: the scripts
write it through `textContent`, and nothing of it is ever part of a template.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

View = dict[str, Any]


class Panel(gr.HTML):
    """One view.

    Args:
        name: the view's name: `static/<name>.js` registers it.
        value: the first view dict.
        label: what the region is called for assistive technology.
        events: names of events that the script triggers; each becomes a listener method.
        kwargs: for `gr.HTML`; every subclass passes them on, because Gradio makes a component anew from its own
            arguments, without the value, when a handler leaves it unchanged.
    """

    def __init__(
        self, name: str, value: View | None, *, label: str, events: tuple[str, ...] = (), **kwargs: Any
    ) -> None:
        # Gradio finds the events of a script by their quoted names in it.
        listening = " ".join(f"'{event}'" for event in events)
        super().__init__(
            value=value,
            label=label,
            html_template=f'<div class="mv-root mv-{name}" role="region" aria-label="{label}"></div>',
            js_on_load=f"/* {listening} */ MoE.mount('{name}', element, props, trigger, watch);",
            apply_default_css=False,
            **kwargs,
        )

    def get_block_name(self) -> str:
        return "html"

    def api_info(self) -> dict[str, Any]:
        return {"type": "object", "description": "a view of the page"}
