"""The dashboard: one file per tab, each a form that becomes a spec, and reports that become figures.

A tab is a module with `build(context)`, called inside its `gr.Tab`. Handlers read, ask and show; what is shown is made
by pure functions, in charts/ and in the files here that do not import gradio.
"""
